"""A layout that is written into a model makes it the model that compiling the layout gives."""

import copy

import mujoco
import numpy as np
import pytest

from quadriga.platform.environments import safety_model
from quadriga.platform.environments.registry import make_env
from quadriga.platform.environments.safety_layout import LayoutSampler
from quadriga.platform.environments.safety_model import task_model, world_xml
from quadriga.platform.environments.safety_sensors import RobotSensors, rotation_matrices
from quadriga.platform.environments.safety_tasks import find_task, task_ids
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.errors import UserError

ONE_OF_EACH = [
    f"Safety{a}{t}-v0"
    for a, t in zip(
        ("Point", "Car", "Doggo", "Racecar", "Ant"), ("Goal2", "Button2", "Push1", "Button1", "Push2"), strict=True
    )
]


def arrays_of(model):
    names = [name for name in dir(model) if not name.startswith("_")]
    values = {name: getattr(model, name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def layout_of(task, seed):
    random = np.random.RandomState(seed)
    places = LayoutSampler(task.extent, task.keepouts).layout(random)
    return places, 2 * np.pi * random.random_sample(len(places))


@pytest.mark.parametrize("id", ONE_OF_EACH)
def test_written_layout_equals_a_compiled_one_in_every_array(id):
    task = find_task(id)
    shared = task_model(task)
    written = copy.copy(shared.model)
    data = mujoco.MjData(written)
    for seed in range(2):
        places, yaws = layout_of(task, seed)
        shared.place(written, data, places, yaws)
        for _ in range(30):  # what an episode leaves behind must not matter to the next layout
            data.mocap_pos[:] = 0.3
            mujoco.mj_step(written, data)
    shared.place(written, data, places, yaws)
    compiled = mujoco.MjModel.from_xml_string(world_xml(task, places, yaws))
    for name, expected in arrays_of(compiled).items():
        np.testing.assert_array_equal(getattr(written, name), expected, err_msg=name)


@pytest.mark.parametrize("id", ONE_OF_EACH)
def test_model_with_everything_is_the_package_s(id):
    task = find_task(id)
    env = make_env(EnvironmentSettings(id=id))
    env.reset(seed=0)
    theirs = env.unwrapped.task.model
    layout, world = env.unwrapped.task.world_info.reset_layout, env.unwrapped.task.world_info.world_config_dict
    names = [name for obstacle in task.obstacles for name in obstacle.names]
    places = np.array([layout[name] for name in ("agent", *names)])
    things = {**world["geoms"], **world["free_geoms"]}
    yaws = [world["agent_rot"], *(things[f"{n}obj" if n.startswith("gremlin") else n]["rot"] for n in names)]
    if task.goal == "Button":  # the goal is where its button is
        places[1 + task.things("goal").start] = theirs.body("goal").pos[:2]
    ours = mujoco.MjModel.from_xml_string(world_xml(task, places, np.array(yaws), markers=True))
    assert (ours.nq, ours.nv, ours.nbody, ours.ngeom) == (theirs.nq, theirs.nv, theirs.nbody, theirs.ngeom)
    for name in ("qpos0", "body_mass", "body_inertia", "body_pos", "body_quat", "geom_size", "geom_pos", "geom_quat"):
        expected = getattr(theirs, name).copy()
        if name == "body_pos":
            expected[theirs.body("goal").id, :2] = places[1 + task.things("goal").start]
        np.testing.assert_array_equal(getattr(ours, name), expected, err_msg=name)
    for name in (
        "geom_type",
        "geom_contype",
        "geom_conaffinity",
        "geom_condim",
        "geom_friction",
        "geom_rgba",
        "geom_group",
    ):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


@pytest.mark.parametrize("id", task_ids()[:: len(task_ids()) // 9])
def test_model_takes_little_memory(id):
    model = task_model(find_task(id)).model
    assert model.nbuffer < 500_000
    assert mujoco.MjData(model).nbuffer < 500_000


def test_contacts_that_matter_are_those_of_the_robot():
    shared = task_model(find_task("SafetyCarButton1-v0"))
    model = shared.model
    pairs = shared.pairs.reshape(model.ngeom, model.ngeom)
    geom = {model.geom(n).name: n for n in range(model.ngeom)}
    assert pairs[geom["button2"], geom["rear"]] == pairs[geom["rear"], geom["button2"]] == shared.BUTTON << 2
    assert pairs[geom["gremlin0obj"], geom["agent"]] == shared.FORBIDDEN
    assert pairs[geom["gremlin0obj"], geom["button0"]] == 0
    assert pairs[geom["floor"], geom["agent"]] == 0


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(safety_model, "PACKAGE", "safety_gymnasium_that_is_missing")
    with pytest.raises(UserError, match="safety_gymnasium_that_is_missing"):
        world_xml(find_task("SafetyPointGoal1-v0"))


def test_rotation_matrix_is_mujoco_s():
    quaternions = np.random.default_rng(0).normal(size=(20, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    expected = np.zeros(9)
    for ours, quaternion in zip(rotation_matrices(quaternions), quaternions, strict=True):
        mujoco.mju_quat2Mat(expected, quaternion)
        np.testing.assert_allclose(ours, expected, atol=1e-15)


def test_observation_is_as_wide_as_the_package_s():
    for agent, width in {"Point": 12, "Car": 24, "Doggo": 56, "Racecar": 12, "Ant": 40}.items():
        assert RobotSensors(task_model(find_task(f"Safety{agent}Goal0-v0")).model).width == width
