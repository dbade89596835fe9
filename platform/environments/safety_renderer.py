"""Pictures of Safety-Gymnasium's navigation tasks, from a model that is made when one is asked for.

The native environments' models hold no more than physics needs. A picture is taken of another one, compiled for
the episode with everything in it but the package's 191 MB of sky, and brought to where the simulation is. It works
without a display, by MuJoCo's EGL or OSMesa; see `rendering.py`. Gymnasium's viewer draws: unlike MuJoCo's own
renderer it chooses between these when it is made, not when MuJoCo is imported.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer
from numpy.typing import NDArray

from quadriga.platform.environments.safety_model import world_xml
from quadriga.platform.environments.safety_navigation import SafetyNavigationEnv
from quadriga.platform.environments.safety_tasks import Task

SIZE = 480
"""Width and height of a picture in pixels."""
CAMERA = "track"
_BACK, _UP = 2.0, 2.0
_COST_RADIUS = 0.25
_COST_COLOR = (1.0, 0.0, 0.0, 0.5)


class SafetyRenderer:
    """Draws one environment of a vector."""

    def __init__(self, env: SafetyNavigationEnv, index: int) -> None:
        """Nothing is drawn or allocated yet; environment `index` of `env` will be."""
        self._env, self._index = env, index
        self._viewer: OffScreenViewer | None = None

    def begin_episode(self) -> None:
        """Forgets the last episode: the next picture is of another layout."""
        self.close()

    def render(self) -> NDArray[np.uint8]:
        """A picture `[480, 480, 3]` of what is now: the robot from behind, in a red sphere where a step has a cost."""
        env, index = self._env, self._index
        if self._viewer is None:
            places, yaws = env.layout(index)
            xml = scenery(world_xml(env.task, places, yaws, markers=True), float(yaws[0]))
            self._model = mujoco.MjModel.from_xml_string(xml)
            self._data = mujoco.MjData(self._model)
            self._viewer = OffScreenViewer(self._model, self._data, SIZE, SIZE)
            self._viewer.vopt.geomgroup[:] = 1  # hazards, vases and goals are in groups that are hidden by default
        viewer, model, data, simulation = self._viewer, self._model, self._data, env.simulation(index)
        data.qpos[:] = simulation.qpos
        data.mocap_pos[:] = simulation.mocap_pos
        model.body_pos[model.body("goal").id, :2] = env.things[index, env.task.things("goal").start]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        if env.costs[index] > 0:
            size, shape = np.full(3, _COST_RADIUS), mujoco.mjtGeom.mjGEOM_SPHERE
            viewer.add_marker(pos=data.body("agent").xpos, size=size, type=shape, rgba=np.array(_COST_COLOR), label="")
        picture: NDArray[np.uint8] = viewer.render("rgb_array", camera_id=model.camera(CAMERA).id)
        viewer._markers.clear()
        return picture

    def close(self) -> None:
        """Frees the OpenGL context; left to the interpreter's exit, this prints errors."""
        if self._viewer is not None:
            self._viewer.free()
            self._viewer = None


def scenery(xml: str, yaw: float) -> str:
    """A world with a sky, a checkered floor, a lamp and a camera behind the robot, which looks along `yaw`."""
    root = ElementTree.fromstring(xml)
    visual = ElementTree.SubElement(root, "visual")
    ElementTree.SubElement(visual, "global", offwidth=str(SIZE), offheight=str(SIZE))
    asset = ElementTree.SubElement(root, "asset")
    sky = {"type": "skybox", "builtin": "gradient", "rgb1": "0.1 0.15 0.3", "rgb2": "0 0 0.05"}
    ElementTree.SubElement(asset, "texture", sky, width="64", height="384")
    checks = {"type": "2d", "builtin": "checker", "rgb1": "0.859 0.843 0.765", "rgb2": "0.949 0.914 0.855"}
    ElementTree.SubElement(asset, "texture", checks, name="checks", width="100", height="100")
    ElementTree.SubElement(asset, "material", name="checks", texture="checks", texrepeat="10 10", reflectance="0")
    world = root.find("worldbody")
    assert world is not None
    floor = next(geom for geom in world.findall("geom") if geom.get("name") == "floor")
    floor.set("material", "checks")
    lamp = {"directional": "true", "dir": "0 0 -1", "pos": "0 0 0.5", "diffuse": "1 1 1", "specular": "0 0 0"}
    ElementTree.SubElement(world, "light", lamp, castshadow="false")
    agent = world.find("body")
    assert agent is not None
    theta = yaw + np.pi  # the camera keeps its direction in the world, so the robot's is taken out of it
    x, y = float(np.cos(theta)), float(np.sin(theta))
    pos = f"{-_BACK * y!r} {-_BACK * x!r} {_UP!r}"
    axes = f"{x!r} {-y!r} 0 {y!r} {x!r} 1"
    ElementTree.SubElement(agent, "camera", name=CAMERA, mode="track", pos=pos, xyaxes=axes)
    return ElementTree.tostring(root, encoding="unicode")


class RenderedSafetyEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One environment of the vector as gymnasium knows it, with pictures; the cost is in `info["cost"]`."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}
    render_mode = "rgb_array"

    def __init__(self, task: Task, *, name: str, max_episode_steps: int | None = None) -> None:
        """Makes the simulation.

        Args:
            task: which task.
            name: what error messages call it.
            max_episode_steps: time limit; by default the task's own.

        Raises:
            UserError: Safety-Gymnasium is not installed.
        """
        limit = max_episode_steps
        self._vector = SafetyNavigationEnv(task, 1, name=name, rebuild=False, max_episode_steps=limit, autoreset=False)
        self._renderer = SafetyRenderer(self._vector, 0)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        observations, _ = self._vector.reset(seed=None if seed is None else [seed])
        self._renderer.begin_episode()
        return observations[0].copy(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step."""
        observations, rewards, terminations, truncations, infos = self._vector.step(np.asarray(action)[None])
        info = {"cost": float(infos["cost"][0]), "goal_met": bool(self._vector.goals_met[0])}
        return observations[0].copy(), float(rewards[0]), bool(terminations[0]), bool(truncations[0]), info

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """A picture; see `SafetyRenderer.render`."""
        return self._renderer.render()

    def close(self) -> None:
        """Frees what drew the pictures. May be called twice."""
        self._renderer.close()
