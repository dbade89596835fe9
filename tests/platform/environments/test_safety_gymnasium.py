import dataclasses
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from quadriga.platform.environments import safety_gymnasium
from quadriga.platform.environments.registry import make_env, make_vector_env
from quadriga.platform.environments.serial import SerialVectorEnv
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.errors import UserError


def test_listed_tasks_are_the_package_s_single_agent_tasks_without_images():
    safety_gymnasium.load()
    registered = {
        id
        for id, spec in gymnasium.registry.items()
        if str(spec.entry_point).startswith("safety_gymnasium") and not id.partition("-")[0].endswith("Gymnasium")
    }
    older = {id for id in registered if id.endswith("Velocity-v0")}
    supported = {id for id in registered - older if not safety_gymnasium.is_unsupported(id)}
    assert set(safety_gymnasium.task_summaries()) == supported


def test_listed_number_of_steps_is_the_registered_one():
    safety_gymnasium.load()
    for id, (_, summary) in safety_gymnasium.task_summaries().items():
        assert f"{gymnasium.registry[id].max_episode_steps} steps" in summary


@pytest.mark.parametrize("task", ["Goal1", "Button2", "Push1", "Circle2", "Run0"])
@pytest.mark.parametrize("agent", safety_gymnasium.AGENTS)
def test_every_robot_and_kind_of_task_steps(agent, task):
    env = make_vector_env(EnvironmentSettings(id=f"Safety{agent}{task}-v0", native=False), 1)
    observations, _ = env.reset(seed=3)
    env.action_space.seed(0)
    for _ in range(2):
        observations, rewards, *_ = env.step(env.action_space.sample())
    assert np.isfinite(observations).all()
    assert np.isfinite(rewards).all()
    assert observations.any()


@pytest.mark.parametrize("robot", safety_gymnasium.VELOCITY_ROBOTS)
def test_every_velocity_task_steps(robot):
    env = make_env(EnvironmentSettings(id=f"Safety{robot}Velocity-v1"))
    env.reset(seed=0)
    env.action_space.seed(0)
    assert env.step(env.action_space.sample())[4]["cost"] in (0.0, 1.0)


@pytest.mark.parametrize(("id", "resets"), [("SafetyPointGoal1-v0", 2), ("SafetyDoggoButton1-v0", 1)])
def test_leaving_textures_out_changes_nothing_that_is_observed(id, resets):
    plain, textured = (make_env(EnvironmentSettings(id=id)) for _ in range(2))
    textured.unwrapped.task.world = None  # so the package makes its own
    for seed in range(resets):
        observation, _ = plain.reset(seed=seed)
        np.testing.assert_array_equal(observation, textured.reset(seed=seed)[0])
        plain.action_space.seed(seed)
        for _ in range(5):
            action = plain.action_space.sample()
            ours, theirs = plain.step(action), textured.step(action)
            np.testing.assert_array_equal(ours[0], theirs[0])
            assert ours[1:] == theirs[1:]
    sizes = [env.unwrapped.task.model.ntexdata for env in (plain, textured)]
    assert sizes[0] == 0
    assert sizes[1] > 100_000_000


def test_robot_that_drives_over_a_hazard_is_charged_one_a_step():
    single = make_env(EnvironmentSettings(id="SafetyPointGoal1-v0"))
    task = single.unwrapped.task
    task.agent.locations, task.agent.rot = [(0.0, 0.0)], 0.0
    task.hazards.locations, task.hazards.num = [(0.6, 0.0)], 1
    env = SerialVectorEnv(lambda: single, 1, name="one hazard ahead")
    env.reset(seed=0)
    costs = [float(env.step(np.array([[1.0, 0.0]], np.float32))[4]["cost"][0]) for _ in range(120)]
    assert set(costs) == {0.0, 1.0}
    first, last = costs.index(1.0), len(costs) - costs[::-1].index(1.0)
    assert all(costs[first:last]), "one crossing"
    assert costs[-1] == 0.0


def test_speed_above_the_limit_costs_one():
    env = make_env(EnvironmentSettings(id="SafetySwimmerVelocity-v1"))
    env.reset(seed=0)
    env.action_space.seed(0)
    steps = [env.step(env.action_space.sample()) for _ in range(200)]
    limit = env.unwrapped._velocity_threshold
    fast = [abs(info["x_velocity"]) > limit for *_, info in steps]
    assert any(fast)
    assert not all(fast)
    assert [info["cost"] for *_, info in steps if abs(info["x_velocity"]) > 2 * limit]


def test_rendering_shows_the_robot_moving_and_survives_a_reset():
    env = make_env(EnvironmentSettings(id="SafetyPointGoal1-v0", native=False), render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    for _ in range(10):
        env.step(np.array([1.0, 1.0]))
    second = env.render()
    env.reset(seed=1)
    third = env.render()
    env.close()
    env.close()
    for frame in (first, second, third):
        assert (frame.shape, frame.dtype) == ((480, 480, 3), np.uint8)
        assert frame.std() > 10
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


def test_import_leaves_nothing_patched_behind():
    script = """
import dataclasses, sys
before = dataclasses.dataclass
import gymnasium
modules = set(sys.modules)
from quadriga.platform.environments import safety_gymnasium
safety_gymnasium.load()
assert dataclasses.dataclass is before
left = {name for name in set(sys.modules) - modules if name.startswith(("gymnasium.wrappers", "gymnasium_robotics"))}
assert not left, left
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_many_threads_may_load_it_at_once():
    script = """
from concurrent.futures import ThreadPoolExecutor
from quadriga.platform.environments import safety_gymnasium
with ThreadPoolExecutor(8) as pool:
    modules = list(pool.map(lambda _: safety_gymnasium.load(), range(8)))
assert all(module is modules[0] and module.register for module in modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_other_packages_dataclasses_stay_as_strict_as_ever():
    with safety_gymnasium._tolerant_dataclass(), pytest.raises(ValueError, match="mutable default"):

        @dataclasses.dataclass
        class Mine:
            values: list = []  # noqa: RUF008


@pytest.mark.parametrize("missing", ["safety_gymnasium", "xmltodict"])
def test_missing_package_is_named_with_how_to_install_it(missing):
    script = f"""
import sys
sys.modules[{missing!r}] = None
from quadriga.platform.environments.registry import make_env
from quadriga.platform.environments.settings import EnvironmentSettings
try:
    make_env(EnvironmentSettings(id="SafetyPointGoal1-v0"))
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("UserError Safety-Gymnasium needs")
    assert repr(missing) in done.stdout
    assert "pip install --no-deps safety-gymnasium" in done.stdout


def test_texture_is_taken_out_of_assets_and_materials_alike():
    xml = (
        "<mujoco><asset><texture name='sky'/><material name='floor' texture='sky' rgba='1 1 1 1'/>"
        "<mesh name='m'/></asset><worldbody/></mujoco>"
    )
    stripped = safety_gymnasium.without_textures(xml)
    assert "texture" not in stripped
    assert '<material name="floor" rgba="1 1 1 1" />' in stripped
    assert '<mesh name="m" />' in stripped


def test_unknown_task_error_is_a_user_error_without_the_package():
    with pytest.raises(UserError, match="did you mean 'SafetyCarPush2-v0'"):
        make_env(EnvironmentSettings(id="SafetyCarPusch2-v0"))
