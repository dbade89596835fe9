"""The algorithm on real Ray: full batches, exact continuation, faults, several learners."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.rllib.core import DEFAULT_MODULE_ID

from quadriga.platform.errors import TrainingStopped
from quadriga.platform.experiment import build, merged
from quadriga.policies.algorithm import PolicyOptimization
from quadriga.policies.experiment import RLExperiment
from quadriga.policies.trainer import RLTrainer

pytestmark = pytest.mark.usefixtures("ray_session")

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
CPO: dict[str, Any] = {"preset": "cpo", "update": {"kind": "cpo"}}
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


@pytest.fixture
def make_trainer() -> Iterator[Trainers]:
    trainers = Trainers()
    yield trainers
    for trainer in trainers.made:
        trainer.stop()


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


def test_an_iteration_is_a_full_batch_and_reports_itself(make_trainer: Trainers) -> None:
    trainer = make_trainer()
    first, second = trainer.train_iteration(), trainer.train_iteration()
    assert (first["env_steps"], second["env_steps"]) == (400, 800)
    assert second["episodes"] == 80
    assert second["episode_return_mean"] == 55.0
    assert second["episode_length_mean"] == 10.0
    assert 0 <= second["episode_cost_mean"] <= 10
    assert second["cost_rate"] == pytest.approx(second["episode_cost_mean"] / 10, abs=0.2)
    assert 0 < second["kl"] < 0.5


def test_the_multiplier_drives_the_cost_to_its_limit(make_trainer: Trainers) -> None:
    env = {"id": "faulty_environments:Tempting-v0"}
    free = make_trainer(env=env, constraint={"kind": "none"})
    held = make_trainer(env=env, constraint={"cost_limit": 2.0, "kp": 0.2, "ki": 0.05})
    unconstrained, constrained = ([trainer.train_iteration() for _ in range(80)] for trainer in (free, held))
    assert np.mean([row["episode_cost_mean"] for row in unconstrained[-10:]]) > 6
    assert np.mean([row["constraint_cost"] for row in constrained[-20:]]) == pytest.approx(2.0, abs=0.5)
    assert constrained[-1]["lagrange_multiplier"] > 0


@pytest.mark.parametrize(
    "rule",
    [TRPO_PID | {"constraint": {"cost_limit": 4.0, "kp": 0.2, "ki": 0.05}}, CPO],
    ids=["trpo-pid", "cpo"],
)
def test_second_order_rules_hold_the_cost_limit(make_trainer: Trainers, rule: dict[str, Any]) -> None:
    trainer = make_trainer(**rule, env={"id": "faulty_environments:Tempting-v0"})
    rows = [trainer.train_iteration() for _ in range(80)]
    assert np.mean([row["constraint_cost"] for row in rows[-20:]]) == pytest.approx(4.0, abs=0.5)
    assert np.mean([row["step_accepted"] for row in rows]) > 0.9
    assert max(row["kl"] for row in rows) <= 0.01


def test_cpo_steps_as_trpo_until_an_episode_has_ended(make_trainer: Trainers) -> None:
    trainer = make_trainer(
        preset="cpo", update={"kind": "cpo", "critic_minibatch_size": 32}, rollout={"batch_size": 32}
    )
    row = trainer.train_iteration()
    assert row["episodes_this_iteration"] == 0
    assert (row["cpo_case"], row["cpo_nu"]) == (3, 0)
    assert row["step_accepted"] == 1


def test_trpo_learns_cartpole(make_trainer: Trainers) -> None:
    settings = build({"preset": "trpo", "env": "CartPole-v1", "seed": 1, "rollout": {"batch_size": 4000}})
    trainer = make_trainer.add(RLTrainer(settings))
    rows = [trainer.train_iteration() for _ in range(20)]
    assert rows[-1]["env_steps"] == 80_000
    assert rows[-1]["episode_return_mean"] > 400


def test_normalizer_is_exact_over_all_runners(make_trainer: Trainers) -> None:
    trainer = make_trainer(rollout={"env_runners": 2})
    trainer.train_iteration()
    weights = trainer.algorithm.weights
    assert weights["normalizer.count"] == 400
    assert weights["normalizer.sample_mean"][0] == pytest.approx(0.45)
    assert weights["normalizer.m2"][0] / 400 == pytest.approx(np.var(np.arange(10) / 10))


@pytest.mark.parametrize(
    ("env", "env_runners", "rule"),
    [
        ("faulty_environments:Ramp-v0", 0, {}),
        ("faulty_environments:Ramp-v0", 1, {}),
        ("HalfCheetah-v5", 0, {}),
        ("HalfCheetah-v5", 1, {}),
        ("faulty_environments:Ramp-v0", 0, TRPO_PID),
        ("faulty_environments:Ramp-v0", 0, CPO | {"constraint": {"cost_limit": 4.0, "margin_learning_rate": 0.1}}),
        (
            "faulty_environments:Ramp-v0",
            1,
            SAFE_SURPRISAL | {"bonus": {"dynamics": {"optimizer": "adam", "updates": 2}}},
        ),
        ("SparseMountainCar-v0", 0, LEARNING_PROGRESS),
        ("SparseMountainCar-v0", 0, VIME),
        ("faulty_environments:Ramp-v0", 1, LSTM),
        ("faulty_environments:Ramp-v0", 0, LSTM | TRPO_PID),
    ],
    ids=[
        "0-ramp",
        "1-ramp",
        "0-cheetah",
        "1-cheetah",
        "trpo-pid",
        "cpo",
        "safe-surprisal",
        "learning-progress",
        "vime",
        "lstm",
        "lstm-trpo",
    ],
)
def test_resume_is_bit_identical(
    make_trainer: Trainers, tmp_path: Path, env: str, env_runners: int, rule: dict[str, Any]
) -> None:
    rollout = {"env_runners": env_runners, "envs_per_runner": 3}
    if "network" in rule:
        rollout["batch_size"] = 399
    changes = {"env": {"id": env}, "rollout": rollout} | rule
    whole = make_trainer(**changes)
    for _ in range(4):
        expected_row = whole.train_iteration()
    half = make_trainer(**changes)
    for _ in range(2):
        half.train_iteration()
    half.save(tmp_path)
    half.stop()
    resumed = make_trainer(**changes)
    resumed.restore(tmp_path)
    for _ in range(2):
        row = resumed.train_iteration()
    assert_identical(everything(resumed), everything(whole))
    timings = {"time_sampling_s", "time_learning_s", "env_steps_per_second"}
    assert_identical(
        {name: value for name, value in row.items() if name not in timings},
        {name: value for name, value in expected_row.items() if name not in timings},
    )


@pytest.mark.parametrize(
    "rule", [SAFE_SURPRISAL, LEARNING_PROGRESS, VIME], ids=["safe-surprisal", "learning-progress", "vime"]
)
def test_a_model_is_the_same_on_every_learner_and_its_bonus_on_every_runner(
    make_trainer: Trainers, rule: dict[str, Any]
) -> None:
    trainer = make_trainer(**rule, rollout={"env_runners": 2}, learner={"learners": 2})
    rows = [trainer.train_iteration() for _ in range(3)]
    states = trainer.algorithm._bonus_states()
    first, second = (states[index]["fit"] for index in (0, 1))
    for name in ("parameters", "scales"):
        assert_identical(first[name], second[name])
    assert first["replay"]["size"] + second["replay"]["size"] == 1200
    # Progress takes two models, surprisal one.
    begins = 2 if rule is LEARNING_PROGRESS else 1
    assert [row["bonus_mean"] != 0 for row in rows] == [t >= begins for t in range(3)]
    assert rule is VIME or rows[-1]["dynamics_kl"] <= 1e-3


def test_an_older_checkpoint_can_be_loaded_into_a_running_algorithm(make_trainer: Trainers, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.train_iteration()
    trainer.save(tmp_path)
    saved = everything(trainer)
    trainer.train_iteration()
    trainer.restore(tmp_path)
    assert_identical(everything(trainer), saved)


def test_rllib_and_tune_see_the_metrics_and_load_the_checkpoint(make_trainer: Trainers, tmp_path: Path) -> None:
    trainer = make_trainer()
    result = trainer.algorithm.train()
    assert result["episode_return_mean"] == 55.0
    assert result["training_iteration"] == 1
    trainer.save(tmp_path)
    loaded = PolicyOptimization.from_checkpoint(str(tmp_path / "algorithm"))
    try:
        assert_identical(dict(loaded.weights), dict(trainer.algorithm.weights))
        assert loaded.train()["env_steps"] == 800
    finally:
        loaded.stop()


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


@pytest.mark.parametrize(
    ("rule", "tolerance"),
    [
        ({"update": {"minibatch_size": 400, "epochs": 2}}, 2e-5),
        pytest.param(
            {"preset": "trpo-pid", "update": {"kind": "trpo", "critic_minibatch_size": 400, "critic_epochs": 2}},
            1e-5,
            marks=pytest.mark.slow,
        ),
        ({"preset": "cpo", "update": {"kind": "cpo", "critic_minibatch_size": 400, "critic_epochs": 2}}, 1e-5),
    ],
    ids=["ppo", "trpo", "cpo"],
)
def test_two_learners_give_the_update_of_one(make_trainer: Trainers, rule: dict[str, Any], tolerance: float) -> None:
    """One minibatch is the whole batch: the order of rows does not matter, only their sums.

    The first update is the same to 1e-5, the second, whose rows differ already by the first one's last bits, to
    `tolerance`.
    """
    changes = {**rule, "rollout": {"env_runners": 2}}
    one, weights, rows = make_trainer(**changes), [], []
    for _ in range(2):
        row = one.train_iteration()
        weights.append({name: np.array(value) for name, value in one.algorithm.weights.items()})
    rows.append(row)
    one.stop()
    two = make_trainer(**changes, learner={"learners": 2})
    for expected, allowed in zip(weights, (1e-5, tolerance), strict=True):
        row = two.train_iteration()
        for name, value in expected.items():
            np.testing.assert_allclose(two.algorithm.weights[name], value, atol=allowed, err_msg=name)
    rows.append(row)
    for name in ("kl", "entropy", "explained_variance", "cost_explained_variance", "reward_value_loss"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-3, abs=1e-5), name
    states = two.algorithm.learner_group.foreach_learner(lambda learner: learner.module[DEFAULT_MODULE_ID].get_state())
    first, second = (result.get() for result in states)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)


def test_cost_scale_makes_updates_invariant_to_the_scale_of_advantages(make_trainer: Trainers) -> None:
    changes = {"constraint": {"reward_scale_invariance": True, "cost_limit": 0.0, "scale_smoothing": 0.0}}
    row = make_trainer(**changes).train_iteration()
    assert row["cost_scale"] > 0
    assert row["cost_scale"] != 1.0


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
