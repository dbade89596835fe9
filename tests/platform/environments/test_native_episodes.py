"""Snapshots, autoresets, seeds and failures of the native environments."""

import os
import pickle
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.environments.safety_navigation import SafetyNavigationEnv
from quadriga.platform.environments.safety_velocity import SafetyVelocityEnv
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.serial import SerialVectorEnv
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.environments.vector import MAX_CONSECUTIVE_FAILURES, EnvironmentFailed

SEEDS = EpisodeSeeds((7, 1))
SOME = ["SafetyPointGoal1-v0", "SafetyCarButton2-v0", "SafetyAntPush2-v0", "SafetyHumanoidVelocity-v1"]


def make(id="SafetyPointGoal1-v0", num_envs=3, seeds=SEEDS, **settings):
    return make_vector_env(EnvironmentSettings(id=id, **settings), num_envs, episode_seeds=seeds)


def actions_of(env, steps, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


def play(env, actions):
    """Copies of everything that the steps return."""
    return [
        tuple(np.copy(x) for x in (*out[:4], out[4]["cost"], env.exact_observations, env.exact_rewards))
        for out in map(env.step, actions)
    ]


def assert_same(first, second):
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            np.testing.assert_array_equal(x, y, err_msg=f"value {number} in step {step}", strict=True)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"id": "SafetyRacecarPush0-v0"}, SafetyNavigationEnv),
        ({"id": "SafetySwimmerVelocity-v1"}, SafetyVelocityEnv),
        ({"id": "SafetyPointGoal1-v0", "native": False}, SerialVectorEnv),
        ({"id": "SafetyPointGoal1-v0", "kwargs": {"width": 64}}, SerialVectorEnv),
        ({"id": "SafetyPointCircle1-v0"}, SerialVectorEnv),
        ({"id": "SafetyPointRun0-v0"}, SerialVectorEnv),
        ({"id": "CartPole-v1"}, SerialVectorEnv),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_environment_is_native_where_it_can_be(settings, kind):
    assert type(make_vector_env(EnvironmentSettings(**settings), 1)) is kind


