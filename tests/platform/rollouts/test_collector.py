from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from quadriga.platform.environments.planes import BINS
from quadriga.platform.environments.registry import make_env, make_vector_env
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.environments.spaces import action_decoder
from quadriga.platform.environments.vector import EnvironmentFailed
from quadriga.platform.errors import TrainingStopped
from quadriga.platform.rollouts.actors import ActionScale, Actor
from quadriga.platform.rollouts.advantages import ValueStream
from quadriga.platform.rollouts.collector import Collector
from quadriga.platform.rollouts.columns import ColumnBatch, Rollout
from quadriga.platform.rollouts.plan import RolloutPlan
from quadriga.policies.module import ActorCriticModule

ENTROPY = (7, 1, 0)
STREAMS = (ValueStream("reward", 0.99, 0.95), ValueStream("cost", 0.9, 0.8))


def make_plan(id: str, num_envs: int = 3, on_error: Any = "rebuild", **kwargs: Any) -> RolloutPlan:
    limit = kwargs.pop("max_episode_steps", None)
    env = EnvironmentSettings(id=id, kwargs=kwargs, on_error=on_error, max_episode_steps=limit)
    return RolloutPlan(env, num_envs, 7, STREAMS, "tanh", collect_moments=True)


def make_actor(plan: RolloutPlan) -> Actor:
    env = make_vector_env(plan.env, 1)
    torch.manual_seed(0)
    module = ActorCriticModule(
        observation_space=env.single_observation_space,
        action_space=env.single_action_space,
        model_config={"hidden_sizes": (8,), "activation": "tanh", "initial_log_std": -0.5, "streams": len(STREAMS)},
    )
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    env.close()
    return Actor(module.get_state(), activation="tanh", discrete=module.discrete)


def collect(plan: RolloutPlan, steps: int, collector: Collector | None = None) -> Rollout:
    collector = collector or Collector(plan, ENTROPY)
    return collector.collect(make_actor(plan), steps, np.random.default_rng(0))


def one_step_at_a_time(plan: RolloutPlan, steps: int) -> dict[str, np.ndarray]:
    """The same rollout in plain Python: gymnasium environments, one step and one value at a time."""
    actor, seeds = make_actor(plan), EpisodeSeeds(ENTROPY)
    noise = actor.noise(np.random.default_rng(0), steps, plan.num_envs)
    rows: dict[str, list] = {name: [] for name in ("observations", "actions", "advantages", "value_targets")}
    for n in range(plan.num_envs):
        env = make_env(plan.env)
        decode = action_decoder(env.action_space)
        scale = ActionScale(env.action_space) if isinstance(env.action_space, gym.spaces.Box) else None
        episode = 0
        observation, _ = env.reset(seed=seeds.seed(n, episode))
        track: list[tuple] = []
        for t in range(steps):
            seen = actor.normalize(np.float32(observation)[None], np.empty((1, len(observation)), np.float32))
            action = actor.sample(actor.policy(seen).copy(), noise[t, n : n + 1])
            (applied,) = decode(action if scale is None else scale(action, np.empty_like(action)))
            following, reward, terminated, truncated, info = env.step(applied)
            next_seen = actor.normalize(np.float32(following)[None], np.empty((1, len(following)), np.float32))
            next_value = actor.values(next_seen)[0] * (not terminated)
            rewards = np.array([reward, info["cost"]])
            track.append((seen[0], action[0], rewards, actor.values(seen)[0], next_value, terminated or truncated))
            observation = following
            if terminated or truncated:
                episode += 1
                observation, _ = env.reset(seed=seeds.seed(n, episode))
        env.close()
        gammas, lambdas = np.array([0.99, 0.9]), np.array([0.95, 0.8])
        advantage = np.zeros(2)
        advantages = []
        for _, _, rewards, value, next_value, done in reversed(track):
            advantage = rewards + gammas * next_value - value + gammas * lambdas * advantage * (not done)
            advantages.append(advantage)
        rows["observations"].append([row[0] for row in track])
        rows["actions"].append([row[1] for row in track])
        rows["advantages"].append(advantages[::-1])
        rows["value_targets"].append([a + row[3] for a, row in zip(advantages[::-1], track, strict=True)])
    stacked = {
        name: np.swapaxes(np.array(column), 0, 1).reshape(-1, *np.shape(column)[2:]) for name, column in rows.items()
    }
    return {name: column.T if name in ("advantages", "value_targets") else column for name, column in stacked.items()}


@pytest.mark.parametrize(
    ("id", "options"),
    [
        ("CartPole-v1", {"max_episode_steps": 15}),  # ends by falling and by the limit
        ("Pendulum-v1", {"max_episode_steps": 30}),  # by the limit alone; actions scaled to [-2, 2]
        ("faulty_environments:Ramp-v0", {}),  # a cost
    ],
)
def test_columns_equal_one_step_at_a_time(id: str, options: dict[str, Any]) -> None:
    plan = make_plan(id, **options)
    (batch,) = collect(plan, 70).shards
    for name, expected in one_step_at_a_time(plan, 70).items():
        np.testing.assert_allclose(getattr(batch, name), expected, rtol=2e-4, atol=2e-4, err_msg=name)


