"""The native velocity tasks give the episodes of safety-gymnasium 1.0.0."""

import numpy as np
import pytest

from quadriga.platform.environments.registry import make_env
from quadriga.platform.environments.safety_gymnasium import VELOCITY_ROBOTS
from quadriga.platform.environments.safety_velocity import ROBOTS, SafetyVelocityEnv
from quadriga.platform.environments.settings import EnvironmentSettings


def test_robots_are_the_package_s():
    assert set(ROBOTS) == set(VELOCITY_ROBOTS)


def compare(robot, seeds, steps, max_episode_steps=None):
    id = f"Safety{robot}Velocity-v1"
    ours = SafetyVelocityEnv(robot, len(seeds), name=id, rebuild=False, max_episode_steps=max_episode_steps)
    theirs = [make_env(EnvironmentSettings(id=id, max_episode_steps=max_episode_steps)) for _ in seeds]
    assert ours.single_action_space == theirs[0].action_space
    ours.reset(seed=list(seeds))
    expected = [env.reset(seed=seed)[0] for env, seed in zip(theirs, seeds, strict=True)]
    np.testing.assert_array_equal(ours.exact_observations, expected)
    random = np.random.default_rng(seeds[0])
    low, high = ours.single_action_space.low, ours.single_action_space.high
    drift = np.zeros((len(seeds), len(low)))
    ends, costs = 0, 0
    for step in range(steps):
        drift = 0.8 * drift + 0.6 * random.normal(size=drift.shape)
        actions = np.clip(drift * high, low, high).astype(np.float32)
        if step % 40 == 20:  # fast enough for the limit, in both
            for data, env in zip(ours._simulations, theirs, strict=True):
                data.qvel[0] = env.unwrapped.data.qvel[0] = 4.0
        _, _, terminations, truncations, infos = ours.step(actions)
        for row, env in enumerate(theirs):
            observation, reward, terminated, truncated, info = env.step(actions[row])
            assert ours.exact_rewards[row] == reward
            assert infos["cost"][row] == info["cost"]
            assert (terminations[row], truncations[row]) == (terminated, truncated)
            costs += info["cost"]
            if terminated or truncated:
                ends += 1
                np.testing.assert_array_equal(ours.exact_final_observations[row], observation)
                observation, _ = env.reset()
            np.testing.assert_array_equal(ours.exact_observations[row], observation)
    return ends, costs


@pytest.mark.parametrize("robot", VELOCITY_ROBOTS)
def test_velocity_task_gives_the_same_episodes(robot):
    ends, costs = compare(robot, [1, 2], 110, max_episode_steps=50)
    assert ends >= 4
    assert costs > 0


@pytest.mark.slow
@pytest.mark.parametrize("robot", VELOCITY_ROBOTS)
def test_velocity_task_gives_the_same_episodes_for_ten_seeds(robot):
    ends, _ = compare(robot, list(range(10)), 1200)
    assert ends >= 10