@pytest.mark.parametrize("id", SOME)
def test_native_columns_equal_the_unmodified_ones(id):
    native, unmodified = make(id, max_episode_steps=12), make(id, max_episode_steps=12, native=False)
    assert native.single_observation_space == unmodified.single_observation_space
    assert native.single_action_space == unmodified.single_action_space
    np.testing.assert_allclose(native.reset()[0], unmodified.reset()[0], atol=1e-6)
    for actions in actions_of(native, 30):
        ours, theirs = native.step(actions), unmodified.step(actions)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
        for mine, other in zip((*ours[1:4], ours[4]["cost"]), (*theirs[1:4], theirs[4]["cost"]), strict=True):
            np.testing.assert_array_equal(mine, other, strict=True)
        ended = theirs[2] | theirs[3]
        finals = (out[4]["final_obs"][ended] for out in (ours, theirs))
        np.testing.assert_allclose(*finals, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("id", SOME)
def test_restored_snapshot_continues_bit_for_bit_in_the_middle_of_episodes(id):
    env = make(id, max_episode_steps=25)
    env.reset()
    actions = actions_of(env, 80)
    play(env, actions[:35])
    state = pickle.loads(pickle.dumps(env.state()))
    expected = play(env, actions[35:])

    restored = make(id, max_episode_steps=25)
    assert restored.set_state(state) == []
    np.testing.assert_array_equal(restored.observations(), state["observations"])
    assert_same(play(restored, actions[35:]), expected)
    assert pickle.dumps(restored.state()) == pickle.dumps(env.state())

    assert env.set_state(state) == []
    assert_same(play(env, actions[35:]), expected)


def test_snapshot_is_not_changed_by_the_steps_after_it():
    env = make()
    env.reset()
    play(env, actions_of(env, 5))
    state = env.state()
    before = pickle.dumps(state)
    play(env, actions_of(env, 5))
    assert pickle.dumps(state) == before


def test_snapshot_of_the_unmodified_environment_begins_new_episodes_and_the_other_way_round():
    native, unmodified = make(max_episode_steps=9), make(max_episode_steps=9, native=False)
    for env in (native, unmodified):
        env.reset()
        for actions in actions_of(env, 12):
            env.step(actions)
    ours, theirs = native.state(), unmodified.state()
    assert native.set_state(theirs) == [0, 1, 2]
    assert unmodified.set_state(ours) == [0, 1, 2]
    assert native.state()["episodes"] == unmodified.state()["episodes"] == [2, 2, 2]
    np.testing.assert_allclose(native.observations(), unmodified.observations(), atol=1e-6)


def test_snapshot_that_leads_elsewhere_begins_a_new_episode():
    env = make(num_envs=2)
    env.reset()
    state = env.state()
    state["physics"][1, 1] += 0.1
    assert env.set_state(state) == [1]
    assert env.state()["episodes"] == [0, 1]


def test_snapshot_needs_seeds_and_as_many_environments():
    with pytest.raises(ValueError, match="episode_seeds"):
        make(seeds=None).state()
    with pytest.raises(ValueError, match="episode_seeds"):
        make(seeds=None).set_state({})
    env = make(num_envs=2)
    env.reset()
    with pytest.raises(ValueError, match="of 2 environments, not of 3"):
        make().set_state(env.state())


def test_every_episode_has_its_own_seed():
    env = make(num_envs=2, max_episode_steps=3)
    env.reset()
    for actions in actions_of(env, 6):
        env.step(actions)
    fresh = make(num_envs=2, seeds=None)
    fresh.reset(seed=[SEEDS.seed(0, 2), SEEDS.seed(1, 2)])
    np.testing.assert_array_equal(env.observations(), fresh.observations())
    np.testing.assert_array_equal(env.places, fresh.places)


def test_integer_seed_counts_up_and_a_second_source_of_seeds_is_refused():
    env = make(seeds=None)
    counted = env.reset(seed=5)[0].copy()
    np.testing.assert_array_equal(counted, env.reset(seed=[5, 6, 7])[0])
    with pytest.raises(ValueError, match="expected 3 seeds, got 2"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="episode_seeds"):
        make().reset(seed=1)


def test_episodes_end_together_or_apart_and_go_on():
    env = make("SafetyAntGoal0-v0", num_envs=4, max_episode_steps=30)
    env.reset()
    lengths, ended_at = np.zeros(4, int), []
    for actions in actions_of(env, 65):
        _, _, terminations, truncations, infos = env.step(actions)
        lengths += 1
        ended = terminations | truncations
        assert not (truncations & (lengths < 30)).any()
        assert (truncations == (lengths == 30)).all()
        heights = env._simulations.agents[:, 2]
        assert (heights[ended] > 0.1).all(), "the robots of new episodes stand"
        assert not (infos["final_obs"][ended] == env.observations()[ended]).all(axis=1).any()
        ended_at += lengths[ended].tolist()
        lengths[ended] = 0
    assert 30 in ended_at


def test_reset_allocates_no_model():
    env = make(max_episode_steps=4)
    env.reset()
    before = [id(model) for model in env._simulations.models], [id(data) for data in env._simulations.data]
    play(env, actions_of(env, 12))
    after = [id(model) for model in env._simulations.models], [id(data) for data in env._simulations.data]
    assert before == after


MEMORY = """
import sys
import numpy as np
from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.environments.settings import EnvironmentSettings

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def play(num_envs):
    env = make_vector_env(EnvironmentSettings(id=sys.argv[1], max_episode_steps=3), num_envs)
    env.reset(seed=0)
    for _ in range(7):
        env.step(np.zeros(env.action_space.shape, np.float32))
    return env

first = play(1)
before = resident()
second = play(32)
print((resident() - before) / 32)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("id", ["SafetyPointGoal1-v0", "SafetyDoggoGoal2-v0", "SafetyRacecarButton1-v0"])
def test_environment_takes_less_than_a_megabyte(id):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, id], capture_output=True, text=True, check=True, env=os.environ
    )
    assert float(done.stdout) < 1_000_000


class Fragile:
    """Raises in the given steps of one simulation."""

    def __init__(self, simulations, index, bad):
        self._advance, self._data, self._bad, self._steps = simulations._advance, simulations.data[index], bad, 0

    def __call__(self, model, data, length):
        if data is self._data:
            self._steps += 1
            if self._steps in self._bad:
                raise mujoco.FatalError("physics exploded")
        self._advance(model, data, length)


def fragile(bad, **settings):
    env = make(num_envs=2, **settings)
    env.reset()
    env._simulations._advance = Fragile(env._simulations, 1, bad)
    return env


def test_raising_simulation_begins_a_fresh_episode_and_its_step_is_marked():
    env = fragile(bad=(3,))
    twin = make(num_envs=2)
    twin.reset()
    actions = actions_of(env, 10)
    play(env, actions[:2])
    play(twin, actions[:2])
    observations, rewards, terminations, truncations, infos = env.step(actions[2])
    twin.step(actions[2])
    assert infos["failed"].tolist() == [False, True]
    assert (rewards[1], infos["cost"][1]) == (0, 0)
    assert not terminations.any()
    assert not truncations.any()
    fresh = make(num_envs=2, seeds=None)
    fresh.reset(seed=[0, SEEDS.seed(1, 1)])
    np.testing.assert_array_equal(observations[1], fresh.observations()[1])
    np.testing.assert_array_equal(observations[0], twin.observations()[0])
    for action in actions[3:]:
        infos = env.step(action)[4]
        assert "failed" not in infos
        fresh.step(action)
        np.testing.assert_array_equal(env.observations()[1], fresh.observations()[1])


def test_raising_simulation_stops_the_run_when_so_set():
    env = fragile(bad=(1,), on_error="raise")
    with pytest.raises(EnvironmentFailed, match="environment 1 of 'SafetyPointGoal1-v0' raised FatalError: physics"):
        env.step(np.zeros((2, 2), np.float32))


def test_simulation_that_never_works_again_is_given_up():
    env = fragile(bad=range(4, 1000))
    actions = actions_of(env, 3 + MAX_CONSECUTIVE_FAILURES)
    play(env, actions[:-1])
    with pytest.raises(EnvironmentFailed, match=f"failed {MAX_CONSECUTIVE_FAILURES} times in a row"):
        env.step(actions[-1])


def test_failures_with_good_steps_between_do_not_add_up():
    env = fragile(bad=range(2, 1000, 2))
    for actions in actions_of(env, 8 * MAX_CONSECUTIVE_FAILURES):
        env.step(actions)


def test_observation_that_is_not_a_number_is_a_failure():
    env = make(num_envs=2)
    env.reset()
    advance = env._simulations._advance

    def break_one(model, data, length):
        advance(model, data, length)
        if data is env._simulations.data[0]:
            data.qvel[0] = np.nan

    env._simulations._advance = break_one
    infos = env.step(np.zeros((2, 2), np.float32))[4]
    assert infos["failed"].tolist() == [True, False]
    assert np.isfinite(env.observations()).all()
