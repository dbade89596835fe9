"""Safety-Gymnasium 1.0.0 on the current gymnasium, MuJoCo, numpy and Python.

The package pins gymnasium 0.28, MuJoCo 2.3 and pygame 2.1, and does not import on Python 3.11. Installed
with `--no-deps` it works on today's versions through this module, the only one that knows about it:

- **Names that gymnasium moved or dropped** (`gymnasium.wrappers.time_limit` and others), and the class of
  `gymnasium_robotics` that only its multi-agent tasks use, stand in `sys.modules` while it is imported.
- **Dataclasses with array defaults**, which Python 3.11 refuses: while it is imported, `dataclass` gives
  its classes a copy of the default for each instance. Other packages' classes are left alone.
- **Its `make`** applies wrappers that no longer exist; `registry.py` builds from the entry points instead.
- **Textures**: every reset compiles a model with 191 MB of sky, some 0.4 s and 300 MB an environment. An
  environment that renders nothing gets a world that leaves the textures out. Physics, observations,
  rewards and costs are those of the textured one. The superfluous second compilation of the first
  reset is left out as well.
- **Rendering**: gymnasium's viewer asks for a size that it is not told; ours is told.

Nothing stays patched: the stand-ins are gone after the import, and what differs, differs in the
environments that `prepare` was given.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec

from quadriga.platform.environments.safety_tasks import AGENTS
from quadriga.platform.errors import UserError

PACKAGE = "safety_gymnasium"
INSTALL = "pip install --no-deps safety-gymnasium==1.0.0 && pip install xmltodict pygame pyyaml imageio"

NAVIGATION_TASKS = {
    "Goal0": ("reach goals", 1000),
    "Goal1": ("reach goals among hazards", 1000),
    "Goal2": ("reach goals among more hazards and vases", 1000),
    "Button0": ("press the right button", 1000),
    "Button1": ("press the right button among hazards and moving gremlins", 1000),
    "Button2": ("press the right button among more hazards and gremlins", 1000),
    "Push0": ("push a box to goals", 1000),
    "Push1": ("push a box to goals among hazards", 1000),
    "Push2": ("push a box to goals among more hazards and pillars", 1000),
    "Circle0": ("run around a circle", 500),
    "Circle1": ("run around a circle between two walls", 500),
    "Circle2": ("run around a circle within four walls", 500),
    "Run0": ("run along a corridor under a speed limit", 500),
}
VELOCITY_ROBOTS = ("HalfCheetah", "Hopper", "Swimmer", "Walker2d", "Ant", "Humanoid")


def task_summaries() -> dict[str, tuple[str, str]]:
    """Family and summary of every supported id; needs no installed package."""
    tasks = {
        f"Safety{agent}{task}-v0": ("safety navigation", f"{agent}: {summary}; {steps} steps, reports a cost")
        for task, (summary, steps) in NAVIGATION_TASKS.items()
        for agent in AGENTS
    }
    for robot in VELOCITY_ROBOTS:
        summary = f"{robot}: run under a speed limit; 1000 steps, reports a cost"
        tasks[f"Safety{robot}Velocity-v1"] = ("safety velocity", summary)
    return tasks


def velocity_robot(id: str) -> str | None:
    """The robot, one of `VELOCITY_ROBOTS`, of the velocity task `id`; `None` if it is none."""
    return next((robot for robot in VELOCITY_ROBOTS if id == f"Safety{robot}Velocity-v1"), None)


def is_unsupported(id: str) -> bool:
    """Whether `id` names one of the package's tasks that observe images or read a keyboard."""
    return id.startswith(("SafetyPoint", "SafetyCar", "SafetyDoggo", "SafetyRacecar", "SafetyAnt")) and any(
        word in id.replace("Racecar", "") for word in ("Vision", "Debug", "Race", "Fading")
    )


_import_lock = threading.Lock()


def load() -> ModuleType:
    """The imported package; its ids are in gymnasium's registry from then on.

    Raises:
        UserError: it, or something that it needs, is not installed.
    """
    with _import_lock:
        loaded = sys.modules.get(PACKAGE)
        if loaded is not None:
            return loaded
        try:
            with _stand_ins(), _tolerant_dataclass():
                return importlib.import_module(PACKAGE)
        except ImportError as error:
            missing = error.name or str(error)
            raise UserError(f"Safety-Gymnasium needs {missing!r}, which is missing; install: {INSTALL}") from error


