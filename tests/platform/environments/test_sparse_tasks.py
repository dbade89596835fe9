"""The tasks of exploration: what they pay, how they move, and that a snapshot is the whole of them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from quadriga.platform.environments.registry import list_environments, make_env, make_vector_env
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.environments.sparse_tasks import SPARSE_TASKS, is_ram
from quadriga.platform.errors import UserError

CONTROL = [id for id in SPARSE_TASKS if not is_ram(id)]
RAM = [id for id in SPARSE_TASKS if is_ram(id)]
IDS = CONTROL + RAM


def make(id: str, num_envs: int = 3, **changes: Any) -> Any:
    return make_vector_env(EnvironmentSettings(id=id, **changes), num_envs, episode_seeds=EpisodeSeeds((7, 1)))


def random_actions(env: Any, steps: int, seed: int = 0) -> np.ndarray:
    rng, space = np.random.default_rng(seed), env.single_action_space
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(0, space.n, (steps, env.num_envs))
    return rng.uniform(space.low, space.high, (steps, env.num_envs, *space.shape)).astype(np.float32)


@pytest.mark.parametrize("id", IDS)
def test_an_episode_is_cut_off_at_the_time_limit_and_another_follows(id: str) -> None:
    env = make(id, max_episode_steps=4)
    env.reset()
    for t, action in enumerate(random_actions(env, 8), 1):
        observations, _, terminations, truncations, infos = env.step(action)
        assert truncations.all() == (t % 4 == 0)
        assert not terminations.any()
        assert env.single_observation_space.contains(observations[0])
        if t % 4 == 0:
            assert not np.array_equal(infos["final_obs"], observations)


@pytest.mark.parametrize("id", IDS)
def test_a_snapshot_in_the_middle_of_episodes_continues_them_exactly(id: str) -> None:
    env, again = make(id, max_episode_steps=15), make(id, max_episode_steps=15)
    env.reset()
    actions = random_actions(env, 40)
    for action in actions[:10]:
        env.step(action)
    again.reset()
    assert again.set_state(env.state()) == []
    for action in actions[10:]:
        for result, expected in zip(again.step(action)[:4], env.step(action)[:4], strict=True):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("id", IDS)
def test_one_environment_by_itself_plays_the_same_episode(id: str) -> None:
    env, one = make(id, 1), make_env(EnvironmentSettings(id=id))
    first, _ = env.reset()
    observation, _ = one.reset(seed=EpisodeSeeds((7, 1)).seed(0, 0))
    np.testing.assert_array_equal(observation, first[0])
    for action in random_actions(env, 10):
        expected, rewards, *_, infos = env.step(action)
        observation, reward, *_, info = one.step(action[0])
        np.testing.assert_array_equal(observation, expected[0])
        assert (reward, info["cost"]) == (rewards[0], infos["cost"][0])


@pytest.mark.parametrize("id", IDS)
def test_it_is_listed_and_takes_no_arguments(id: str) -> None:
    assert id in {row.id for row in list_environments()}
    with pytest.raises(UserError, match=r"env\.kwargs: .* takes no arguments, got \{'x': 1\}"):
        make(id, kwargs={"x": 1})
    with pytest.raises(UserError, match="cannot render 'rgb_array'"):
        make_env(EnvironmentSettings(id=id), render_mode="rgb_array")


def test_mountain_car_moves_as_gymnasium_s_and_pays_only_at_the_goal() -> None:
    env, reference = make("SparseMountainCar-v0", 1), gym.make("MountainCar-v0").unwrapped
    env.reset()
    reference.reset()
    reference.state = env.exact_observations[0].copy()
    rewards, ended = [], False
    while not ended:
        push = np.sign(env.exact_observations[0, 1]) or 1.0  # the way that it moves already
        action = np.array([push], np.float32)
        _, _, expected_end, _, _ = reference.step(2 if push > 0 else 0)
        _, reward, terminated, _, infos = env.step(action[None])
        rewards.append(float(reward[0]))
        ended = bool(terminated[0])
        assert ended == expected_end
        np.testing.assert_allclose(infos["final_obs"][0] if ended else env.exact_observations[0], reference.state, 1e-4)
    assert rewards[-1] == 1.0
    assert sum(rewards) == 1.0


# Where Box2D 2.3.10 has rllab's cart and pole after 12, 24 and 48 steps: three beginnings, the last one pushed.
BOX2D_BEGINS = [[0, 0, 0.3, 0], [0, 0, np.pi - 1, 3], [0, 0, 2.5, 2]]
BOX2D = {
    12: [[0.032, 0.045, 1.618, 5.014], [-0.036, 0.049, 4.309, 1.212], [0.404, 0.654, 3.618, 1.051]],
    24: [[-0.059, -0.009, 4.725, 2.122], [0.067, 0.254, 2.757, -4.029], [0.757, 1.363, 2.882, -3.477]],
    48: [[0.029, -0.021, 1.932, 1.68], [0.101, 0.073, 4.101, 0.043], [1.441, 0.04, 3.786, 0.743]],
}


def test_cart_and_pole_move_as_in_box2d_which_takes_a_fast_pole_s_energy() -> None:
    env = make("SparseCartPoleSwingup-v0", 3)
    env.reset()
    env.exact_observations[:] = BOX2D_BEGINS
    for t in range(48):
        env.step(np.array([[0], [0], [5 * np.sin(0.4 * t)]], np.float32))
        if t + 1 in BOX2D:
            np.testing.assert_allclose(env.exact_observations, BOX2D[t + 1], atol=0.05 if t < 24 else 0.12)


@pytest.mark.parametrize("id", ["SparseMountainCar-v0", "SparseCartPoleSwingup-v0", "SparseHalfCheetah-v0"])
def test_noise_alone_is_never_paid(id: str) -> None:
    env = make(id, 20)
    env.reset()
    space, rng = env.single_action_space, np.random.default_rng(0)
    for _ in range(1000):
        noise = space.high * rng.standard_normal((20, *space.shape))
        assert not env.step(noise.astype(np.float32))[1].any()


def test_cartpole_swingup_pays_for_an_upright_pole_and_ends_off_the_track() -> None:
    env = make("SparseCartPoleSwingup-v0", 3)
    env.reset()
    env.exact_observations[:] = [[0, 0, 0.3, 0], [0, 0, np.pi, 0], [2.99, 5, 0, 0]]
    _, rewards, terminations, _, _ = env.step(np.zeros((3, 1), np.float32))
    assert rewards.tolist() == [1, 0, 0]
    assert terminations.tolist() == [False, False, True]


def test_half_cheetah_is_paid_beyond_five_units_only() -> None:
    env = make("SparseHalfCheetah-v0", 2)
    env.reset()
    env._simulations[1].qpos[0] += 6
    observations, rewards, *_ = env.step(np.zeros((2, 6), np.float32))
    assert rewards.tolist() == [0, 1]
    assert observations[1, -3] - observations[0, -3] > 5


def test_swimmer_catches_each_object_once_and_sees_what_is_ahead() -> None:
    env = make("SwimmerGather-v0", 1)
    env.reset()
    center = env._centers[0][:2].copy()
    env._objects[0, :, :2] = 100.0
    env._objects[0, 0, :2] = center + np.array([0.5, 0.0])  # an apple within reach
    env._objects[0, -1, :2] = center + np.array([3.0, 0.0])  # a bomb ahead, out of reach
    still = np.zeros((1, 2), np.float32)
    rewards = [float(env.step(still)[1][0]) for _ in range(2)]
    observations = env.observations()
    assert rewards == [1, 0]
    apples, bombs = observations[0, -20:-10], observations[0, -10:]
    assert not apples.any()
    assert bombs[4:6].sum() == pytest.approx(0.5, abs=0.1)


def test_swimmer_moves_and_stays_within_the_walls() -> None:
    env = make("SwimmerGather-v0", 2)
    env.reset()
    begin = np.array(env._centers)
    for t in range(200):
        phase = np.sin(0.1 * t + np.array([0.0, 1.0]))
        env.step(np.tile(50 * phase, (2, 1)).astype(np.float32))
    assert np.linalg.norm(np.array(env._centers) - begin, axis=1).min() > 0.5
    assert np.abs(env.exact_observations[:, :2]).max() < 8


def test_a_sparse_goal_task_is_the_dense_one_but_for_its_reward() -> None:
    sparse, dense = make("SparseSafetyPointGoal1-v0", 4), make("SafetyPointGoal1-v0", 4)
    np.testing.assert_array_equal(sparse.reset()[0], dense.reset()[0])
    paid = costs = 0.0
    for t, action in enumerate(random_actions(dense, 300)):
        action[:, 0] = 1.0  # on and on
        if t % 50 == 0:
            for env in (sparse, dense):  # the goal of the first one is where it stands
                env.things[0, env._goal] = env._simulations.agents[0, :2]
        result, expected = sparse.step(action), dense.step(action)
        for k in (0, 2, 3):
            np.testing.assert_array_equal(result[k], expected[k])
        np.testing.assert_array_equal(result[4]["cost"], expected[4]["cost"])
        np.testing.assert_array_equal(result[1], dense.goals_met)
        paid, costs = paid + result[1].sum(), costs + result[4]["cost"].sum()
    assert paid >= 6
    assert costs > 0


@pytest.mark.parametrize("id", RAM)
def test_the_seed_of_an_episode_decides_it_whatever_was_played_before(id: str) -> None:
    env, other = make(id, 1), make(id, 1)
    actions = random_actions(env, 60)
    env.reset()
    other.reset()
    for action in random_actions(env, 25, seed=1):
        other.step(action)
    other._episodes[0] = -1
    np.testing.assert_array_equal(other.reset()[0], env.observations())
    for action in actions:
        np.testing.assert_array_equal(other.step(action)[0], env.step(action)[0])


def test_ram_is_the_console_s_bytes() -> None:
    env = make("FreewayRam-v0", 2)
    env.reset()
    observations = env.step(np.array([1, 2]))[0]
    np.testing.assert_array_equal(np.round(observations * 255).astype(np.uint8)[1], env._consoles[1].getRAM())


def test_sticky_actions_keep_the_action_before_in_a_quarter_of_the_frames() -> None:
    env = make("FreewayRam-v0", 1)
    env.reset()
    kept = 0
    for t in range(400):  # the action changes in every step, so the last frame shows whether it was ever taken
        env.step(np.array([t % 3]))
        kept += env._held[0] != t % 3
    assert kept < 400 * 4 * 0.25**4  # all four frames kept the old one: one step in 256


def test_points_of_a_game_are_its_rewards() -> None:
    env = make("PongRam-v0", 1)
    env.reset()
    rewards = [env.step(np.array([0]))[1][0] for _ in range(300)]
    assert set(rewards) == {0.0, -1.0}  # nobody at the paddle
