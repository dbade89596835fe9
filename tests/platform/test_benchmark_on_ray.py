"""A benchmark's trials whose runs have processes of their own, on a Ray whose nodes have roles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quadriga.platform import occupancy
from quadriga.platform.experiment import load

# One CPU slot short of two trials, and none that belongs to nobody: each actor has to be in its own bundle.
BENCHMARK = """\
import json, sys
import ray
from quadriga.platform import placement, runtime
from quadriga.platform.benchmark import Session, choose_variants, find_benchmark, grid
runtime._bind_to_loopback()
ray.init(address="local", num_cpus=5, resources={"rollouts": 1}, include_dashboard=False, logging_level="critical")
line, found = find_benchmark("exploration")
variants = choose_variants(line, found.suites["control"], ["ppo"])
overrides = {"rollout": {"env_runners": 2, "envs_per_runner": 1, "batch_size": 200}, "update": {"epochs": 1}}
trials = grid(line, found, variants, ["CartPole-v1"], [0, 1], 400, overrides)
failed = Session(sys.argv[1], trials).run(concurrent=2)
print(json.dumps([trial.name for trial in failed]))
"""


@pytest.mark.slow
def test_a_trial_with_runners_of_its_own_trains_and_each_runner_is_where_it_belongs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BENCHMARK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (tmp_path / "trials.json").read_text() if (tmp_path / "trials.json").exists() else done.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [], said
    for seed in (0, 1):
        assert (tmp_path / "trials" / f"ppo-CartPole-v1-seed{seed}" / "checkpoints").is_dir()


def test_the_driver_comes_first_and_each_actor_has_a_bundle(ray_session: None) -> None:
    experiment = load("ppo", {"env": "CartPole-v1", "rollout": {"env_runners": 2}, "learner": {"learners": 1}})
    assert occupancy.bundles(experiment, cpus=2.0, gpus=0.5) == [{"CPU": 2.0, "GPU": 0.5}, *[{"CPU": 1}] * 3]


@pytest.mark.parametrize(
    ("nodes", "room"),
    [
        ([{"CPU": 4}], True),
        ([{"CPU": 2}, {"CPU": 2}], True),
        ([{"CPU": 1}] * 4, False),  # the learner's two slots are on one machine
        ([{"CPU": 3}], False),
        ([{"CPU": 1, "rollouts": 1}, {"CPU": 3}], True),
        ([{"CPU": 2, "rollouts": 1}, {"CPU": 1}, {"CPU": 1}], True),
        ([{"CPU": 4}, {"CPU": 0, "rollouts": 1}], False),
    ],
)
def test_room_is_where_every_bundle_has_a_place_and_there_is_enough_for_all(
    nodes: list[dict[str, float]], room: bool
) -> None:
    assert occupancy.may_fit([{"CPU": 1}, {"CPU": 1, "rollouts": 0.001}, {"CPU": 2}], nodes) is room
