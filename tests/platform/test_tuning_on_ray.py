"""Searches on a local Ray, from the command line: what becomes of trials that fail, and of a search that is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from quadriga.platform import tuning
from quadriga.platform.errors import UserError
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.search import SearchSettings

SCRIPT = Path(sys.executable).with_name("quadriga")
SEARCH = """\
preset: walk
steps: {steps}
checkpoint: {{every_iterations: 2}}
search:
  parameters: {{{parameters}}}
  objective: {{maximize: episode_return_mean, average: 1}}
"""


def start(environment: dict[str, str], folder: Path, parameters: str, steps: int, *more: str) -> subprocess.Popen[str]:
    (folder / "search.yaml").write_text(SEARCH.format(parameters=parameters, steps=steps))
    return subprocess.Popen(
        [str(SCRIPT), "tune", "search.yaml", "--name", "s", *more],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "runs" / "s" / "trials.json").read_text())
    return found


@pytest.mark.slow
def test_a_trial_that_lost_its_workers_is_tried_again_and_one_with_a_nan_is_not(
    walk_package: dict[str, str], tmp_path: Path
) -> None:
    parameters = "faults.lost_at: {grid: [4]}, faults.nan_at: {grid: [null, 3]}"
    with start(walk_package, tmp_path, parameters, 6000) as search:
        out, err = search.communicate()
    assert search.returncode == 0, err
    lost, broken = sorted(trials(tmp_path), key=lambda trial: trial["step"], reverse=True)
    assert (lost["step"], lost["stopped"], lost["error"]) == (6000, None, None)
    run = RunFolder.open(str(tmp_path / "runs" / "s" / "trials" / lost["trial"]))
    assert run.metrics.read().column("env_steps").to_pylist() == list(range(1000, 7000, 1000))
    assert "it goes on from its last checkpoint" in err
    assert "the loss is NaN" in broken["stopped"]
    assert "1 of 2 trials failed; see runs/s/trials.json" in out


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_has_failed(walk_package: dict[str, str], tmp_path: Path) -> None:
    with start(walk_package, tmp_path, "faults.nan_at: {grid: [1, 2]}", 5000, "--quiet") as search:
        _, err = search.communicate()
    assert search.returncode == 2, err
    assert "no trial has a result: 2 of 2 trials failed; see runs/s/trials.json" in err


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_search_that_is_stopped_says_by_which_signal_and_is_run_by_nobody_else(
    walk_package: dict[str, str], walk_line: Any, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    parameters = "learning_rate: {grid: [0.01, 0.02]}"
    with start(walk_package, tmp_path, parameters, 10_000_000, "--json") as search:
        assert search.stdout is not None
        while not any('"step": 4000' in line for line in [search.stdout.readline()]):
            assert search.poll() is None, search.communicate()
        with pytest.raises(UserError, match=rf"search '.*s' is being run by process {search.pid} since"):
            tuning.resume(str(tmp_path / "runs" / "s"), progress="quiet")
        search.send_signal(how)
        _, err = search.communicate()
    assert search.returncode == code, err
    assert "stopped with 0 of 2 trials finished; resume: quadriga tune --resume s" in err


@pytest.mark.usefixtures("ray_session", "walk_line")
def test_a_search_that_never_began_leaves_nothing_in_any_storage() -> None:
    runs_dir = f"memory://{uuid.uuid4().hex}"
    made = SearchSettings.model_validate(
        {"parameters": {"learning_rate": {"grid": [0.1]}}, "objective": {"maximize": "episode_return_mean"}}
    )
    with pytest.raises(UserError, match="progress: expected one of"):
        tuning.tune({"preset": "walk"}, made, name="s", runs_dir=runs_dir, progress="loud")
    with pytest.raises(UserError, match="no search 's'"):
        tuning.find("s", runs_dir)
    assert RunFolder.create(runs_dir, "s").name == "s"
