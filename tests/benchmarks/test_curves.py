"""Kept learning curves: what is read back is what was trained."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

from quadriga.platform import benchmark_report, training
from quadriga.platform.benchmark import TRIALS, find_benchmark, grid
from quadriga.platform.errors import UserError
from quadriga.platform.run_folder import RunFolder

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
TASK = "SafetyPointGoal1-v0"


@pytest.fixture
def curves(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    specification = importlib.util.spec_from_file_location("curves", FOLDER / "curves.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    yield module
    sys.modules.pop("machine", None)


def test_a_kept_trial_has_the_numbers_of_its_run(curves, tmp_path):
    line, benchmark = find_benchmark("safety-gym")
    small = {"rollout": {"batch_size": 2000, "envs_per_runner": 2}, "update": {"minibatch_size": 1000, "epochs": 1}}
    variants = {"pid-lagrangian": {"preset": "pid-lagrangian"}}
    (trial,) = grid(line, benchmark, variants, [TASK], [4], 6000, small)
    training.train(trial.experiment, folder=RunFolder.claim(str(tmp_path / TRIALS), trial.name))
    record = {"variant": trial.variant, "task": TASK, "seed": 4}
    (tmp_path / "trials.json").write_text(json.dumps({trial.name: record}))
    ((trained,), _) = benchmark_report.collect(line, benchmark, str(tmp_path))

    for _ in range(2):  # keeping it again changes nothing
        (path,) = curves.keep([str(tmp_path)])
    (back,) = curves.restore(TASK, curves.read(path), str(tmp_path / "restored"))

    assert (back.variant, back.seed, back.steps) == ("pid-lagrangian", 4, 6000)
    for name, value in trained.measures.items():
        assert math.isclose(back.measures[name], value, rel_tol=1e-4), name
    picture = tmp_path / "curves.png"
    assert "| pid-lagrangian | 6,000 | 1 |" in curves.show(TASK, picture, None)
    assert picture.stat().st_size > 10_000


def test_the_curves_in_the_repository_are_read_and_written_alike(curves, tmp_path):
    files = sorted((FOLDER / "curves").glob("*.csv"))
    assert files
    for file in files:
        curves.write(tmp_path / "again.csv", curves.read(file))
        assert (tmp_path / "again.csv").read_text() == file.read_text()


def test_a_task_of_which_nothing_is_kept_is_refused(curves):
    with pytest.raises(UserError, match=r"'SafetyDoggoGoal1-v0': nothing is kept"):
        curves.show("SafetyDoggoGoal1-v0", None, None)
