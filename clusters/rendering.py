"""Ready files for clusters that are not local: Ray's cluster launcher, KubeRay, Slurm and a container image.

A template is the file itself with `@{name}` where a value goes. What the values mean and their defaults
are here; that the results are valid is a test, against Ray's and KubeRay's own schemas.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quadriga.clusters.local import QUEUE_S, STOP_WAIT_S
from quadriga.platform.errors import UserError, unknown

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
    "RAY_JOB_START_TIMEOUT_SECONDS": str(QUEUE_S),
    "OMP_NUM_THREADS": "1",
    # Nodes of a role may be yet to come: actors ask for them in any case.
    "QUADRIGA_PLACEMENT": "strict",
}
TEMPLATES = Path(__file__).parent / "templates"
VALUE = re.compile(r"[\w.,:/@ +~-]+")

_COMMON = {"name": "quadriga", "image": "quadriga:latest"}
_GROUPS = {"rollout_nodes": "8", "learner_nodes": "2", "sandbox_nodes": "2"}
# Of all groups together: the sum, unless it is given.
_SIZES = {**_GROUPS, "max_nodes": "12", "idle_minutes": "5"}
COUNTS = {*_GROUPS, "max_nodes"}


@dataclass(frozen=True)
class Kind:
    """A kind of cluster: its file, what it is, and its values with their defaults."""

    file: str
    summary: str
    values: Mapping[str, str]


KINDS = {
    "aws": Kind(
        "aws.yaml",
        "Ray's cluster launcher on AWS",
        {**_COMMON, **_SIZES, "region": "us-west-2", "cpu_machine": "c6i.4xlarge", "gpu_machine": "g5.xlarge"},
    ),
    "gcp": Kind(
        "gcp.yaml",
        "Ray's cluster launcher on Google Cloud",
        {
            **_COMMON,
            **_SIZES,
            "project": "my-project",
            "region": "us-west1",
            "zone": "us-west1-b",
            "cpu_machine": "n2-standard-16",
            "gpu_machine": "n1-standard-8",
            "accelerator": "nvidia-tesla-t4",
            "disk_image": "projects/deeplearning-platform-release/global/images/family/common-cpu",
        },
    ),
    "azure": Kind(
        "azure.yaml",
        "Ray's cluster launcher on Azure",
        {
            **_COMMON,
            **_SIZES,
            "region": "westus2",
            "resource_group": "quadriga",
            "cpu_machine": "Standard_F16s_v2",
            "gpu_machine": "Standard_NC4as_T4_v3",
        },
    ),
    "on-premise": Kind(
        "on-premise.yaml",
        "Ray's cluster launcher on machines of your own",
        {
            **_COMMON,
            "head_ip": "192.0.2.1",
            "worker_ips": "192.0.2.2, 192.0.2.3, 192.0.2.4",
            "learner_ips": "192.0.2.3",
            "sandbox_ips": "192.0.2.4",
            "ssh_user": "ubuntu",
        },
    ),
    "kuberay-cluster": Kind(
        "kuberay-cluster.yaml",
        "a RayCluster on Kubernetes",
        {
            **_COMMON,
            **_GROUPS,
            "pod_cpus": "8",
            "pod_memory": "16Gi",
        },
    ),
    "kuberay-job": Kind(
        "kuberay-job.yaml",
        "a RayJob on Kubernetes, with a cluster of its own",
        {
            **_COMMON,
            **_GROUPS,
            "pod_cpus": "8",
            "pod_memory": "16Gi",
            "experiment": "experiment.yaml",
            "runs_dir": "s3://my-bucket/runs",
        },
    ),
    "slurm": Kind(
        "slurm.sh",
        "a batch script for Slurm",
        {
            "name": "quadriga",
            "nodes": "2",
            "cpus_per_node": "16",
            "gpus_per_node": "0",
            "time_limit": "24:00:00",
            "experiment": "experiment.yaml",
            "runs_dir": "runs",
        },
    ),
    "docker": Kind("Dockerfile", "an image with Quadriga for the nodes of a cluster", {"python_version": "3.11"}),
}


class _Template(string.Template):
    """Shell scripts use `$` themselves."""

    delimiter = "@"


def render(kind: str, given: Mapping[str, str] | None = None) -> str:
    """The file of a kind with `given` values over its defaults.

    Raises:
        UserError: no such kind or value, or a value that would change the file's meaning.
    """
    if kind not in KINDS:
        raise unknown("kind of cluster", kind, KINDS)
    chosen, given = KINDS[kind], given or {}
    for name, value in given.items():
        if name not in chosen.values:
            raise unknown("value", name, chosen.values)
        if not VALUE.fullmatch(value):
            raise UserError(f"--set {name}={value}: expected letters, digits, spaces and . , : / @ _ + ~ -")
        if name in COUNTS and not value.isdecimal():
            raise UserError(f"--set {name}={value}: expected a number of nodes")
    values = {**chosen.values, **given}
    if "max_nodes" in values and "max_nodes" not in given:
        values["max_nodes"] = str(sum(int(values[group]) for group in _GROUPS))
    values |= {
        "environment": " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items()),
        "environment_list": _environment_list(kind == "kuberay-job"),
        "ray_version": importlib.metadata.version("ray"),
        "worker_count": str(len(values.get("worker_ips", "").split(","))),
        "learner_ips": " ".join(values.get("learner_ips", "").replace(",", " ").split()),
        "sandbox_ips": " ".join(values.get("sandbox_ips", "").replace(",", " ").split()),
    }
    text = (TEMPLATES / chosen.file).read_text(encoding="utf-8")
    return _Template(text).substitute(values)


def write(text: str, target: Path) -> None:
    """Writes a rendered file; a script can be run.

    Raises:
        UserError: it cannot be written.
    """
    try:
        target.write_text(text, encoding="utf-8")
        if text.startswith("#!"):
            target.chmod(0o755)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None


def _environment_list(inner: bool) -> str:
    indent = " " * (16 if inner else 14)
    # KubeRay itself sets how the token is asked for.
    pairs = [(name, value) for name, value in ENVIRONMENT.items() if name != "RAY_AUTH_MODE"]
    return "\n".join(f"{indent}- {{name: {name}, value: {json.dumps(value)}}}" for name, value in pairs)
