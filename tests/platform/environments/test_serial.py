import pickle

import gymnasium
import numpy as np
import pytest

from quadriga.platform.environments.registry import make_env, make_vector_env
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.serial import SerialVectorEnv
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.environments.vector import MAX_CONSECUTIVE_FAILURES, EnvironmentFailed

SEEDS = EpisodeSeeds((7, 1))


class Fragile(gymnasium.Env):
    """Counts its steps; raises at the steps of `bad`, counted over all instances, and at the resets of `bad_resets`."""

    observation_space = gymnasium.spaces.Box(-10.0, 1e6, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, counter, bad=(), bad_resets=()):
        self.counter, self.bad, self.bad_resets = counter, bad, bad_resets
        self.counter["made"] = self.counter.get("made", 0) + 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.counter["resets"] = self.counter.get("resets", 0) + 1
        if self.counter["resets"] in self.bad_resets:
            raise OSError("no reset today")
        self.steps = 0
        return np.array([-5.0], np.float32), {}

    def step(self, action):
        self.counter["steps"] = self.counter.get("steps", 0) + 1
        if self.counter["steps"] in self.bad:
            raise ZeroDivisionError("physics exploded")
        self.steps += 1
        return np.array([self.steps], np.float32), 1.0, self.steps == 4, False, {"cost": 0.5}


def fragile(num_envs=1, rebuild=True, **kwargs):
    counter = {}
    env = SerialVectorEnv(lambda: Fragile(counter, **kwargs), num_envs, name="Fragile", rebuild=rebuild)
    return env, counter


def actions_of(env, steps, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


def play(env, actions):
    """Copies of everything that the steps return."""
    return [tuple(np.copy(x) for x in (*out[:4], out[4]["cost"])) for out in map(env.step, actions)]


def assert_same(first, second):
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        for name, x, y in zip(("observation", "reward", "terminated", "truncated", "cost"), a, b, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=f"{name} in step {step}", strict=True)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"id": "CartPole-v1"}, 300),
        ({"id": "CartPole-v1", "max_episode_steps": 5}, 40),
        ({"id": "Pendulum-v1"}, 450),
        ({"id": "HalfCheetah-v5", "max_episode_steps": 60}, 150),
        ({"id": "FrozenLake-v1", "kwargs": {"is_slippery": False}}, 300),
        ({"id": "SafetyPointGoal1-v0", "max_episode_steps": 12, "native": False}, 30),
        ({"id": "SafetyHalfCheetahVelocity-v1", "max_episode_steps": 40, "native": False}, 100),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_columns_equal_single_environments_step_for_step(settings, steps):
    settings = EnvironmentSettings(**settings)
    vector = make_vector_env(settings, 3, episode_seeds=SEEDS)
    singles = [make_env(settings) for _ in range(3)]
    episodes = [0, 0, 0]

    def flat(single, observation):
        return gymnasium.spaces.flatten(single.observation_space, observation).astype(np.float32)

    def begin(index):
        observation, _ = singles[index].reset(seed=SEEDS.seed(index, episodes[index]))
        episodes[index] += 1
        return flat(singles[index], observation)

    observations, _ = vector.reset()
    np.testing.assert_array_equal(observations, [begin(i) for i in range(3)])
    for actions in actions_of(vector, steps):
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        assert "failed" not in infos
        for i, single in enumerate(singles):
            observation, reward, terminated, truncated, info = single.step(actions[i])
            observation = flat(single, observation)
            assert rewards[i] == np.float32(reward)
            assert (terminations[i], truncations[i]) == (terminated, truncated)
            assert infos["cost"][i] == np.float32(info["cost"])
            if terminated or truncated:
                np.testing.assert_array_equal(infos["final_obs"][i], observation)
                observation = begin(i)
            np.testing.assert_array_equal(observations[i], observation)
    assert min(episodes) > 1, "the episodes are too short to show anything about autoreset"
    np.testing.assert_array_equal(vector.observations(), observations)
    vector.close()


def test_columns_have_the_promised_types_and_shapes():
    env = make_vector_env(EnvironmentSettings(id="Pendulum-v1"), 2)
    observations, _ = env.reset(seed=0)
    out = env.step(np.zeros((2, 1), np.float32))
    arrays = [observations, *out[:4], out[4]["cost"], out[4]["final_obs"]]
    kinds = [(array.dtype.name, array.shape) for array in arrays]
    floats, flags, vectors = ("float32", (2,)), ("bool", (2,)), ("float32", (2, 3))
    assert kinds == [vectors, vectors, floats, flags, flags, floats, vectors]
    assert env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.SAME_STEP


def test_integer_seed_counts_up_and_a_sequence_is_taken_as_it_is():
    env = make_vector_env(EnvironmentSettings(id="CartPole-v1"), 3)
    counted = env.reset(seed=5)[0].copy()
    np.testing.assert_array_equal(counted, env.reset(seed=[5, 6, 7])[0])
    assert not np.array_equal(counted[0], counted[1])
    with pytest.raises(ValueError, match="expected 3 seeds, got 2"):
        env.reset(seed=[1, 2])


