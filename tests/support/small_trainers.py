"""Trainers of quick experiments on real Ray, and what to compare of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quadriga.platform.experiment import build, merged
from quadriga.policies.experiment import RLExperiment
from quadriga.policies.trainer import RLTrainer

TIMINGS = {"time_sampling_s", "time_learning_s", "env_steps_per_second"}

SMALL: dict[str, Any] = {
    "preset": "pid-lagrangian",
    "seed": 3,
    "steps": 4000,
    "env": {"id": "faulty_environments:Ramp-v0"},
    "rollout": {"batch_size": 400, "envs_per_runner": 4},
    "network": {"hidden_sizes": [16]},
    "update": {"epochs": 3, "minibatch_size": 64},
    "constraint": {"cost_limit": 4.0},
}

TRPO_PID: dict[str, Any] = {"preset": "trpo-pid", "update": {"kind": "trpo", "critic_minibatch_size": 64}}
CPO: dict[str, Any] = {"preset": "cpo", "update": {"kind": "cpo", "critic_minibatch_size": 64}}
SAFE_SURPRISAL: dict[str, Any] = {"preset": "safe-surprisal", "bonus": {"dynamics": {"batch_size": 300}}}
# Of 133 steps of each environment: episodes of ten begin and end inside and across sequences, and across rollouts.
LSTM: dict[str, Any] = {"network": {"kind": "lstm", "hidden_sizes": [8], "units": 8, "sequence_length": 19}}
LEARNING_PROGRESS: dict[str, Any] = {
    "preset": "learning-progress",
    "update": {"kind": "trpo"},
    "constraint": {"kind": "none"},
    "bonus": {"kind": "learning-progress", "k": 2, "critic": "own", "episodic": False},
}
VIME: dict[str, Any] = {
    "preset": "vime",
    "update": {"kind": "trpo"},
    "constraint": {"kind": "none"},
    "bonus": {"dynamics": {"updates": 3}},
}


def experiment(**changes: Any) -> RLExperiment:
    result = build(merged(SMALL, changes))
    assert isinstance(result, RLExperiment)
    return result


class Trainers:
    """Makes trainers and ends them with the test."""

    def __init__(self) -> None:
        self.made: list[RLTrainer] = []

    def __call__(self, **changes: Any) -> RLTrainer:
        return self.add(RLTrainer(experiment(**changes)))

    def add(self, trainer: RLTrainer) -> RLTrainer:
        self.made.append(trainer)
        return trainer


def assert_resumes_identically(
    make_trainer: Trainers,
    folder: Path,
    changes: Mapping[str, Any],
    *,
    iterations: int,
    saved_after: int,
    first: Mapping[str, Any] | None = None,
) -> None:
    """A run of `iterations` equals one that was stopped after `saved_after` of them and went on from `folder`.

    `first`: changes of the run that was stopped, if they are others.
    """
    whole = make_trainer(**changes)
    for _ in range(iterations):
        expected_row = whole.train_iteration()
    part = make_trainer(**(first or changes))
    for _ in range(saved_after):
        part.train_iteration()
    part.save(folder)
    part.stop()
    resumed = make_trainer(**changes)
    resumed.restore(folder)
    for _ in range(iterations - saved_after):
        row = resumed.train_iteration()
    assert_identical(everything(resumed), everything(whole))
    assert_identical(
        *({name: value for name, value in each.items() if name not in TIMINGS} for each in (row, expected_row))
    )


def everything(trainer: RLTrainer) -> dict[str, Any]:
    """All that a run is made of: weights, normalizer, optimizers, multiplier, counters, episodes under way."""
    algorithm = trainer.algorithm
    state = algorithm.learner_group.get_state()["learner"]
    own = algorithm.get_state()["quadriga"]
    return {"weights": dict(algorithm.weights), "optimizers": state["optimizer"], "own": own}


def assert_identical(result: Any, expected: Any, where: str = "") -> None:
    assert type(result) is type(expected), where
    if isinstance(expected, dict):
        assert result.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_identical(result[key], value, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(result) == len(expected), where
        for index, value in enumerate(expected):
            assert_identical(result[index], value, f"{where}/{index}")
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(result, expected, err_msg=where)
    else:
        assert result == expected or (result != result and expected != expected), where
