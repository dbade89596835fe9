"""Sampling during the update: full batches, exact continuation, and the correction for the older policy."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from small_modules import (
    BOX,
    DISCRETE,
    make_acting_batch,
    make_context,
    make_module,
    make_recurrent_module,
    make_sequences,
)
from small_trainers import LSTM, SAFE_SURPRISAL, TRPO_PID, Trainers, assert_resumes_identically, experiment

from quadriga.platform.errors import UserError
from quadriga.platform.experiment import build
from quadriga.policies import distributions
from quadriga.policies.asynchrony import RATIO_MAX, rebase
from quadriga.policies.context import UpdateContext
from quadriga.policies.learner import ColumnLearner
from quadriga.policies.module import ActorCriticModule
from quadriga.policies.trainer import RLTrainer

pytestmark = pytest.mark.usefixtures("ray_session")

RUNNERS = {"env_runners": 2, "envs_per_runner": 2, "asynchronous": True}


def test_batches_are_full_and_the_policy_that_acted_is_one_update_older(make_trainer: Trainers, tmp_path: Path) -> None:
    trainer = make_trainer(rollout=RUNNERS)
    rows = [trainer.train_iteration() for _ in range(5)]
    trainer.save(tmp_path)
    rows += [trainer.train_iteration() for _ in range(5)]
    assert [row["env_steps"] for row in rows] == [400 * (n + 1) for n in range(10)], "saving takes nothing away"
    assert rows[0]["behavior_kl"] == pytest.approx(0, abs=1e-9), "the first batch is the newest policy's"
    for before, row in itertools.pairwise(rows):
        assert before["kl"] / 3 < row["behavior_kl"] < 3 * before["kl"], "what the update before moved, on other rows"


def test_the_runners_collect_while_the_learner_learns(make_trainer: Trainers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of the runners during an update is answered before the next iteration asks."""
    trainer = make_trainer(rollout=RUNNERS)
    trainer.train_iteration()
    manager = trainer.algorithm.env_runner_group._worker_manager
    in_flight: list[int] = []
    update = ColumnLearner.update

    def observed(self: ColumnLearner, **arguments: Any) -> dict[str, Any]:
        in_flight.append(sum(tag.startswith("request") for tag, _ in manager._in_flight_req_to_actor_id.values()))
        return update(self, **arguments)

    monkeypatch.setattr(ColumnLearner, "update", observed)
    trainer.train_iteration()
    assert in_flight == [2]


@pytest.mark.slow
@pytest.mark.parametrize("rule", [{}, SAFE_SURPRISAL, LSTM | TRPO_PID], ids=["ppo", "safe-surprisal", "lstm-trpo"])
def test_resume_is_bit_identical(make_trainer: Trainers, tmp_path: Path, rule: dict[str, Any]) -> None:
    changes = {"rollout": RUNNERS | ({"batch_size": 380} if "units" in rule.get("network", {}) else {})} | rule
    assert_resumes_identically(make_trainer, tmp_path, changes, iterations=5, saved_after=2)


@pytest.mark.slow
def test_a_finished_run_that_goes_on_equals_one_that_was_longer_from_the_start(
    make_trainer: Trainers, tmp_path: Path
) -> None:
    longer, shorter = ({"rollout": RUNNERS, "steps": steps} for steps in (1600, 800))
    assert_resumes_identically(make_trainer, tmp_path, longer, iterations=4, saved_after=2, first=shorter)


def test_a_runner_killed_while_its_batch_is_under_way_is_replaced(make_trainer: Trainers) -> None:
    trainer = make_trainer(rollout=RUNNERS)
    trainer.train_iteration()
    ray.kill(trainer.algorithm.env_runner_group._worker_manager.actors()[1], no_restart=False)
    rows = [trainer.train_iteration() for _ in range(3)]
    assert [row["env_steps"] for row in rows] == [800, 1200, 1600]


