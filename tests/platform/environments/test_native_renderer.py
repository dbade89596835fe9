"""Pictures of the native navigation tasks."""

import numpy as np
import pytest

from quadriga.platform.environments.registry import make_env
from quadriga.platform.environments.safety_renderer import RenderedSafetyEnv
from quadriga.platform.environments.safety_tasks import find_task
from quadriga.platform.environments.settings import EnvironmentSettings


def make(id="SafetyPointGoal1-v0", **settings):
    return make_env(EnvironmentSettings(id=id, **settings), render_mode="rgb_array")


def greenness(picture):
    red, green, blue = picture.astype(int).reshape(-1, 3).T
    return np.count_nonzero((green > red + 30) & (green > blue + 30))


@pytest.mark.parametrize("id", ["SafetyPointGoal1-v0", "SafetyRacecarButton1-v0", "SafetyAntPush2-v0"])
def test_pictures_show_the_robot_moving_and_the_next_layout(id):
    env = make(id)
    assert isinstance(env, RenderedSafetyEnv)
    env.reset(seed=0)
    env.action_space.seed(0)
    first = env.render()
    for _ in range(10):
        env.step(env.action_space.sample())
    second = env.render()
    env.reset(seed=1)
    third = env.render()
    env.close()
    env.close()
    for picture in (first, second, third):
        assert (picture.shape, picture.dtype) == ((480, 480, 3), np.uint8)
        assert picture.std() > 10
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


def test_filmed_episode_is_the_unmodified_one_and_stays_at_its_end():
    env, plain = make(max_episode_steps=6), make_env(EnvironmentSettings(id="SafetyPointGoal1-v0", max_episode_steps=6))
    observation, _ = env.reset(seed=5)
    np.testing.assert_allclose(observation, plain.reset(seed=5)[0], atol=1e-6)
    env.action_space.seed(0)
    for step in range(6):
        action = env.action_space.sample()
        ours, theirs = env.step(action), plain.step(action)
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
        assert ours[1] == np.float32(theirs[1])
        assert ours[2:4] == theirs[2:4] == (False, step == 5)
        assert ours[4]["cost"] == theirs[4]["cost"]
    np.testing.assert_array_equal(env._vector.observations()[0], ours[0])
    env.close()


def test_goal_is_drawn_where_it_is_now():
    env = make("SafetyPointGoal0-v0")
    env.reset(seed=0)
    vector = env._vector
    robot = vector._simulations.agents[0, :2]
    ahead = np.array([np.cos(vector._yaws[0, 0]), np.sin(vector._yaws[0, 0])])
    vector.things[0, vector._goal] = robot + 0.6 * ahead
    near = greenness(env.render())
    vector.things[0, vector._goal] = robot - 30 * ahead
    assert near > 1000
    assert greenness(env.render()) < near / 10
    env.close()


def test_step_with_a_cost_shows_red_around_the_robot():
    env = make()
    env.reset(seed=0)
    before = env.render().astype(int)
    env._vector.costs[0] = 1
    after = env.render().astype(int)
    redder = (after[..., 0] - after[..., 2]) - (before[..., 0] - before[..., 2]) > 40
    assert redder.sum() > 200
    env.close()


def test_another_camera_is_the_unmodified_environment_s():
    env = make(kwargs={"camera_name": "fixedfar", "width": 64, "height": 64})
    assert not isinstance(env, RenderedSafetyEnv)
    env.reset(seed=0)
    assert env.render().shape == (64, 64, 3)
    env.close()


def test_rendering_environment_without_a_picture_allocates_none():
    env = RenderedSafetyEnv(find_task("SafetyPointGoal1-v0"), name="SafetyPointGoal1-v0")
    env.reset(seed=0)
    assert env._renderer._viewer is None