def prepare(env: gymnasium.Env, *, render: bool, max_episode_steps: int | None) -> None:
    """Adapts a newly built environment, before its first reset.

    Args:
        env: an unwrapped environment of the package.
        render: whether it will be rendered; if not, it is built without textures.
        max_episode_steps: a time limit instead of the task's own; `None` leaves that.
    """
    task = getattr(env, "task", None)
    if task is None:  # the velocity tasks are plain MuJoCo environments of gymnasium
        return
    if max_episode_steps is not None:
        task.num_steps = max_episode_steps
    if render:
        task._viewers = viewers = _Viewers(task)
        env.close = viewers.close  # type: ignore[method-assign]
    else:
        task.world = _textureless_world()(task.agent, task._obstacles)


def camera(spec: EnvSpec, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for a picture that shows the robot and what is around it, where `kwargs` name no camera.

    The navigation tasks' own choice is a small picture through the robot's eyes.
    """
    if "config" not in spec.kwargs or {"camera_name", "camera_id"} & set(kwargs):
        return {}
    return {"camera_name": "track", "width": 480, "height": 480}


@functools.cache
def _textureless_world() -> type[Any]:
    """The package's world with the textures taken out of the XML that it is about to compile."""
    world: type[Any] = importlib.import_module(f"{PACKAGE}.world").World

    class TexturelessWorld(world):
        @property
        def xml_string(self) -> str | None:
            return self._xml_string

        @xml_string.setter
        def xml_string(self, xml: str | None) -> None:
            self._xml_string = None if xml is None else without_textures(xml)

    return TexturelessWorld


def without_textures(xml: str) -> str:
    """A MuJoCo model without its textures and without the materials' references to them."""
    root = ElementTree.fromstring(xml)
    for asset in root.iter("asset"):
        for texture in asset.findall("texture"):
            asset.remove(texture)
        for material in asset.findall("material"):
            material.attrib.pop("texture", None)
    return ElementTree.tostring(root, encoding="unicode")


class _Viewers(dict[str, Any]):
    """The viewers of a task by render mode, an offscreen one made when it is first asked for."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self._task = task

    def get(self, mode: str, default: Any = None) -> Any:
        if mode not in self and mode in ("rgb_array", "depth_array"):
            from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

            model = self._task.model
            size = model.vis.global_.offwidth, model.vis.global_.offheight
            self[mode] = OffScreenViewer(model, self._task.data, *size)
        return super().get(mode, default)

    def close(self) -> None:
        """Frees the OpenGL contexts; left to the interpreter's exit, this prints errors."""
        for viewer in self.values():
            with contextlib.suppress(Exception):
                viewer.free()
        self.clear()


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Modules by the names that the package imports, unless they exist."""
    absent = type("Absent", (), {})
    contents: dict[str, dict[str, Any]] = {
        "gymnasium.wrappers.compatibility": {"EnvCompatibility": absent},
        "gymnasium.wrappers.autoreset": {"AutoResetWrapper": wrappers.Autoreset},
        "gymnasium.wrappers.env_checker": {"PassiveEnvChecker": wrappers.PassiveEnvChecker},
        "gymnasium.wrappers.time_limit": {"TimeLimit": wrappers.TimeLimit},
        "gymnasium.wrappers.normalize": {
            "NormalizeObservation": wrappers.NormalizeObservation,
            "NormalizeReward": wrappers.NormalizeReward,
            "RunningMeanStd": absent,
        },
        "gymnasium_robotics": {},
        "gymnasium_robotics.envs": {},
        "gymnasium_robotics.envs.multiagent_mujoco": {},
        "gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi": {"MultiAgentMujocoEnv": absent},
    }
    added = []
    for name, attributes in contents.items():
        if name not in sys.modules:
            module = ModuleType(name)
            module.__path__ = []
            vars(module).update(attributes)
            sys.modules[name] = module
            added.append(name)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


@contextlib.contextmanager
def _tolerant_dataclass() -> Iterator[None]:
    """`dataclasses.dataclass` that takes unhashable defaults, in classes of the package only."""
    original: Callable[..., Any] = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> type:
            if cls.__module__.partition(".")[0] == PACKAGE:
                for name in vars(cls).get("__annotations__", {}):
                    default = vars(cls).get(name)
                    if type(default).__hash__ is None and not isinstance(default, dataclasses.Field):
                        setattr(cls, name, dataclasses.field(default_factory=functools.partial(copy.deepcopy, default)))
            return original(cls, **options)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original
