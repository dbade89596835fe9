"""Sleeping objects: off by default, refused where MuJoCo cannot, continued bit for bit where it can."""

import mujoco
import numpy as np
import pytest

from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.errors import UserError

CAN_SLEEP = hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP")
needs_sleep = pytest.mark.skipif(not CAN_SLEEP, reason=f"MuJoCo {mujoco.__version__} has no sleeping objects")


def make(sleeping: bool = True, id: str = "SafetyPointGoal2-v0"):
    return make_vector_env(EnvironmentSettings(id=id, sleeping=sleeping), 3, episode_seeds=EpisodeSeeds((7,)))


def test_is_off_by_default():
    assert EnvironmentSettings(id="SafetyPointGoal1-v0").sleeping is False


@pytest.mark.skipif(CAN_SLEEP, reason="this MuJoCo has sleeping objects")
def test_a_mujoco_without_it_is_named():
    with pytest.raises(UserError, match=rf"env\.sleeping: MuJoCo {mujoco.__version__} .*mujoco>=3\.17"):
        make()


@pytest.mark.parametrize("settings", [{"id": "CartPole-v1"}, {"id": "SafetyPointGoal1-v0", "native": False}])
def test_an_environment_without_it_is_named(settings):
    with pytest.raises(UserError, match=rf"env\.sleeping: .*{settings['id']}"):
        make_vector_env(EnvironmentSettings(**settings, sleeping=True), 1)


@needs_sleep
@pytest.mark.parametrize("id", ["SafetyPointGoal2-v0", "SafetyCarPush1-v0", "SafetyPointButton1-v0"])
def test_a_snapshot_continues_bit_for_bit(id):
    ours, other = make(id=id), make(id=id)
    ours.reset()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (120, 3, *ours.single_action_space.shape)).astype(np.float32)
    for action in actions[:60]:
        ours.step(action)
    other.reset()
    other.set_state(ours.state())
    for action in actions[60:]:
        expected, actual = ours.step(action), other.step(action)
        np.testing.assert_array_equal(actual[0], expected[0])
        np.testing.assert_array_equal(actual[1], expected[1])


@needs_sleep
def test_objects_at_rest_fall_asleep():
    env = make()
    env.reset()
    for _ in range(60):
        env.step(np.zeros((3, 2), np.float32))
    assert all(env.simulation(index).nv_awake < 63 for index in range(3))
