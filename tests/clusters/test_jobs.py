"""Jobs: submitted, followed, stopped, and what their end says to a script."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from quadriga.clusters.jobs import Job, JobServer, Needs, as_json, describe
from quadriga.clusters.local import LocalCluster
from quadriga.clusters.submission import Request, submit
from quadriga.platform.errors import UserError
from quadriga.platform.run_folder import RunFolder

CARTPOLE = """\
preset: ppo
env: CartPole-v1
steps: 2000
rollout: {env_runners: 2, envs_per_runner: 2, batch_size: 1000}
update: {epochs: 2}
"""
SINE = """\
preset: sine
steps: 20
report_every: 10
task: {kind: sine, hidden: [8]}
evaluation: {tasks: 3}
compute: {workers: 2}
"""
LONG = "preset: ppo\nenv: CartPole-v1\nsteps: 100_000_000\nrollout: {envs_per_runner: 2, batch_size: 1000}\n"


def job(state: str, code: int | None = None) -> Job:
    return Job("x", state, "true", "", code, 0, None, {})


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 7, 7), ("FAILED", None, 1), ("FAILED", -signal.SIGKILL, 137),
     ("STOPPED", None, 143), ("RUNNING", None, 3), ("PENDING", None, 3)],
)  # fmt: skip
def test_state_of_a_job_as_an_exit_code(state: str, code: int | None, expected: int) -> None:
    assert job(state, code).script_code() == expected


def test_the_time_of_a_job_counts_from_its_submission_to_its_end() -> None:
    done = Job("x", "SUCCEEDED", "true", "", 0, 1_000, 61_000, {})
    assert as_json(done)["seconds_from_submission"] == 60
    assert describe(done)[:3] == ["x", "succeeded", "60 s"]


def test_no_cluster_and_no_answer_are_errors_for_people(state_folder: Path) -> None:
    with pytest.raises(UserError, match="no local cluster is up"):
        JobServer()
    with pytest.raises(UserError, match=r"no cluster answers at http://127\.0\.0\.1:1"):
        JobServer("http://127.0.0.1:1")
    with pytest.raises(UserError, match="expected http://host:port"):
        JobServer("ray://127.0.0.1:1")


def test_a_remote_cluster_needs_a_folder_that_it_can_write(tmp_path: Path) -> None:
    class Remote:
        is_local = False

    (tmp_path / "a.yaml").write_text(CARTPOLE)
    with pytest.raises(UserError, match="--runs-dir: give a URI"):
        submit(Remote(), Request([str(tmp_path / "a.yaml")]))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="go with an experiment file"):
        submit(Remote(), Request(["true"], runs_dir="s3://x/y"))  # type: ignore[arg-type]


def without_times(run: Path) -> dict[str, list[object]]:
    columns = pq.read_table(run / "metrics.parquet").to_pydict()
    return {
        name: values
        for name, values in columns.items()
        if not name.startswith(("time_", "wall_")) and "per_second" not in name
    }


@pytest.mark.slow
@pytest.mark.parametrize(("text", "fewer"), [(CARTPOLE, None), (SINE, "compute.workers=0")], ids=["ppo", "sine"])
def test_the_same_file_gives_the_same_numbers_here_on_a_cluster_and_as_a_job(
    text: str, fewer: str | None, cluster: LocalCluster, quadriga, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(text)
    here = ["--set", fewer] if fewer else []
    job = f"job-{text.split()[1]}"  # the cluster's jobs bear different names
    ways = {
        "here": quadriga("train", "x.yaml", "--name", "here", "--address", "local", *here),
        "cluster": quadriga("train", "x.yaml", "--name", "cluster", "--address", cluster.address),
        job: quadriga("submit", "x.yaml", "--name", job, "--address", "tests"),
    }
    for name, done in ways.items():
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    assert f"Ray cluster at {cluster.address}, 3 CPU slots" in ways["cluster"].stdout
    assert f"Ray cluster at {cluster.address}, 3 CPU slots" in ways[job].stdout
    expected = without_times(tmp_path / "runs" / "here")
    for name in ("cluster", job):
        assert without_times(tmp_path / "runs" / name) == expected, name
    listed = list(map(json.loads, quadriga("jobs", "list", "--json").stdout.splitlines()))
    entry = next(each for each in listed if each["metadata"].get("run") == str(tmp_path / "runs" / job))
    assert entry["state"] == "SUCCEEDED" and entry["exit_code"] == 0
    assert entry["metadata"]["experiment"] == job
    assert (entry["metadata"]["algorithm"], entry["metadata"]["environment"]) in (
        ("ppo", "CartPole-v1"),
        ("sine", "sine"),
    )


@pytest.mark.slow
def test_commands_output_and_exit_code_arrive(cluster: LocalCluster, quadriga, tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text("import os, sys; print(os.environ['WHO'], 'was here'); sys.exit(5)")
    done = quadriga("submit", "--env", "WHO=nobody", "--address", "tests", "--", "python", "say.py")
    assert done.returncode == 5
    assert "nobody was here" in done.stdout
    assert "failed" in done.stderr
    (id,) = [words[0] for line in quadriga("jobs", "list").stdout.splitlines() if (words := line.split())[0] == "say"]
    status = quadriga("jobs", "status", id)
    assert status.returncode == 5 and "failed" in status.stdout
    assert "nobody was here" in quadriga("jobs", "logs", id).stdout
    assert quadriga("jobs", "logs", "nothing").returncode == 2


@pytest.mark.slow
def test_a_run_is_named_as_its_job_where_others_have_that_name(cluster: LocalCluster, quadriga, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(LONG.replace("100_000_000", "1000"))
    server, folders = JobServer("tests"), ("here", "there", "there")
    submitted = [
        quadriga("submit", "x.yaml", "--no-wait", "--json", "--name", "twin", "--runs-dir", runs, "--address", "tests")
        for runs in folders
    ]
    ids = [json.loads(each.stdout)["id"] for each in submitted]
    assert ids == ["twin", "twin-2", "twin-3"]
    assert [server.wait(id).metadata["experiment"] for id in ids] == ids
    assert all((tmp_path / runs / id / "metrics.parquet").exists() for runs, id in zip(folders, ids, strict=True))


@pytest.mark.parametrize(
    ("needs", "asked"),
    [(Needs(slots=2), {"actor_slots": 2}), (Needs(), {"actor_slots": 0.001}), (Needs(slots=0), {"actor_slots": 0.001}),
     (Needs(gpus=1, slots=2), {}), (Needs(resources={"big": 1}, slots=2), {"big": 1})],
)  # fmt: skip
def test_a_driver_without_a_place_of_its_own_asks_for_room_for_its_actors(
    needs: Needs, asked: dict[str, float]
) -> None:
    assert needs.admission() == asked


@pytest.mark.slow
def test_jobs_that_fill_the_cluster_run_one_after_the_other(cluster: LocalCluster, quadriga, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(CARTPOLE)  # a driver and two runners, which is all that the cluster has
    server = JobServer("tests")
    assert server.actor_slots() == 2
    refused = quadriga("submit", "x.yaml", "--set", "rollout.env_runners=3", "--address", "tests")
    assert refused.returncode == 2 and "occupy 3 CPU slots at once" in refused.stderr
    before = [
        quadriga("submit", "x.yaml", "--no-wait", "--json", "--name", "queued", "--address", "tests") for _ in range(2)
    ]
    last = quadriga("submit", "x.yaml", "--name", "queued", "--address", "tests")
    assert last.returncode == 0, last.stderr
    assert "waits until the cluster has room for it" in last.stderr
    assert [server.wait(json.loads(each.stdout)["id"]).state for each in before] == ["SUCCEEDED", "SUCCEEDED"]


@pytest.mark.slow
def test_a_job_that_waits_is_stopped_at_once_and_never_begins(cluster: LocalCluster, quadriga, tmp_path: Path) -> None:
    server = JobServer("tests")

    def submitted() -> str:
        done = quadriga("submit", "--no-wait", "--json", "--slots", "2", "--address", "tests", "--", "sleep", "600")
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["id"])

    first, second = submitted(), submitted()
    try:
        while server.find(first).state == "PENDING":
            server.wait(first, 0.5)
        stopped = quadriga("jobs", "stop", second, "--address", "tests")
        assert stopped.stdout == f"job {second}: stopped\n", stopped.stderr
        assert server.find(first).state == "RUNNING"
        assert quadriga("jobs", "status", second, "--address", "tests").returncode == 143
        assert quadriga("jobs", "logs", second, "--address", "tests", "--follow").returncode == 143
        assert "Running entrypoint" not in server.logs(second)
        assert not [job.id for job in server.list() if job.id.startswith("withdrawal")]
    finally:
        server.stop(first)
    assert server.wait(first).state == "STOPPED"
    last = quadriga("submit", "--slots", "2", "--address", "tests", "--", "true")
    assert last.returncode == 0, last.stderr


@pytest.mark.slow
def test_a_stopped_job_has_saved_a_checkpoint(cluster: LocalCluster, quadriga, tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    submitted = quadriga("submit", "long.yaml", "--no-wait", "--json", "--address", "tests")
    assert submitted.returncode == 0, submitted.stderr
    id = json.loads(submitted.stdout)["id"]
    run = tmp_path / "runs" / id
    server = JobServer("tests")
    while not (run / "metrics.parquet").exists():
        assert not server.wait(id, 1.0).ended, server.logs(id)
    assert quadriga("jobs", "status", id).returncode == 3
    assert quadriga("jobs", "stop", id).stdout == f"job {id}: stopped\n"
    assert quadriga("jobs", "status", id).returncode == 143
    assert "a checkpoint is saved" in server.logs(id)
    checkpoint = RunFolder.open(str(run)).checkpoints.latest()
    assert checkpoint is not None
    assert checkpoint.step == pq.read_table(run / "metrics.parquet").column("env_steps")[-1].as_py()
    done = quadriga("train", "--resume", str(run), "--steps", str(checkpoint.step + 1000))
    assert done.returncode == 0, done.stderr
    provenance = json.loads((run / "provenance.json").read_text())
    assert set(provenance["git"]) == {"commit", "dirty"}