def test_second_source_of_seeds_is_refused():
    env = make_vector_env(EnvironmentSettings(id="CartPole-v1"), 1, episode_seeds=SEEDS)
    with pytest.raises(ValueError, match="episode_seeds"):
        env.reset(seed=1)


@pytest.mark.parametrize(
    ("id", "before", "after"),
    [
        ("CartPole-v1", 130, 100),
        ("HalfCheetah-v5", 60, 60),
        ("SafetyPointGoal1-v0", 25, 25),
        ("SafetyAntButton1-v0", 5, 5),
    ],
)
def test_restored_snapshot_continues_bit_for_bit_in_the_middle_of_episodes(id, before, after):
    settings = EnvironmentSettings(id=id, max_episode_steps=40, native=False)
    env = make_vector_env(settings, 2, episode_seeds=SEEDS)
    env.reset()
    actions = actions_of(env, before + after)
    play(env, actions[:before])
    state = pickle.loads(pickle.dumps(env.state()))
    expected = play(env, actions[before:])

    restored = make_vector_env(settings, 2, episode_seeds=SEEDS)
    assert restored.set_state(state) == []
    np.testing.assert_array_equal(restored.observations(), state["observations"])
    assert_same(play(restored, actions[before:]), expected)
    assert pickle.dumps(restored.state()) == pickle.dumps(env.state())


def test_snapshot_restores_into_a_vector_that_has_been_used():
    env = make_vector_env(EnvironmentSettings(id="HalfCheetah-v5"), 2, episode_seeds=SEEDS)
    env.reset()
    actions = actions_of(env, 60)
    play(env, actions[:30])
    state = env.state()
    expected = play(env, actions[30:])
    assert env.set_state(state) == []
    assert_same(play(env, actions[30:]), expected)


def test_environment_that_its_seed_does_not_determine_begins_a_new_episode():
    class Moody(Fragile):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.array([self.counter["resets"]], np.float32), {}

    counter = {}
    env = SerialVectorEnv(lambda: Moody(counter), 2, name="Moody", episode_seeds=SEEDS)
    env.reset()
    assert env.set_state(env.state()) == [0, 1]
    assert env.state()["episodes"] == [1, 1]


def test_snapshot_needs_seeds_and_as_many_environments():
    with pytest.raises(ValueError, match="episode_seeds"):
        fragile()[0].state()
    settings = EnvironmentSettings(id="CartPole-v1")
    env = make_vector_env(settings, 2, episode_seeds=SEEDS)
    env.reset()
    with pytest.raises(ValueError, match="of 2 environments, not of 3"):
        make_vector_env(settings, 3, episode_seeds=SEEDS).set_state(env.state())


def test_raising_environment_is_built_anew_and_its_step_is_marked():
    env, counter = fragile(num_envs=2, bad=(4,))  # the second environment's second step
    env.reset()
    env.step(np.array([0, 0]))
    observations, rewards, terminations, truncations, infos = env.step(np.array([0, 0]))
    assert infos["failed"].tolist() == [False, True]
    assert counter["made"] == 3
    assert observations[:, 0].tolist() == [2, -5]
    assert rewards.tolist() == [1, 0]
    assert infos["cost"].tolist() == [0.5, 0]
    assert not terminations.any()
    assert not truncations.any()
    observations, *_, infos = env.step(np.array([0, 0]))
    assert "failed" not in infos
    assert observations[:, 0].tolist() == [3, 1]


def test_environment_that_cannot_be_reset_is_built_anew_and_its_last_step_counts():
    env, counter = fragile(bad_resets=(1, 3))
    assert env.reset()[0].tolist() == [[-5]]
    for _ in range(3):
        env.step(np.array([0]))
    observations, _, terminations, _, infos = env.step(np.array([0]))
    assert counter["made"] == 3
    assert "failed" not in infos
    assert terminations.tolist() == [True]
    assert infos["final_obs"].tolist() == [[4]]
    assert observations.tolist() == [[-5]]


def test_raising_environment_stops_the_run_when_so_set():
    env, _ = fragile(num_envs=2, rebuild=False, bad=(2,))
    env.reset()
    with pytest.raises(
        EnvironmentFailed, match=r"environment 1 of 'Fragile' raised ZeroDivisionError: physics exploded"
    ):
        env.step(np.array([0, 0]))


def test_environment_that_never_works_again_is_given_up():
    env, counter = fragile(bad=range(10, 1000))
    env.reset()
    with pytest.raises(EnvironmentFailed, match=f"failed {MAX_CONSECUTIVE_FAILURES} times in a row"):
        play(env, [np.array([0])] * 100)
    assert counter["made"] == MAX_CONSECUTIVE_FAILURES


def test_failures_with_good_steps_between_do_not_add_up():
    env, counter = fragile(bad=range(2, 1000, 2))
    env.reset()
    for _ in range(4 * MAX_CONSECUTIVE_FAILURES):
        env.step(np.array([0]))
    assert counter["made"] == 1 + 2 * MAX_CONSECUTIVE_FAILURES


def test_closing_twice_is_allowed():
    env = make_vector_env(EnvironmentSettings(id="CartPole-v1"), 2)
    env.close()
    env.close()
