"""What dies, breaks or diverges while the algorithm trains on real Ray."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from small_trainers import Trainers

from quadriga.platform.errors import TrainingStopped

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_killed_runner_is_replaced_and_every_batch_is_full(make_trainer: Trainers, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    env = {"id": "faulty_environments:Killed-v0", "kwargs": {"mark": str(mark)}}
    trainer = make_trainer(env=env, rollout={"env_runners": 2})
    steps = [trainer.train_iteration()["env_steps"]]
    mark.touch()  # one runner kills its process in the middle of the next rollout
    steps += [trainer.train_iteration()["env_steps"] for _ in range(3)]
    assert not mark.exists()
    assert np.diff([0, *steps]).tolist() == [400, 400, 400, 400]
    assert np.isfinite(trainer.algorithm.weights["log_std"]).all()


def test_the_only_runner_may_be_killed(make_trainer: Trainers, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    env = {"id": "faulty_environments:Killed-v0", "kwargs": {"mark": str(mark)}}
    trainer = make_trainer(env=env, rollout={"env_runners": 1})
    trainer.train_iteration()
    mark.touch()
    row = trainer.train_iteration()
    assert row["env_steps"] == 800
    assert row["env_runner_restarts"] == 1


def test_steps_lost_with_their_runner_are_left_out(
    make_trainer: Trainers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner dies after it has sampled and before the learner has read its columns."""
    trainer = make_trainer(rollout={"env_runners": 2})
    sample = trainer.algorithm._sample

    def sample_and_kill() -> Any:
        rollouts = sample()
        ray.kill(trainer.algorithm.env_runner_group._worker_manager.actors()[1], no_restart=False)
        monkeypatch.setattr(trainer.algorithm, "_sample", sample)
        return rollouts

    monkeypatch.setattr(trainer.algorithm, "_sample", sample_and_kill)
    with caplog.at_level(logging.WARNING, logger="quadriga"):
        trainer.train_iteration()
    row = trainer.train_iteration()
    assert row["env_steps"] == 800
    assert np.isfinite(row["kl"])


def test_a_runner_that_never_comes_back_stops_the_run(make_trainer: Trainers) -> None:
    trainer = make_trainer(rollout={"env_runners": 1, "restart_timeout": 1.0})
    trainer.train_iteration()
    (actor,) = trainer.algorithm.env_runner_group._worker_manager.actors().values()
    ray.kill(actor, no_restart=True)
    with pytest.raises(TrainingStopped, match=r"env step 400: no env runner came back within rollout.restart_timeout"):
        trainer.train_iteration()


@pytest.mark.slow
def test_a_killed_learner_stops_the_run_and_says_so(make_trainer: Trainers) -> None:
    trainer = make_trainer(rollout={"env_runners": 1}, learner={"learners": 2})
    trainer.train_iteration()
    ray.kill(trainer.algorithm.learner_group._workers[1])
    with pytest.raises(TrainingStopped, match="stopped at env step 400: a learner died; resume the run"):
        trainer.train_iteration()


@pytest.mark.parametrize("env_runners", [0, 1])
def test_a_nan_reward_stops_the_run_and_names_the_step(
    make_trainer: Trainers, tmp_path: Path, env_runners: int
) -> None:
    mark = tmp_path / "mark"
    env = {"id": "faulty_environments:NaNReward-v0", "kwargs": {"mark": str(mark)}}
    trainer = make_trainer(env=env, rollout={"env_runners": env_runners})
    trainer.train_iteration()
    mark.touch()
    with pytest.raises(TrainingStopped, match=r"stopped at env step 400: env runner .* reward nan"):
        trainer.train_iteration()


@pytest.mark.parametrize("env_runners", [0, 1])
def test_an_environment_that_raises_is_rebuilt_or_stops_the_run(
    make_trainer: Trainers, tmp_path: Path, env_runners: int
) -> None:
    mark = tmp_path / "mark"
    env = {"id": "faulty_environments:Marked-v0", "kwargs": {"mark": str(mark)}}
    mark.touch()
    row = make_trainer(env=env, rollout={"env_runners": env_runners}).train_iteration()
    assert row["environment_failures"] == 1
    assert row["env_steps"] == 399, "the lost step is not counted"
    mark.touch()
    strict = make_trainer(env={**env, "on_error": "raise"}, rollout={"env_runners": env_runners})
    with pytest.raises(TrainingStopped, match="the physics exploded"):
        strict.train_iteration()


def test_diverged_training_stops(make_trainer: Trainers) -> None:
    trainer = make_trainer(update={"learning_rate": 1e38, "target_kl": None, "max_grad_norm": None})
    with pytest.raises(TrainingStopped, match=r"stopped at env step 400: .* became NaN or infinite"):
        trainer.train_iteration()