def test_episodes_are_counted_across_rollouts() -> None:
    plan = make_plan("faulty_environments:Ramp-v0", num_envs=2)
    collector = Collector(plan, ENTROPY)
    first, second = (collect(plan, 7, collector).episodes for _ in range(2))
    assert len(first) == 0
    assert second.returns == [55.0, 55.0]
    assert second.lengths == [10, 10]
    assert all(0 <= cost <= 10 for cost in second.costs)


def test_moments_are_those_of_the_raw_observations() -> None:
    plan = make_plan("faulty_environments:Ramp-v0", num_envs=2)
    rollout = collect(plan, 50)
    assert rollout.moments is not None
    assert rollout.moments.count == 100
    assert rollout.moments.mean[0] == pytest.approx(0.45)  # steps 0 to 9 of 10


def test_a_step_that_raises_is_left_out_and_nothing_else_is_touched(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    plan = make_plan("faulty_environments:Marked-v0", num_envs=2, mark=str(mark))
    clean = collect(plan, 8)
    mark.touch()
    rollout = collect(plan, 8)
    (batch,), (reference,) = rollout.shards, clean.shards
    assert rollout.environment_failures == 1
    assert rollout.env_steps == len(batch) == 15
    # Environment 0 raised in its third step; both columns before that are as if nothing had happened.
    np.testing.assert_array_equal(batch.observations[:4], reference.observations[:4])
    # The step before it bootstraps from the value of the state in which it raised.
    actor = make_actor(plan)
    values = actor.values(reference.observations)
    delta = 2.0 + 0.99 * values[4, 0] - values[2, 0]
    assert batch.advantages[0, 2] == pytest.approx(delta, rel=1e-4)
    assert len(rollout.episodes) == 0


def test_an_environment_that_raises_can_stop_the_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    with pytest.raises(EnvironmentFailed, match="the physics exploded"):
        collect(make_plan("faulty_environments:Marked-v0", on_error="raise", mark=str(mark)), 8)


def test_a_reward_that_is_nan_stops_the_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    with pytest.raises(TrainingStopped, match="reward nan"):
        collect(make_plan("faulty_environments:NaNReward-v0", mark=str(mark)), 8)


def test_a_last_observation_that_is_nan_stops_the_run_where_a_value_or_a_bonus_is_taken_of_it() -> None:
    id = "awkward_environments:NaNAtTheEnd-v0"
    cut, fallen = (make_plan(id, terminated=terminated) for terminated in (False, True))
    with pytest.raises(TrainingStopped, match="last observation nan in step 9"):
        collect(cut, 12)
    assert len(collect(fallen, 12).episodes) == 3, "nothing follows a termination"
    actor, rng = make_actor(fallen), np.random.default_rng(0)
    with pytest.raises(TrainingStopped, match="last observation nan in step 9"):
        Collector(fallen, ENTROPY).collect(actor, 12, rng, lambda states, actions, next_states: next_states[:, 0])


def test_the_step_that_reaches_the_goal_is_a_visit_of_the_goal() -> None:
    plan = make_plan("SparseMountainCar-v0")
    collector = Collector(plan, ENTROPY)
    collect(plan, 1, collector)
    collector.env.exact_observations[:] = [0.48, 0.05]
    rollout = collect(plan, 1, collector)
    assert rollout.episodes.returns == [1.0] * 3
    assert rollout.visits is not None
    low, high = rollout.visits.plane.low[0], rollout.visits.plane.high[0]
    goal = int((0.5 - low) / (high - low) * BINS)
    assert rollout.visits.counts[goal:].sum() == rollout.visits.counts.sum() == 3


@pytest.mark.parametrize("id", ["CartPole-v1", "faulty_environments:Ramp-v0"])
def test_a_loaded_collector_continues_exactly(id: str) -> None:
    plan = make_plan(id)
    actor = make_actor(plan)
    first = Collector(plan, ENTROPY)
    first.collect(actor, 33, np.random.default_rng(1))
    second = Collector(plan, ENTROPY)
    second.load(first.state())
    expected, result = (collector.collect(actor, 40, np.random.default_rng(2)) for collector in (first, second))
    for name in ("observations", "actions", "log_probs", "advantages", "value_targets"):
        np.testing.assert_array_equal(getattr(result.shards[0], name), getattr(expected.shards[0], name))
    assert result.episodes == expected.episodes


def test_a_split_batch_concatenates_to_itself() -> None:
    (batch,) = collect(make_plan("CartPole-v1"), 35).shards
    parts = batch.split(4)
    assert sum(map(len, parts)) == len(batch)
    whole = ColumnBatch.concatenate(parts)
    np.testing.assert_array_equal(whole.observations, batch.observations)
    np.testing.assert_array_equal(whole.advantages, batch.advantages)