@pytest.mark.slow
def test_the_constraint_holds_with_the_older_policy(make_trainer: Trainers) -> None:
    """With a gain that suits the longer loop: what was tempting is paid for two iterations later, not one."""
    env = {"id": "faulty_environments:Tempting-v0"}
    constraint = {"cost_limit": 2.0, "kp": 0.2, "ki": 0.02}
    trainer = make_trainer(env=env, rollout=RUNNERS, constraint=constraint, steps=50_000)
    rows = [trainer.train_iteration() for _ in range(120)]
    assert np.mean([row["constraint_cost"] for row in rows[-40:]]) == pytest.approx(2.0, abs=0.5)
    assert rows[-1]["lagrange_multiplier"] > 0


@pytest.mark.slow
def test_cartpole_is_learned_as_without(make_trainer: Trainers) -> None:
    settings = build(
        {"preset": "ppo", "env": "CartPole-v1", "seed": 1, "rollout": RUNNERS | {"batch_size": 4000}, "steps": 80_000}
    )
    trainer = make_trainer.add(RLTrainer(settings))
    rows = [trainer.train_iteration() for _ in range(20)]
    assert rows[-1]["episode_return_mean"] > 400


def test_without_runners_there_is_nobody_to_collect() -> None:
    with pytest.raises(UserError, match=r"asynchronous: expected rollout.env_runners of at least 1, got 0"):
        experiment(rollout={"asynchronous": True})


@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["gaussian", "categorical"])
def test_rebasing_weighs_rows_by_the_ratio_of_the_two_policies(action_space: gym.Space) -> None:
    acted = make_module(action_space, "tanh")
    batch = make_acting_batch(acted, rows=20_000)
    learns, context = moved(acted)
    before, actions = batch.log_probs.copy(), torch.from_numpy(batch.actions)
    acting_inputs, acting_log_std = torch.from_numpy(batch.distributions), acted.log_std
    with torch.no_grad():
        inputs = learns.distribution_inputs(torch.from_numpy(batch.observations))
        log_probs = distributions.log_probs(inputs, learns.log_std, actions).numpy()
        divergence = float(distributions.kl_divergence(acting_inputs, acting_log_std, inputs, learns.log_std).mean())
    rho, metrics = rebase(batch, context)
    np.testing.assert_allclose(batch.log_probs, log_probs, atol=1e-5)
    np.testing.assert_allclose(batch.distributions, inputs.numpy(), atol=1e-5)
    np.testing.assert_allclose(rho, np.minimum(np.exp(log_probs - before), RATIO_MAX), rtol=1e-4)
    assert rho.dtype == np.float32
    assert divergence > 0.002
    assert metrics["behavior_kl"] == pytest.approx(divergence, rel=0.1)
    # An expectation under the policy that learns, from rows of the one that acted: of the negative log-probability.
    exact = float(distributions.entropy(inputs, learns.log_std))
    assert float(np.mean(rho * -log_probs)) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("recurrent", [False, True])
def test_rebasing_on_the_policy_that_acted_changes_nothing(recurrent: bool) -> None:
    module = make_recurrent_module(BOX) if recurrent else make_module(BOX, "tanh")
    batch = make_sequences(module) if recurrent else make_acting_batch(module)
    log_probs, inputs = batch.log_probs.copy(), batch.distributions.copy()
    rho, metrics = rebase(batch, make_context(module))
    np.testing.assert_allclose(rho, 1, atol=1e-5)
    np.testing.assert_allclose(batch.log_probs, log_probs, atol=1e-5)
    np.testing.assert_allclose(batch.distributions, inputs, atol=1e-5)
    assert metrics["behavior_kl"] == pytest.approx(0, abs=1e-9)


def test_no_row_weighs_more_than_the_maximum() -> None:
    acted = make_module(BOX, "tanh")
    batch = make_acting_batch(acted, rows=2000)
    rho, _ = rebase(batch, moved(acted, by=0.3)[1])
    assert rho.max() == RATIO_MAX
    assert (rho < 1).mean() > 0.3


def moved(module: ActorCriticModule, by: float = 0.03) -> tuple[ActorCriticModule, UpdateContext]:
    """A policy near `module`, and the context of its update."""
    near = copy.deepcopy(module)
    torch.manual_seed(5)
    for parameter in near.parameters():
        parameter.data += by * torch.randn_like(parameter)
    return near, make_context(near)
