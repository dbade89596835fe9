"""Bonuses: what they are of two models, how they are scaled, and how they join the streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from small_modules import make_module

from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import build
from quadriga.platform.rollouts.actors import Actor
from quadriga.platform.rollouts.advantages import ValueStream, generalized_advantages
from quadriga.platform.rollouts.collector import Collector
from quadriga.platform.rollouts.columns import ColumnBatch
from quadriga.platform.rollouts.plan import COST, INTRINSIC, REWARD, RolloutPlan
from quadriga.policies.bonuses import Evaluation, Intrinsic, add_bonus, constant_value
from quadriga.policies.dynamics import Snapshot
from quadriga.policies.dynamics_fit import DynamicsFit
from quadriga.policies.experiment import DynamicsSettings, LearningProgressSettings, SurprisalSettings

RAMP = "faulty_environments:Ramp-v0"


def alone(values: np.ndarray) -> np.ndarray:
    return values


def make_fit() -> DynamicsFit:
    settings = DynamicsSettings(hidden_sizes=(8,), batch_size=64, target_kl=0.1)
    return DynamicsFit(settings, dim=2, num_actions=None, act_dim=1, likelihood="gaussian", seed=0)


def make_columns(rows: int = 50, streams: int = 2, seed: int = 0) -> ColumnBatch:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return ColumnBatch(
        normal(rows, 2), normal(rows, 1), normal(rows), normal(rows, 1), normal(streams, rows), normal(streams, rows),
        normal(rows) * 3, normal(rows), normal(rows), normal(rows, 2), normal(rows, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "k"), [("surprisal", 0), ("prediction-error", 0), *(("learning-progress", k) for k in (1, 3))]
)
def test_a_bonus_is_what_its_equation_says_of_the_models_now_and_k_updates_before(kind: str, k: int) -> None:
    chosen = LearningProgressSettings(k=k) if k else SurprisalSettings()
    if kind == "prediction-error":
        chosen = SurprisalSettings.model_construct(**{**dict(chosen), "kind": kind})
    intrinsic, models = Intrinsic(chosen, make_fit()), []
    for t in range(5):
        intrinsic.learn(make_columns(seed=t), alone, np.random.default_rng(t))
        models.append(Snapshot(intrinsic.fit.arrays(), "gaussian", "tanh", None))
    rows = make_columns(seed=9)
    transitions = (rows.states, rows.actions, rows.next_states)
    bonus = Evaluation(kind, "gaussian", "tanh")(intrinsic.weights(), *transitions, num_actions=None)
    now = models[-1]
    if kind == "surprisal":
        expected = -now.log_prob(*transitions)
    elif kind == "prediction-error":
        expected = now.squared_error(*transitions)
    else:
        before = models[-1 - k]
        expected = now.log_prob(*transitions) - now.log_volume() - before.log_prob(*transitions) + before.log_volume()
    np.testing.assert_allclose(bonus, expected, rtol=1e-5, atol=1e-5)


def test_there_is_no_bonus_before_the_model_has_seen_anything() -> None:
    columns, intrinsic = make_columns(), Intrinsic(SurprisalSettings(), make_fit())
    assert intrinsic.weights() == {}
    bonus = Evaluation("surprisal", "gaussian", "tanh")({}, columns.states, columns.actions, columns.next_states, None)
    assert bonus.tolist() == [0.0] * len(columns)


def test_eta_divides_by_the_mean_magnitude_where_that_is_above_1_and_decays() -> None:
    columns, intrinsic = make_columns(), Intrinsic(SurprisalSettings(eta=0.5), make_fit())
    eta, metrics = intrinsic.scale(columns, alone, 0.25)
    assert eta == pytest.approx(0.5 / np.abs(columns.bonuses).mean())
    assert metrics["intrinsic_reward_mean"] == pytest.approx(eta * columns.bonuses.mean(dtype=np.float64))
    columns.bonuses *= np.float32(0.01)
    assert intrinsic.scale(columns, alone, 0.25)[0] == 0.5
    assert Intrinsic(SurprisalSettings(eta=0.5, decay="linear"), make_fit()).scale(columns, alone, 0.25)[0] == 0.125


@pytest.mark.parametrize("streams", [(REWARD, COST), (REWARD, COST, INTRINSIC)])
@pytest.mark.parametrize("to_values", [True, False])
def test_costs_never_see_the_bonus(streams: tuple[str, ...], to_values: bool) -> None:
    columns, before = make_columns(streams=len(streams)), make_columns(streams=len(streams))
    add_bonus(columns, streams, 0.3, to_values=to_values)
    carrier = len(streams) - 1 if INTRINSIC in streams else 0
    for k in range(len(streams)):
        changed = k == carrier
        assert np.array_equal(columns.advantages[k], before.advantages[k]) != changed
        assert np.array_equal(columns.value_targets[k], before.value_targets[k]) != (changed and to_values)


class FixedBonus:
    """The first number of the next state, less the first of the state."""

    def __call__(self, weights: Any, states: Any, actions: Any, next_states: Any, num_actions: Any) -> np.ndarray:
        return (next_states - states)[:, 0]


TERMINATED = EnvironmentSettings(id=RAMP)
CUT = EnvironmentSettings(id=RAMP, kwargs={"length": 50}, max_episode_steps=10)


def collected(
    stream: ValueStream | None, steps: int = 23, env: EnvironmentSettings = TERMINATED
) -> tuple[Collector, ColumnBatch]:
    streams = (ValueStream(REWARD, 0.9, 0.8), *([stream] if stream else []))
    plan = RolloutPlan(env, 3, 7, streams, "tanh", False, FixedBonus())
    collector = Collector(plan, (7, 0, 0))
    module = make_module(gym.spaces.Box(-1, 1, (1,), np.float32), "tanh", obs_dim=2)
    weights = module.get_state()
    if not stream:
        weights = {n: v[:1] if n.startswith("critics.") else v for n, v in weights.items()}
    actor = Actor(weights, activation="tanh", discrete=False)
    bonus = FixedBonus()
    rollout = collector.collect(actor, steps, np.random.default_rng(0), lambda s, a, n: bonus({}, s, a, n, None))
    return collector, rollout.shards[0]


def test_the_next_state_of_an_episode_s_last_step_is_its_last_observation() -> None:
    collector, columns = collected(None)
    np.testing.assert_allclose(columns.bonuses, 0.1, atol=1e-6)  # a tenth in every step, the last one too
    collector.close()


@pytest.mark.parametrize("stream", [None, ValueStream(INTRINSIC, 0.7, 0.6), ValueStream(INTRINSIC, 0.7, 0.6, False)])
def test_advantages_of_the_bonus_are_its_discounted_sums(stream: ValueStream | None) -> None:
    collector, columns = collected(stream)
    factor = 0.42 if stream else 0.72
    bonuses = columns.bonuses.reshape(23, 3)
    expected, carry = np.zeros_like(bonuses), np.zeros(3)
    for t in reversed(range(23)):
        ends = (t + 1) % 10 == 0 and (stream is None or stream.episodic)
        carry = bonuses[t] + factor * (0.0 if ends else carry)
        expected[t] = carry
    np.testing.assert_allclose(columns.bonus_advantages.reshape(23, 3), expected, rtol=1e-5)
    collector.close()


@pytest.mark.parametrize("env", [TERMINATED, CUT])
@pytest.mark.parametrize("stream", [None, ValueStream(INTRINSIC, 0.7, 0.6), ValueStream(INTRINSIC, 0.7, 0.6, False)])
def test_a_constant_value_adds_what_it_would_to_the_advantages(
    stream: ValueStream | None, env: EnvironmentSettings
) -> None:
    collector, columns = collected(stream, env=env)
    carrier, value = stream or ValueStream(REWARD, 0.9, 0.8), np.float32(1.7)
    last = np.zeros((23, 3), bool)
    if carrier.episodic:
        last[[9, 19]] = True
    values = np.full((23, 3, 1), value)
    expected = generalized_advantages(
        columns.bonuses.reshape(23, 3, 1), values, np.where(last[..., None] & (env is TERMINATED), 0, values), last,
        np.array([carrier.discount], np.float32), np.array([carrier.gae_lambda], np.float32),
    )  # fmt: skip
    found = columns.bonus_advantages + value * columns.bonus_baselines
    np.testing.assert_allclose(found, expected.reshape(-1), rtol=1e-4, atol=1e-5)
    collector.close()


def test_a_step_that_was_lost_is_worth_a_constant_value_as_well(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    env = EnvironmentSettings(id="faulty_environments:Marked-v0", kwargs={"mark": str(mark)})
    collector, columns = collected(None, 8, env)
    assert len(columns) == 23
    assert columns.bonus_baselines[3] == pytest.approx(0.9 - 1)  # of the second step, before that which was lost
    collector.close()


def test_bonuses_that_are_all_the_same_are_no_reason_for_anything() -> None:
    collector, columns = collected(None, env=CUT)
    np.testing.assert_allclose(columns.bonuses, 0.02, atol=1e-6)
    assert np.ptp(columns.bonus_advantages) > 0.04, "a sum hangs on how much of the rollout is left"
    value = constant_value(columns, alone)
    assert value == pytest.approx(0.02 / (1 - 0.9), rel=1e-3)
    before = columns.advantages[0].copy()
    add_bonus(columns, (REWARD,), 0.3, value=value, to_values=False)
    np.testing.assert_allclose(columns.advantages[0], before, atol=1e-6)
    collector.close()


def test_the_constant_value_is_that_of_the_rows_of_all_learners() -> None:
    whole, parts = make_columns(), make_columns().split(2)
    sums = [[column.sum(dtype=np.float64) for column in (p.bonus_advantages, p.bonus_baselines)] for p in parts]
    values = [
        constant_value(part, lambda own, other=other: own + other)
        for part, other in zip(parts, sums[::-1], strict=True)
    ]
    assert values == pytest.approx([constant_value(whole, alone)] * 2, rel=1e-5)


def test_a_value_that_changes_no_advantage_is_0() -> None:
    columns = make_columns()
    columns.bonus_baselines[:] = 0  # discount 1, nothing terminates
    assert constant_value(columns, alone) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bonus": {"kind": "learning-progress", "k": 0}}, r"bonus\.k: expected greater than or equal to 1, got 0"),
        (
            {"bonus": {"kind": "vime", "dynamics": {"samples": 1}}},
            r"bonus\.dynamics\.samples: expected greater than or equal to 2, got 1",
        ),
        ({"bonus": {"dynamics": {"target_kl": 0}}}, r"bonus\.dynamics\.target_kl: expected greater than 0, got 0"),
        (
            {"bonus": {"dynamics": {"likelihood": "bits"}}},
            r"bonus\.dynamics\.likelihood: expected 'gaussian', since only Atari RAM is made of bytes, got 'bits'",
        ),
        ({"bonus": {"kind": "surprise"}}, r"bonus\.kind: expected one of .* got 'surprise'; did you mean 'surprisal'"),
    ],
)
def test_a_wrong_bonus_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build({"preset": "ppo-surprisal", "env": "SparseMountainCar-v0", **changes})


def test_ram_is_modeled_bit_by_bit_and_everything_else_by_gaussians() -> None:
    kinds = [
        build({"preset": "surprisal", "env": env}).bonus.dynamics.likelihood
        for env in ("FreewayRam-v0", "SparseMountainCar-v0")
    ]
    assert kinds == ["bits", "gaussian"]
