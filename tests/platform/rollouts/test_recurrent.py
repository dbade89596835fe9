"""Rollouts of a policy with a memory: what the columns say of it is what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from quadriga.platform.environments.registry import make_env, make_vector_env
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.environments.spaces import action_decoder
from quadriga.platform.rollouts.actors import ActionScale
from quadriga.platform.rollouts.advantages import ValueStream
from quadriga.platform.rollouts.collector import Collector
from quadriga.platform.rollouts.columns import ColumnBatch
from quadriga.platform.rollouts.plan import RolloutPlan
from quadriga.platform.rollouts.recurrent import RecurrentActor, make_actor
from quadriga.policies.module import ActorCriticModule
from quadriga.policies.recurrent import Memory

ENTROPY = (7, 1, 0)
STREAMS = (ValueStream("reward", 0.99, 0.95), ValueStream("cost", 0.9, 0.8))
LENGTH, STEPS = 6, 24


def make_plan(id: str, num_envs: int = 3, **kwargs: Any) -> RolloutPlan:
    limit = kwargs.pop("max_episode_steps", None)
    env = EnvironmentSettings(id=id, kwargs=kwargs, max_episode_steps=limit)
    return RolloutPlan(env, num_envs, 7, STREAMS, "tanh", collect_moments=True, sequence_length=LENGTH)


def make_module(plan: RolloutPlan) -> ActorCriticModule:
    env = make_vector_env(plan.env, 1)
    torch.manual_seed(0)
    config = {"hidden_sizes": (8,), "activation": "tanh", "initial_log_std": -0.5, "streams": 2, "units": 5}
    module = ActorCriticModule(
        observation_space=env.single_observation_space, action_space=env.single_action_space, model_config=config
    )
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    env.close()
    return module


def actor_of(module: ActorCriticModule) -> RecurrentActor:
    actor = make_actor(module.get_state(), activation="tanh", discrete=module.discrete)
    assert isinstance(actor, RecurrentActor)
    return actor


def memory(batch: ColumnBatch) -> Memory:
    return Memory(torch.from_numpy(batch.resets), torch.from_numpy(batch.initial_states))


# Episodes that end by termination, by a time limit, and hardly ever; with discrete actions too.
CASES = {
    "ramp": make_plan("faulty_environments:Ramp-v0"),
    "truncated": make_plan("faulty_environments:Ramp-v0", length=50, max_episode_steps=7),
    "cartpole": make_plan("CartPole-v1"),
}


@pytest.mark.parametrize("plan", CASES.values(), ids=CASES)
def test_the_torch_module_sees_what_the_actor_saw(plan: RolloutPlan) -> None:
    """States at the beginnings of sequences and resets inside them are right, or the outputs would differ."""
    module, collector = make_module(plan), Collector(plan, ENTROPY)
    for request in range(3):
        batch: ColumnBatch = collector.collect(actor_of(module), STEPS, np.random.default_rng(request)).shards[0]
        assert len(batch) == STEPS * plan.num_envs == LENGTH * len(batch.initial_states)
        observations = torch.from_numpy(batch.observations)
        with torch.no_grad():
            inputs = module.distribution_inputs(observations, memory(batch)).numpy()
            values = module.values(observations, memory(batch)).numpy()
        np.testing.assert_allclose(batch.distributions, inputs, atol=2e-6)
        np.testing.assert_allclose(batch.value_targets - batch.advantages, values, atol=1e-5)
    assert np.abs(batch.initial_states).max() > 0.01
    collector.close()


def one_episode_at_a_time(plan: RolloutPlan, module: ActorCriticModule, steps: int, rollouts: int) -> dict[str, Any]:
    """The rows of environment 0 in plain Python: torch, one step at a time, memory from each episode's beginning."""
    actor, seeds = actor_of(module), EpisodeSeeds(ENTROPY)
    env = make_env(plan.env)
    decode = action_decoder(env.action_space)
    scale = ActionScale(env.action_space) if isinstance(env.action_space, gym.spaces.Box) else None
    episode = 0
    observation, _ = env.reset(seed=seeds.seed(0, episode))
    seen: list[torch.Tensor] = []

    def outputs(observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the whole episode up to here, as one sequence that begins with nothing."""
        history = torch.stack([*seen, torch.from_numpy(np.float32(observation))])
        nothing = Memory(torch.zeros(len(history), dtype=torch.bool), torch.zeros(1, module.state_dim))
        with torch.no_grad():
            observed = module.normalizer(history)
            return (
                module.distribution_inputs(observed, nothing)[-1].numpy(),
                module.values(observed, nothing)[:, -1].numpy(),
            )

    found = []
    for request in range(rollouts):
        noise = actor.noise(np.random.default_rng(request), steps, plan.num_envs)
        track = []
        for t in range(steps):
            distribution, value = outputs(observation)
            seen.append(torch.from_numpy(np.float32(observation)))
            action = actor.sample(distribution[None], noise[t, :1])
            (applied,) = decode(action if scale is None else scale(action, np.empty_like(action)))
            observation, reward, terminated, truncated, info = env.step(applied)
            next_value = outputs(observation)[1] * (not terminated)
            done = terminated or truncated
            track.append((distribution, value, np.array([reward, info.get("cost", 0.0)]), next_value, done))
            if done:
                episode += 1
                seen.clear()
                observation, _ = env.reset(seed=seeds.seed(0, episode))
        advantage, advantages = np.zeros(2), []
        for _, value, rewards, next_value, done in reversed(track):
            delta = rewards + np.array([0.99, 0.9]) * next_value - value
            advantage = delta + np.array([0.99 * 0.95, 0.9 * 0.8]) * advantage * (not done)
            advantages.append(advantage)
        found.append((np.array([row[0] for row in track]), np.array(advantages[::-1])))
    env.close()
    return {"distributions": [row[0] for row in found], "advantages": [row[1] for row in found]}


@pytest.mark.parametrize("plan", CASES.values(), ids=CASES)
def test_columns_equal_a_slow_reference_over_several_rollouts(plan: RolloutPlan) -> None:
    """Above all the values behind the last step of a rollout, of a time limit, and after an episode ended."""
    module, collector = make_module(plan), Collector(plan, ENTROPY)
    expected = one_episode_at_a_time(plan, module, STEPS, 2)
    for request in range(2):
        batch: ColumnBatch = collector.collect(actor_of(module), STEPS, np.random.default_rng(request)).shards[0]
        first = np.arange(len(batch)).reshape(-1, plan.num_envs, LENGTH)[:, 0].reshape(-1)
        np.testing.assert_allclose(batch.distributions[first], expected["distributions"][request], atol=1e-5)
        np.testing.assert_allclose(batch.advantages.T[first], expected["advantages"][request], rtol=1e-4, atol=1e-4)
    collector.close()


def test_a_sequence_with_a_lost_step_is_left_out_and_the_next_episode_remembers_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    plan = make_plan("faulty_environments:Marked-v0", mark=str(mark))
    module, collector = make_module(plan), Collector(plan, ENTROPY)
    mark.touch()
    rollout = collector.collect(actor_of(module), STEPS, np.random.default_rng(0))
    batch: ColumnBatch = rollout.shards[0]
    assert rollout.env_steps == STEPS * 3 - 1
    assert len(batch.initial_states) == STEPS * 3 // LENGTH - 1
    with torch.no_grad():
        inputs = module.distribution_inputs(torch.from_numpy(batch.observations), memory(batch)).numpy()
    np.testing.assert_allclose(batch.distributions, inputs, atol=2e-6)
    collector.close()


def test_a_loaded_collector_remembers(tmp_path: Path) -> None:
    plan = CASES["ramp"]
    actor, first, second = actor_of(make_module(plan)), Collector(plan, ENTROPY), Collector(plan, ENTROPY)
    first.collect(actor, STEPS, np.random.default_rng(0))
    second.load(first.state())
    one, other = (each.collect(actor, STEPS, np.random.default_rng(1)).shards[0] for each in (first, second))
    for name in ("distributions", "actions", "advantages", "initial_states", "resets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for collector in (first, second):
        collector.close()


def test_shards_hold_whole_sequences() -> None:
    plan = CASES["ramp"]
    collector = Collector(plan, ENTROPY)
    batch: ColumnBatch = collector.collect(actor_of(make_module(plan)), STEPS, np.random.default_rng(0)).shards[0]
    collector.close()
    shards = batch.split(5)
    assert {len(shard) % LENGTH for shard in shards} == {0}
    assert [len(shard) // LENGTH for shard in shards] == [len(shard.initial_states) for shard in shards]
    whole = ColumnBatch.concatenate(shards)
    for name in ("observations", "advantages", "resets", "initial_states"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(batch, name))
