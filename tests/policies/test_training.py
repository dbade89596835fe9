"""The algorithm on real Ray: full batches, constraints that hold, exact continuation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_trainers import (
    CPO,
    LEARNING_PROGRESS,
    LSTM,
    SAFE_SURPRISAL,
    TRPO_PID,
    VIME,
    Trainers,
    assert_identical,
    assert_resumes_identically,
    everything,
)

from quadriga.platform.experiment import build
from quadriga.policies.algorithm import PolicyOptimization
from quadriga.policies.trainer import RLTrainer

pytestmark = pytest.mark.usefixtures("ray_session")


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


@pytest.mark.parametrize("rule", [{}, TRPO_PID, CPO], ids=["ppo", "trpo", "cpo"])
def test_a_deviation_that_is_annealed_follows_its_line(make_trainer: Trainers, rule: dict[str, Any]) -> None:
    trainer = make_trainer(network={"hidden_sizes": [16], "final_log_std": -1.5}, **rule)
    before = trainer.algorithm.weights["log_std"].copy()
    rows = [trainer.train_iteration() for _ in range(3)]
    # From -0.5 to -1.5 over 4,000 steps, of which an iteration takes 400; the share that was left when it began counts.
    assert [row["policy_std"] for row in rows] == pytest.approx(np.exp([-0.5, -0.6, -0.7]), rel=1e-6)
    assert before.tolist() == [-0.5]
    assert trainer.algorithm.weights["log_std"] == pytest.approx([-0.7], rel=1e-6)
    assert all(row["kl"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("env", "env_runners", "rule"),
    [
        ("faulty_environments:Ramp-v0", 0, {}),
        pytest.param("faulty_environments:Ramp-v0", 1, {}, marks=pytest.mark.slow),
        ("HalfCheetah-v5", 0, {}),
        pytest.param("HalfCheetah-v5", 1, {}, marks=pytest.mark.slow),
        ("faulty_environments:Ramp-v0", 0, {"network": {"hidden_sizes": [16], "final_log_std": -2.0}}),
        ("faulty_environments:Ramp-v0", 0, TRPO_PID),
        ("faulty_environments:Ramp-v0", 0, CPO | {"constraint": {"cost_limit": 4.0, "margin_learning_rate": 0.1}}),
        pytest.param(
            "faulty_environments:Ramp-v0",
            1,
            SAFE_SURPRISAL | {"bonus": {"dynamics": {"optimizer": "adam", "updates": 2}}},
            marks=pytest.mark.slow,
        ),
        ("SparseMountainCar-v0", 0, LEARNING_PROGRESS),
        ("SparseMountainCar-v0", 0, VIME),
        pytest.param("faulty_environments:Ramp-v0", 1, LSTM, marks=pytest.mark.slow),
        ("faulty_environments:Ramp-v0", 0, LSTM | TRPO_PID),
    ],
    ids=[
        "0-ramp",
        "1-ramp",
        "0-cheetah",
        "1-cheetah",
        "annealed-deviation",
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
    if "units" in rule.get("network", {}):
        rollout["batch_size"] = 399
    changes = {"env": {"id": env}, "rollout": rollout} | rule
    assert_resumes_identically(make_trainer, tmp_path, changes, iterations=4, saved_after=2)


def test_an_older_checkpoint_can_be_loaded_into_a_running_algorithm(make_trainer: Trainers, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.train_iteration()
    trainer.save(tmp_path)
    saved = everything(trainer)
    trainer.train_iteration()
    trainer.restore(tmp_path)
    assert_identical(everything(trainer), saved)


def test_a_run_that_loads_another_s_checkpoint_keeps_its_own_learning_rates(
    make_trainer: Trainers, tmp_path: Path
) -> None:
    """What population-based training does: another run's state, and settings that were changed."""
    donor = make_trainer()
    donor.train_iteration()
    donor.save(tmp_path)
    own = make_trainer(update={"learning_rate": 1e-3, "critic_learning_rate": 2e-3})
    own.restore(tmp_path)
    assert_identical(dict(own.algorithm.weights), dict(donor.algorithm.weights))
    assert own.train_iteration()["learning_rate"] == 1e-3
    optimizers = own.algorithm.learner_group.get_state()["learner"]["optimizer"]
    rates = {name: each["state"]["param_groups"][0]["lr"] for name, each in optimizers.items()}
    assert sorted(rates.values()) == [1e-3, 2e-3]


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


def test_reward_scale_invariance_takes_the_scale_of_rewards_out_of_an_update(make_trainer: Trainers) -> None:
    def step(scale: float, invariant: bool) -> tuple[np.ndarray, float]:
        """The first update of the policy, whose critics know nothing yet, and beta."""
        trainer = make_trainer(
            env={"id": "faulty_environments:Tempting-v0"},
            advantage={"reward": "center", "cost": "center", "reward_scale": scale, "gae_lambda": 1.0},
            constraint={"reward_scale_invariance": invariant, "cost_limit": 0.0, "kp": 0.5},
        )
        before = {name: value.copy() for name, value in trainer.algorithm.weights.items() if "policy" in name}
        row = trainer.train_iteration()
        moved = [trainer.algorithm.weights[name] - value for name, value in before.items()]
        return np.concatenate([each.ravel() for each in moved]), row.get("cost_scale", 1.0)

    (small, beta), (large, larger) = step(1.0, True), step(10.0, True)
    assert larger == pytest.approx(10 * beta, rel=0.2)
    with_it = np.linalg.norm(large - small) / np.linalg.norm(small)
    small, large = step(1.0, False)[0], step(10.0, False)[0]
    without = np.linalg.norm(large - small) / np.linalg.norm(small)
    assert with_it < without / 4, (with_it, without)
