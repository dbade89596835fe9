"""Examples that users copy run as they stand, at small size."""

import json
import os
import subprocess
import sys

import pytest

from quadriga.platform import experiment as experiments
from quadriga.platform import training
from quadriga.platform.api import load_run
from quadriga.platform.cli import run


@pytest.fixture
def examples(root, tmp_path, monkeypatch):
    """The folder; its modules can be imported, and what is written goes elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(root / "examples"))
    monkeypatch.syspath_prepend(str(root / "examples" / "metalearn"))
    yield root / "examples"
    for name in ("own_environment", "own_tasks"):
        sys.modules.pop(name, None)


def train_own_environment(examples, **fields):
    experiment = experiments.load(str(examples / "own_environment.yaml"), fields)
    training.train(experiment, runs_dir="runs", progress="quiet")
    return load_run(experiment.name).metrics.to_pylist()[-1]


@pytest.mark.usefixtures("ray_session")
def test_the_own_environment_trains_and_its_cost_is_seen(examples):
    last = train_own_environment(examples, steps=6_000)
    assert last["episode_cost_mean"] > 0 and last["lagrange_multiplier"] >= 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_own_environment_shows_what_a_constraint_does(examples):
    constrained = train_own_environment(examples)
    unconstrained = train_own_environment(examples, preset="ppo", constraint={"kind": "none"}, name="unconstrained")
    assert constrained["episode_cost_mean"] < 20 < 100 < unconstrained["episode_cost_mean"]
    assert unconstrained["episode_return_mean"] > constrained["episode_return_mean"] > 150


def test_the_script_trains_two_algorithms_and_calls_a_policy(examples):
    command = [sys.executable, str(examples / "from_python.py"), "--steps", "3072"]
    env = {**os.environ, "PYTHONPATH": str(examples)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300).stdout
    assert "ppo             return" in done and "pid-lagrangian  return" in done
    assert "steps above 30 degrees" in done


def test_the_own_problems_are_judged_right_and_their_canonical_solutions_pass(examples, tmp_path, capsys):
    subprocess.run([sys.executable, str(examples / "codegen" / "own_problems.py")], cwd=tmp_path, check=True)
    options = ["--problems", "own_problems.jsonl", "--k", "1,2", "--timeout", "30", "--json"]
    assert run(["code", "execute", "own_samples.jsonl", *options]) == 0
    assert json.loads(capsys.readouterr().out)["pass_at_k"] == {"1": 0.5, "2": 1.0}
    with open("canonical.jsonl", "w") as file:
        for line in (tmp_path / "own_problems.jsonl").read_text().splitlines():
            problem = json.loads(line)
            sample = {"task_id": problem["task_id"], "completion": problem["canonical_solution"]}
            file.write(json.dumps(sample) + "\n")
    options = ["--problems", "own_problems.jsonl", "--k", "1", "--timeout", "30", "--json"]
    assert run(["code", "execute", "canonical.jsonl", *options]) == 0
    assert json.loads(capsys.readouterr().out)["pass_at_k"] == {"1": 1.0}


def test_the_own_task_distribution_learns(examples):
    experiment = experiments.load(str(examples / "metalearn" / "own_tasks.yaml"), {"steps": 300, "report_every": 150})
    training.train(experiment, runs_dir="runs", progress="quiet")
    last = load_run("own-tasks").metrics.to_pylist()[-1]
    assert last["query_loss"] < last["query_loss_before"]
