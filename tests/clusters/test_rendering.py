"""Templates: valid by the schemas of those who read them, for every value, and true to what placement promises."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from quadriga.clusters import rendering, shipment
from quadriga.platform.errors import UserError

LAUNCHER = ("aws", "gcp", "azure", "on-premise")
OTHER = {"name": "other", "image": "registry.example.com/team/quadriga:1.0"}


def strict(schema: Any) -> Any:
    """A copy of a Kubernetes schema that refuses fields it does not know, as `kubectl apply --validate` does."""
    schema = copy.deepcopy(schema)

    def close(node: Any) -> None:
        if isinstance(node, dict):
            known = isinstance(node.get("properties"), dict) and "type" in node
            if known and not node.get("x-kubernetes-preserve-unknown-fields"):
                node.setdefault("additionalProperties", False)
            if node.get("x-kubernetes-int-or-string"):
                node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
                node.pop("pattern", None)
            node.pop("format", None)
            for value in node.values():
                close(value)
        elif isinstance(node, list):
            for value in node:
                close(value)

    close(schema)
    return schema


@pytest.mark.parametrize("kind", LAUNCHER)
def test_launcher_files_are_valid_by_ray_s_schema(kind: str) -> None:
    from ray.autoscaler._private import util

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    values = {name: value for name, value in OTHER.items() if name in rendering.KINDS[kind].values}
    for given in ({}, values):
        config = yaml.safe_load(rendering.render(kind, given))
        jsonschema.validate(config, schema)
        prepared = util.prepare_config(copy.deepcopy(config))
        util.validate_config(prepared)
        assert all("RAY_AUTH_MODE=token" in command for command in config["worker_start_ray_commands"][1:])
        assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])
        assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("kind", LAUNCHER[:3])
def test_clouds_have_a_group_for_each_role_and_none_on_the_head(kind: str) -> None:
    types = yaml.safe_load(rendering.render(kind, {"rollout_nodes": "20"}))["available_node_types"]
    assert types["rollouts"]["max_workers"] == 20
    assert types["head"]["resources"] == {}
    for role in ("rollouts", "learners", "sandbox"):
        assert types[role]["resources"] == {role: 1}
        assert types[role]["labels"] == {f"quadriga.{role}": "true"}


@pytest.mark.parametrize("kind", LAUNCHER)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_start_commands_are_valid_shell(kind: str) -> None:
    config = yaml.safe_load(rendering.render(kind))
    for command in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_on_premise_machines_take_the_roles_that_their_addresses_say(tmp_path: Path) -> None:
    values = {"worker_ips": "10.0.0.2, 10.0.0.3, 10.0.0.4", "learner_ips": "10.0.0.3", "sandbox_ips": "10.0.0.4"}
    config = yaml.safe_load(rendering.render("on-premise", values))
    assert config["provider"]["worker_ips"] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert config["max_workers"] == 3
    (tmp_path / "ray").write_text('#!/bin/sh\nfor a in "$@"; do echo "$a"; done\n')
    (tmp_path / "hostname").write_text("#!/bin/sh\necho $ADDRESS 172.17.0.1\n")
    for name in ("ray", "hostname"):
        (tmp_path / name).chmod(0o755)
    for address, role in (("10.0.0.2", "rollouts"), ("10.0.0.3", "learners"), ("10.0.0.4", "sandbox")):
        done = subprocess.run(
            ["bash", "-euc", config["worker_start_ray_commands"][1]],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "ADDRESS": address, "RAY_HEAD_IP": "10.0.0.1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f'--resources={{"{role}": 1}}' in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("kind", "definition"), [("kuberay-cluster", "ray.io_rayclusters.yaml"), ("kuberay-job", "ray.io_rayjobs.yaml")]
)
def test_kuberay_files_are_valid_by_its_resource_definitions(kind: str, definition: str, shared_data: Path) -> None:
    file = shared_data / "kuberay" / definition
    if not file.is_file():
        pytest.skip(f"no resource definitions of KubeRay in {shared_data}")
    versions = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"]  # a megabyte: the C loader
    schema = strict(next(each for each in versions if each["name"] == "v1")["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    dialect = jsonschema.validators.validator_for(schema)
    dialect.check_schema(schema)
    validator = dialect(schema)
    for given in ({}, OTHER):
        document = yaml.safe_load(rendering.render(kind, given))
        validator.validate(document)
        document["spec"]["rayVersionn"] = "x"
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(document)


@pytest.mark.parametrize("kind", ["kuberay-cluster", "kuberay-job"])
def test_pods_have_their_roles_and_untrusted_code_its_own_nodes(kind: str) -> None:
    document = yaml.safe_load(rendering.render(kind))["spec"]
    spec = document.get("rayClusterSpec", document)
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"rollouts", "learners", "sandbox"}
    for role, group in groups.items():
        # KubeRay puts the value on a shell's command line.
        assert json.loads(group["rayStartParams"]["resources"].strip('"').replace('\\"', '"')) == {role: 1}
        container = group["template"]["spec"]["containers"][0]
        gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        assert gpus == (role == "learners")
        assert {"name": "QUADRIGA_PLACEMENT", "value": "strict"} in container["env"]
        selector = group["template"]["spec"].get("nodeSelector")
        assert (selector == {"quadriga.untrusted": "true"}) == (role == "sandbox")
    assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"] is True


def test_slurm_script_passes_shellcheck_and_names_what_it_was_given(tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    rendering.write(rendering.render("slurm", {"nodes": "4", "gpus_per_node": "2"}), script)
    text = script.read_text()
    assert "#SBATCH --nodes=4" in text and "gpus=2" in text and os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    program = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("no shellcheck; it comes with requirements/dev.txt")
    done = subprocess.run([program, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_image_copies_only_what_is_there(root: Path) -> None:
    text = rendering.render("docker")
    for source in re.findall(r"requirements/[\w.-]+\.txt", text):
        assert (root / source).is_file()
    assert "FROM python:3.11-slim" in text


@pytest.mark.parametrize("kind", rendering.KINDS)
def test_every_value_is_used_and_none_is_left(kind: str) -> None:
    text = rendering.render(kind)
    assert not re.findall(r"@\{?\w+\}", text)
    source = Path(rendering.__file__).parent / "templates" / rendering.KINDS[kind].file
    used = set(re.findall(r"@\{(\w+)\}", source.read_text()))
    derived = {"environment", "environment_list", "ray_version", "worker_count"}
    assert used - derived == set(rendering.KINDS[kind].values) - {"image"} | (used & {"image"})


def test_values_that_are_unknown_or_could_break_out_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'region'"):
        rendering.render("aws", {"regin": "x"})
    with pytest.raises(UserError, match="expected letters"):
        rendering.render("slurm", {"name": "$(reboot)"})
    with pytest.raises(UserError, match="unknown kind of cluster"):
        rendering.render("ec2")


@pytest.mark.parametrize("kind", LAUNCHER[:3])
def test_all_groups_may_grow_to_their_sizes_at_once_unless_it_is_said_otherwise(kind: str) -> None:
    assert yaml.safe_load(rendering.render(kind))["max_workers"] == 12
    assert yaml.safe_load(rendering.render(kind, {"rollout_nodes": "20"}))["max_workers"] == 24
    given = {"rollout_nodes": "20", "max_nodes": "10"}
    assert yaml.safe_load(rendering.render(kind, given))["max_workers"] == 10
    with pytest.raises(UserError, match="--set sandbox_nodes=few: expected a number of nodes"):
        rendering.render(kind, {"sandbox_nodes": "few"})


def test_the_image_s_environment_is_that_of_the_other_kinds() -> None:
    text = rendering.render("docker")
    for name, value in rendering.ENVIRONMENT.items():
        assert f"{name}={value}" in text, name


def test_a_job_on_kubernetes_finds_its_experiment_on_the_head_where_it_runs() -> None:
    text = rendering.render("kuberay-job", {"name": "mine", "experiment": "examples/careful.yaml"})
    spec = yaml.safe_load(text)["spec"]
    assert "kubectl create configmap mine-experiment --from-file=experiment.yaml=examples/careful.yaml" in text
    pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "experiment", "configMap": {"name": "mine-experiment"}}]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount["name"] == "experiment"
    assert spec["entrypoint"].split()[:3] == ["quadriga", "train", f"{mount['mountPath']}/experiment.yaml"]
    assert not {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & set(spec)


STUBS = {
    "scontrol": "echo here",
    "hostname": "echo 127.0.0.1",
    "ray": "exit 0",
    "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"',
    # Trains until it is told to end; its last iteration and its checkpoint take a while.
    "quadriga": 'trap "sleep 2; touch checkpoint; exit 7" TERM\ntouch training\nwhile true; do sleep 0.1; done',
}


def test_slurm_script_outlives_the_training_that_it_stops_and_ends_as_it_does(tmp_path: Path) -> None:
    programs, folder = tmp_path / "bin", tmp_path / "submitted"
    programs.mkdir()
    folder.mkdir()
    for name, text in STUBS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    rendering.write(rendering.render("slurm"), tmp_path / "job.sh")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_CPUS_PER_TASK": "2",
    }
    with subprocess.Popen(["bash", str(tmp_path / "job.sh")], cwd=folder, env=environment) as script:
        while not (folder / "training").exists():
            assert script.poll() is None
            time.sleep(0.05)
        assert (folder / ".quadriga-17" / "token").exists()
        script.terminate()
        assert script.wait() == 7
    assert (folder / "checkpoint").exists()
    assert not (folder / ".quadriga-17").exists()


def test_what_an_image_does_without_is_no_file_of_the_checkout(root: Path) -> None:
    ignored = (root / ".dockerignore").read_text().splitlines()
    assert {f"**/{name}" for name in shipment.LEFT_BEHIND} <= set(ignored)
    git = ["git", "-C", str(root), "ls-files", "--cached", "--ignored", f"--exclude-from={root / '.dockerignore'}"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert listed.stdout == ""
