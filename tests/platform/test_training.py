"""The training driver, on a line of work whose trainer has real state and real faults."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadriga.platform import training
from quadriga.platform.errors import TrainingInterrupted, TrainingStopped, UserError
from quadriga.platform.experiment import Experiment, build
from quadriga.platform.run_folder import RunFolder, list_runs

pytestmark = pytest.mark.usefixtures("walk_line")


def walk(**fields: Any) -> Experiment:
    return build({"preset": "walk", "steps": 20_000, "checkpoint": {"every_iterations": 5}, **fields})


def rows(run: RunFolder) -> list[dict[str, Any]]:
    """The metrics without the one that a clock makes."""
    return [{name: v for name, v in row.items() if name != "wall_time_s"} for row in run.metrics.read().to_pylist()]


def state(run: RunFolder) -> tuple[int, np.ndarray, np.ndarray, dict[str, Any]]:
    checkpoint = run.checkpoints.latest()
    assert checkpoint is not None
    with checkpoint.local() as folder:
        arrays = np.load(folder / "arrays.npz")
        return checkpoint.step, arrays["x"], arrays["momentum"], json.loads((folder / "state.json").read_text())


def same_state(one: RunFolder, other: RunFolder) -> bool:
    (step, x, momentum, rest), (step2, x2, momentum2, rest2) = state(one), state(other)
    return step == step2 and np.array_equal(x, x2) and np.array_equal(momentum, momentum2) and rest == rest2


def reopened(run: RunFolder) -> RunFolder:
    return RunFolder.open(run.path)


def test_a_run_leaves_experiment_provenance_metrics_and_a_last_checkpoint(tmp_path: Path) -> None:
    run = training.train(walk(seed=7), runs_dir=str(tmp_path), progress="quiet")
    assert run.name == "walk-Bowl-v0-seed7"
    assert reopened(run).experiment() == walk(seed=7)
    assert json.loads(run.read_text("provenance.json"))["seed"] == 7
    assert [row["env_steps"] for row in rows(run)] == [1000 * n for n in range(1, 21)]
    assert [row["iteration"] for row in rows(run)] == list(range(1, 21))
    assert state(run)[0] == 20_000


def test_a_run_that_does_not_end_on_a_checkpoint_iteration_is_saved_at_its_end(tmp_path: Path) -> None:
    run = training.train(walk(steps=6500), runs_dir=str(tmp_path), progress="quiet")
    assert state(run)[0] == 7000


def test_the_second_run_of_one_experiment_gets_its_own_folder(tmp_path: Path) -> None:
    names = [training.train(walk(steps=1000), runs_dir=str(tmp_path), progress="quiet").name for _ in range(2)]
    assert names == ["walk-Bowl-v0-seed0", "walk-Bowl-v0-seed0-2"]


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    whole = training.train(walk(steps=40_000, name="whole"), runs_dir=str(tmp_path), progress="quiet")
    training.train(walk(steps=20_000, name="halves"), runs_dir=str(tmp_path), progress="quiet")
    halves = training.resume("halves", steps=40_000, runs_dir=str(tmp_path), progress="quiet")
    assert same_state(whole, halves)
    assert rows(whole) == rows(reopened(halves))
    assert reopened(halves).experiment().steps == 40_000


def test_wall_time_goes_on_after_a_resume(tmp_path: Path) -> None:
    training.train(walk(name="run"), runs_dir=str(tmp_path), progress="quiet")
    run = reopened(training.resume("run", steps=40_000, runs_dir=str(tmp_path), progress="quiet"))
    times = run.metrics.read().column("wall_time_s").to_pylist()
    assert times == sorted(times)
    assert times[0] > 0


def test_provenance_keeps_the_first_session_and_adds_the_resumed_one(tmp_path: Path) -> None:
    training.train(walk(name="run"), runs_dir=str(tmp_path), progress="quiet")
    before = json.loads((tmp_path / "run" / "provenance.json").read_text())
    training.resume("run", steps=21_000, runs_dir=str(tmp_path), progress="quiet")
    after = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert {key: after[key] for key in before} == before
    assert [session["step"] for session in after["resumed"]] == [20_000]


@pytest.mark.parametrize(("name", "number"), [("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM)])
def test_signal_ends_the_iteration_saves_and_says_how_to_resume(tmp_path: Path, name: str, number: int) -> None:
    experiment = walk(name="run", faults={"interrupt_at": 8, "signal": name})
    with pytest.raises(TrainingInterrupted, match=r"after 8,000 of 20,000 env steps.*train --resume .*run") as stopped:
        training.train(experiment, runs_dir=str(tmp_path), progress="quiet")
    assert stopped.value.signum == number
    run = RunFolder.open("run", str(tmp_path))
    assert state(run)[0] == 8000
    assert rows(run)[-1]["env_steps"] == 8000


def test_interrupted_and_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    whole = training.train(walk(name="whole"), runs_dir=str(tmp_path), progress="quiet")
    with pytest.raises(TrainingInterrupted):
        training.train(walk(name="cut", faults={"interrupt_at": 8}), runs_dir=str(tmp_path), progress="quiet")
    cut = training.resume("cut", runs_dir=str(tmp_path), progress="quiet")
    assert same_state(whole, cut)
    assert rows(whole) == rows(reopened(cut))


def test_second_signal_stops_at_once_and_the_last_checkpoint_stands(tmp_path: Path) -> None:
    experiment = walk(name="run", faults={"interrupt_at": 8, "interrupt_twice": True})
    with pytest.raises(TrainingInterrupted, match="the last checkpoint is that of step 5,000"):
        training.train(experiment, runs_dir=str(tmp_path), progress="quiet")
    assert state(RunFolder.open("run", str(tmp_path)))[0] == 5000


def test_signal_in_the_last_iteration_lets_the_run_finish(tmp_path: Path) -> None:
    run = training.train(walk(faults={"interrupt_at": 20}), runs_dir=str(tmp_path), progress="quiet")
    assert state(run)[0] == 20_000


def test_signal_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    training.train(walk(), runs_dir=str(tmp_path), progress="quiet")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_rows_after_the_checkpoint_are_dropped_and_made_again(tmp_path: Path) -> None:
    whole = training.train(walk(name="whole"), runs_dir=str(tmp_path), progress="quiet")
    with pytest.raises(ZeroDivisionError):
        training.train(walk(name="cut", faults={"defect_at": 8}), runs_dir=str(tmp_path), progress="quiet")
    cut = RunFolder.open("cut", str(tmp_path))
    assert (state(cut)[0], rows(cut)[-1]["env_steps"]) == (5000, 7000)
    mended = cut.read_text("experiment.yaml").replace("defect_at: 8", "defect_at: null")
    cut.write_text("experiment.yaml", mended)
    assert rows(reopened(training.resume("cut", runs_dir=str(tmp_path), progress="quiet"))) == rows(whole)


def test_torn_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = training.train(walk(steps=30_000, name="whole"), runs_dir=str(tmp_path), progress="quiet")
    torn = training.train(walk(name="torn"), runs_dir=str(tmp_path), progress="quiet")
    newest = torn.checkpoints.latest()
    assert newest is not None
    with newest.local() as folder:
        os.truncate(folder / "arrays.npz", 50)
    with caplog.at_level(logging.WARNING, "quadriga"):
        training.resume("torn", steps=30_000, runs_dir=str(tmp_path), progress="quiet")
    assert newest.path in caplog.text
    assert rows(RunFolder.open("torn", str(tmp_path))) == rows(whole)


@pytest.mark.parametrize("fault", ["nan_at", "raise_at"])
def test_training_that_cannot_go_on_names_the_step_and_the_last_good_checkpoint(tmp_path: Path, fault: str) -> None:
    with pytest.raises(
        TrainingStopped, match=r"after 7,000 env steps: .*the last good checkpoint is that of step 5,000"
    ):
        training.train(walk(name="run", faults={fault: 8}), runs_dir=str(tmp_path), progress="quiet")
    run = RunFolder.open("run", str(tmp_path))
    assert state(run)[0] == 5000
    assert rows(run)[-1]["env_steps"] == 7000


def test_training_that_stops_before_the_first_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="no checkpoint was saved before"):
        training.train(walk(faults={"nan_at": 3}), runs_dir=str(tmp_path), progress="quiet")


def test_trainer_is_stopped_whatever_happens(tmp_path: Path, walk_line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    line_module = sys.modules[walk_line.make_trainer.__module__]
    stop = line_module.WalkTrainer.stop
    monkeypatch.setattr(line_module.WalkTrainer, "stop", lambda self: (made.append(self), stop(self)))
    for faults in ({}, {"nan_at": 2}, {"defect_at": 2}, {"interrupt_at": 2}):
        with contextlib.suppress(TrainingStopped, ZeroDivisionError, TrainingInterrupted):
            training.train(walk(faults=faults), runs_dir=str(tmp_path), progress="quiet")
    assert [trainer.stopped for trainer in made] == [1, 1, 1, 1]


def test_trainer_that_cannot_be_made_leaves_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be made"):
        training.train(walk(env={"dim": 2000}), runs_dir=str(tmp_path), progress="quiet")
    assert list(tmp_path.iterdir()) == []


def test_trainer_that_cannot_be_made_leaves_no_run_in_other_storage_either() -> None:
    runs_dir = f"memory://{uuid.uuid4().hex}"
    with pytest.raises(UserError, match="cannot be made"):
        training.train(walk(name="run", env={"dim": 2000}), runs_dir=runs_dir, progress="quiet")
    assert list_runs(runs_dir) == []
    assert RunFolder.create(runs_dir, "run").name == "run"


def test_what_a_line_can_refuse_at_once_is_refused_before_anything_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="unknown environment 'Bowl-v9'; did you mean 'Bowl-v0'"):
        training.train(walk(env={"id": "Bowl-v9"}), runs_dir=str(tmp_path / "runs"), progress="plain")
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "runs").exists()


def test_finished_run_is_not_trained_further_without_more_steps(tmp_path: Path) -> None:
    training.train(walk(name="run"), runs_dir=str(tmp_path), progress="quiet")
    for steps in (None, 20_000, 5000):
        with pytest.raises(UserError, match=r"has done 20,000 of .*--steps 40000"):
            training.resume("run", steps=steps, runs_dir=str(tmp_path), progress="quiet")
    assert RunFolder.open("run", str(tmp_path)).experiment().steps == 20_000


def test_run_without_a_checkpoint_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped):
        training.train(walk(name="run", faults={"nan_at": 3}), runs_dir=str(tmp_path), progress="quiet")
    with pytest.raises(UserError, match="no whole checkpoint"):
        training.resume("run", runs_dir=str(tmp_path), progress="quiet")


def test_unknown_run_cannot_be_resumed(tmp_path: Path) -> None:
    training.train(walk(name="first"), runs_dir=str(tmp_path), progress="quiet")
    with pytest.raises(UserError, match="did you mean 'first'"):
        training.resume("fist", runs_dir=str(tmp_path), progress="quiet")


def test_runs_dir_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot make a run folder in .*file"):
        training.train(walk(), runs_dir=str(tmp_path / "file"), progress="quiet")


def test_full_disk_is_refused_before_training(small_disk: Path) -> None:
    with pytest.raises(UserError, match="No space left on device"):
        training.train(walk(), runs_dir=str(small_disk), progress="quiet")
    assert list(small_disk.iterdir()) == []


def test_run_trains_outside_the_main_thread(tmp_path: Path, walk_package: dict[str, str]) -> None:
    program = (
        "import sys, threading; from quadriga.platform import experiment, training\n"
        "walk = experiment.build({'preset': 'walk', 'steps': 3000, 'name': 'run'})\n"
        "work = threading.Thread(target=lambda: training.train(walk, runs_dir=sys.argv[1], progress='quiet'))\n"
        "work.start(); work.join()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=walk_package, check=True)
    assert state(RunFolder.open("run", str(tmp_path)))[0] == 3000


def test_json_progress_is_one_object_a_line_with_null_for_nan(tmp_path: Path) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        training.train(walk(steps=3000, name="run"), runs_dir=str(tmp_path), progress="json")
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["start", "iteration", "iteration", "iteration", "end"]
    assert lines[0]["run"] == str(tmp_path / "run")
    assert [line["episode_cost_mean"] is None for line in lines[1:4]] == [True, False, False]
    assert [line["env_steps"] for line in lines[1:]] == [1000, 2000, 3000, 3000]


def test_quiet_run_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    training.train(walk(), runs_dir=str(tmp_path), progress="quiet")
    assert capfd.readouterr() == ("", "")


def test_a_run_that_is_being_trained_is_not_trained_by_another_process(
    tmp_path: Path, walk_package: dict[str, str]
) -> None:
    program = (
        "import sys; from quadriga.platform import experiment, training\n"
        "walk = experiment.build({'preset': 'walk', 'steps': 10**9, 'checkpoint': {'every_iterations': 5}})\n"
        "training.train(walk.model_copy(update={'name': 'run'}), runs_dir=sys.argv[1], progress='quiet')"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=walk_package) as other:
        while not any((tmp_path / "run" / "checkpoints").glob("*/MANIFEST.json")):
            assert other.poll() is None
            time.sleep(0.05)
        with pytest.raises(UserError, match=rf"run '.*run' is being trained by process {other.pid} since"):
            training.resume("run", runs_dir=str(tmp_path), progress="quiet")
        other.kill()
    stands = state(RunFolder.open("run", str(tmp_path)))[0]
    run = reopened(training.resume("run", steps=stands + 7000, runs_dir=str(tmp_path), progress="quiet"))
    assert [row["env_steps"] for row in rows(run)] == list(range(1000, stands + 8000, 1000))


@pytest.mark.parametrize("given", ["runs/mine", "elsewhere/mine"])
def test_a_command_that_is_suggested_names_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for runs_dir in ("runs", "elsewhere"):
        training.train(walk(name="mine"), runs_dir=runs_dir, progress="quiet")
    known = {"runs/mine": "mine", "elsewhere/mine": "elsewhere/mine"}[given]
    with pytest.raises(UserError, match=rf"--resume {known} --steps 40000"):
        training.resume(given, progress="quiet")
