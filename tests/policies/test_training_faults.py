"""What dies, breaks or diverges while the algorithm trains on real Ray."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from small_trainers import LSTM, SAFE_SURPRISAL, Trainers

from quadriga.platform.errors import TrainingStopped, UserError, WorkersLost
from quadriga.platform.rollouts.columns import ColumnBatch
from quadriga.policies import sampling

pytestmark = pytest.mark.usefixtures("ray_session")

WITH_MEMORY = LSTM | {"rollout": {"batch_size": 380}}
SURPRISAL_BY_TRPO: dict[str, Any] = {
    "preset": "surprisal",
    "update": {"kind": "trpo"},
    "constraint": {"kind": "none"},
    "bonus": {"dynamics": {"batch_size": 300}},
}


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


@pytest.mark.slow
def test_a_runner_that_a_checkpoint_finds_dead_is_named_as_lost_though_it_is_back_before_the_next_batch(
    make_trainer: Trainers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(rollout={"env_runners": 1})
    trainer.train_iteration()
    (actor,) = trainer.algorithm.env_runner_group._worker_manager.actors().values()
    with caplog.at_level(logging.WARNING, logger="quadriga"):
        ray.kill(actor, no_restart=False)
        trainer.save(tmp_path)
        assert "env runner 1 does not answer; the checkpoint is without its episodes" in caplog.text
        is_back = False
        while not is_back:
            with contextlib.suppress(ray.exceptions.RayActorError):
                is_back = bool(ray.get(actor.ping.remote()))
        row = trainer.train_iteration()
    assert "1 of 1 env runners were lost after env step 400" in caplog.text
    assert (row["env_steps"], row["env_runner_restarts"]) == (800, 1)


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


@pytest.mark.parametrize("rule", [{}, SURPRISAL_BY_TRPO, WITH_MEMORY], ids=["ppo", "surprisal", "lstm"])
def test_a_learner_whose_share_was_lost_has_the_columns_of_the_others(
    make_trainer: Trainers, rule: dict[str, Any]
) -> None:
    trainer = make_trainer(**rule)
    ((rows,),) = (rollout.shards for rollout in trainer.algorithm._sample())
    nothing = trainer.algorithm.learner_group._learner._no_rows()
    assert len(nothing) == 0
    joined = ColumnBatch.concatenate([rows, nothing])
    for column in (field.name for field in fields(ColumnBatch)):
        expected, found, none = (getattr(batch, column) for batch in (rows, joined, nothing))
        assert (expected is None) == (none is None), column
        if expected is not None:
            np.testing.assert_array_equal(found, expected, strict=True, err_msg=column)


def test_a_runner_that_never_comes_back_stops_the_run(make_trainer: Trainers) -> None:
    trainer = make_trainer(rollout={"env_runners": 1, "restart_timeout": 1.0})
    trainer.train_iteration()
    (actor,) = trainer.algorithm.env_runner_group._worker_manager.actors().values()
    ray.kill(actor, no_restart=True)
    with pytest.raises(WorkersLost, match=r"env step 400: no env runner came back within rollout.restart_timeout"):
        trainer.train_iteration()


@pytest.mark.parametrize("env_runners", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_runner_that_hangs_is_replaced_and_every_batch_is_full(
    make_trainer: Trainers, tmp_path: Path, caplog: pytest.LogCaptureFixture, env_runners: int
) -> None:
    mark = tmp_path / "mark"
    env = {"id": "awkward_environments:Hanging-v0", "kwargs": {"mark": str(mark)}}
    trainer = make_trainer(env=env, rollout={"env_runners": env_runners, "sample_timeout": 10.0})
    trainer.train_iteration()
    mark.touch()  # one runner never answers the next request
    with caplog.at_level(logging.WARNING, logger="quadriga"):
        rows = [trainer.train_iteration()]
    assert not mark.exists()
    while rows[-1]["env_runner_restarts"] == 0 and len(rows) < 20:
        rows.append(trainer.train_iteration())
    assert [row["env_steps"] for row in rows] == [400 * (n + 2) for n in range(len(rows))]
    assert rows[-1]["env_runner_restarts"] == 1
    assert "was silent for rollout.sample_timeout (10 s)" in caplog.text


@pytest.mark.slow
def test_runners_that_die_in_every_request_stop_the_run(
    make_trainer: Trainers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    env = {"id": "awkward_environments:Crashing-v0", "kwargs": {"mark": str(mark)}}
    monkeypatch.setattr(sampling, "MAX_FRUITLESS_REQUESTS", 2)
    trainer = make_trainer(env=env, rollout={"env_runners": 1})
    mark.touch()
    with pytest.raises(WorkersLost, match="stopped at env step 0: 2 requests in a row collected nothing"):
        trainer.train_iteration()
    mark.unlink()
    assert trainer.train_iteration()["env_steps"] == 400


@pytest.mark.parametrize("env_runners", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_episodes_that_cannot_be_continued_are_an_error_and_no_half_loaded_collector_stays(
    make_trainer: Trainers, tmp_path: Path, env_runners: int
) -> None:
    first = make_trainer(rollout={"env_runners": env_runners})
    first.train_iteration()
    first.save(tmp_path)
    first.stop()
    other = make_trainer(rollout={"env_runners": env_runners, "envs_per_runner": 2})
    said = f"env runner {env_runners} cannot continue .* the state is of 4 environments, not of 2"
    with pytest.raises(UserError, match=said):
        other.restore(tmp_path)
    group = other.algorithm.env_runner_group
    kept = group.foreach_env_runner(lambda runner: runner.collector is not None, local_env_runner=env_runners == 0)
    assert kept == [False]


@pytest.mark.slow
def test_a_checkpoint_without_a_runner_that_is_gone_says_so_and_can_be_continued(
    make_trainer: Trainers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(rollout={"env_runners": 2})
    trainer.train_iteration()
    ray.kill(trainer.algorithm.env_runner_group._worker_manager.actors()[2], no_restart=True)
    with caplog.at_level(logging.WARNING, logger="quadriga"):
        trainer.save(tmp_path)
    assert "env runner 2 does not answer; the checkpoint is without its episodes" in caplog.text
    assert "env runner 1 does not answer" not in caplog.text
    trainer.stop()
    resumed = make_trainer(rollout={"env_runners": 2})
    resumed.restore(tmp_path)
    assert resumed.train_iteration()["env_steps"] == 800


@pytest.mark.slow
def test_a_killed_learner_stops_the_run_and_says_so(make_trainer: Trainers) -> None:
    trainer = make_trainer(rollout={"env_runners": 1}, learner={"learners": 2})
    trainer.train_iteration()
    ray.kill(trainer.algorithm.learner_group._workers[1])
    with pytest.raises(WorkersLost, match="stopped at env step 400: a learner died; resume the run"):
        trainer.train_iteration()


@pytest.mark.parametrize("env_runners", [0, pytest.param(1, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("env_runners", [0, pytest.param(1, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("rule", [SAFE_SURPRISAL, SURPRISAL_BY_TRPO], ids=["ppo", "trpo"])
def test_a_bonus_that_is_nan_stops_the_run(make_trainer: Trainers, rule: dict[str, Any]) -> None:
    """A step that is never accepted leaves weights and KL finite: the bonus is what shows it."""
    trainer = make_trainer(**rule)
    trainer.train_iteration()
    weights = trainer.algorithm._bonus_weights
    trainer.algorithm._bonus_weights = {name: np.full_like(value, np.nan) for name, value in weights.items()}
    with pytest.raises(TrainingStopped, match="stopped at env step 800: bonus_mean, advantages became NaN or infinite"):
        trainer.train_iteration()


@pytest.mark.parametrize("learners", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_advantages_that_are_nan_stop_the_run(make_trainer: Trainers, learners: int) -> None:
    trainer = make_trainer(learner={"learners": learners})
    trainer.train_iteration()
    weights = dict(trainer.algorithm.weights)
    trainer.algorithm._weights = weights | {"critics.biases.0": np.full_like(weights["critics.biases.0"], np.nan)}
    with pytest.raises(TrainingStopped, match="stopped at env step 800: advantages became NaN or infinite"):
        trainer.train_iteration()
