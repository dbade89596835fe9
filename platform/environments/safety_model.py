"""The MuJoCo models of Safety-Gymnasium's tasks: compiled once, with layouts written into copies.

The package builds and compiles XML at every reset. Here the model of a task is compiled once a process, and each
environment gets a copy into which `place` writes a layout, so that every number of physics is the one that
compiling the layout would have given. The robot is read from the installed package.

What touches nothing (goal and hazards, the shapes that pull the gremlins, cameras, lights, sensors that are not
observed) is left out of the model for physics, which changes no bit of the motion; `markers=True` has it all.
"""

from __future__ import annotations

import functools
import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from quadriga.platform.environments.safety_gymnasium import INSTALL, PACKAGE
from quadriga.platform.environments.safety_tasks import Kind, Obstacle, Task
from quadriga.platform.errors import UserError

MEMORY = "16M"
"""Address space of a simulation; the package's own sizes reserve 472 MB."""
UNOBSERVED_SENSORS = ("subtreecom", "subtreelinvel", "subtreeangmom")
FLOOR_SIZE = "3.5 3.5 0.1"


def package_folder() -> Path:
    """Where Safety-Gymnasium is installed; it is not imported.

    Raises:
        UserError: it is not.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"Safety-Gymnasium needs {PACKAGE!r}, which is missing; install: {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def yaw_quaternions(yaws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations by `yaws` `[n]` in radians about the vertical as quaternions `[n, 4]`."""
    quaternions = np.zeros((len(yaws), 4))
    half = yaws / 2
    quaternions[:, 0] = np.cos(half)
    quaternions[:, 3] = np.sin(half)
    return quaternions


def world_xml(
    task: Task,
    places: NDArray[np.float64] | None = None,
    yaws: NDArray[np.float64] | None = None,
    *,
    markers: bool = False,
) -> str:
    """The XML of a task.

    Args:
        task: which.
        places: of the robot and of each thing, `[1 + things, 2]` in meters; by default all at the origin.
        yaws: likewise their rotations about the vertical, `[1 + things]` in radians.
        markers: with what is only seen, or is only there for being seen.

    Raises:
        UserError: Safety-Gymnasium is not installed.
    """
    count = 1 + task.num_things
    places = np.zeros((count, 2)) if places is None else places
    quaternions = yaw_quaternions(np.zeros(count) if yaws is None else yaws)
    poses = [(_text(xy), _text(quaternion)) for xy, quaternion in zip(places, quaternions, strict=True)]

    assets = package_folder() / "assets"
    root = ElementTree.parse(assets / "xmls" / f"{task.agent.lower()}.xml").getroot()
    compiler = root.find("compiler")
    compiler = ElementTree.SubElement(root, "compiler") if compiler is None else compiler
    compiler.attrib.update(angle="radian", meshdir=str(assets / "meshes"))
    for size in root.findall("size"):
        root.remove(size)
    ElementTree.SubElement(root, "size", memory=MEMORY)

    world = _child(root, "worldbody")
    for light in world.findall("light"):
        world.remove(light)
    floor = next(geom for geom in world.findall("geom") if geom.get("name") == "floor")
    floor.attrib.update(size=FLOOR_SIZE, rgba="1 1 1 1")
    agent = _child(world, "body")
    height = agent.attrib["pos"].split()[2]
    agent.attrib.update(pos=f"{poses[0][0]} {height}", quat=poses[0][1])
    if not markers:
        _remove_ornaments(root, world)
        sensors = _child(root, "sensor")
        for sensor in [sensor for sensor in sensors if sensor.get("name") in UNOBSERVED_SENSORS]:
            sensors.remove(sensor)
    _add_things(task, poses[1:], root, markers)
    return ElementTree.tostring(root, encoding="unicode")


def _add_things(task: Task, poses: list[tuple[str, str]], root: ElementTree.Element, markers: bool) -> None:
    """Appends the bodies in the package's order: what moves, what pulls it, what stands still."""
    world = _child(root, "worldbody")
    equality = root.find("equality")
    things = [(o, name) for o in task.obstacles for name in o.names]
    placed = [(o, name, *pose) for (o, name), pose in zip(things, poses, strict=True)]
    for obstacle, name, xy, quaternion in placed:
        if obstacle.kind in (Kind.FREE, Kind.GREMLIN):
            name = f"{name}obj" if obstacle.kind is Kind.GREMLIN else name
            body = _body(world, name, pos=f"{xy} {obstacle.z!r}", quat=quaternion)
            ElementTree.SubElement(body, "freejoint", name=name)
            _geom(body, obstacle, name, density=repr(obstacle.density))
            if obstacle.name == "push_box":
                _add_corners(body, obstacle)
    for obstacle, name, xy, quaternion in placed:
        if obstacle.kind is Kind.GREMLIN:
            body = _body(world, f"{name}mocap", mocap="true")
            if markers:
                faint = f"{_text(obstacle.rgba[:3])} {0.1 * obstacle.rgba[3]!r}"
                pose = {"pos": f"{xy} {obstacle.z!r}", "quat": quaternion, "rgba": faint}
                _geom(body, obstacle, f"{name}mocap", **pose, contype="0", conaffinity="0")
            equality = ElementTree.SubElement(root, "equality") if equality is None else equality
            bodies = {"body1": f"{name}mocap", "body2": f"{name}obj"}
            ElementTree.SubElement(equality, "weld", bodies, name=f"{name}mocap", solref=".02 1.5")
    for obstacle, name, xy, quaternion in placed:
        if obstacle.kind is Kind.SOLID or (obstacle.kind is Kind.MARKER and markers):
            body = _body(world, name, pos=f"{xy} {obstacle.z!r}", quat=quaternion)
            contact = "1" if obstacle.kind is Kind.SOLID else "0"
            _geom(body, obstacle, name, contype=contact, conaffinity=contact)


def _remove_ornaments(root: ElementTree.Element, world: ElementTree.Element) -> None:
    """Takes away a robot's cameras and what neither touches nor weighs anything: 20 MB of the racecar's shape."""
    for body in world.iter("body"):
        for camera in body.findall("camera"):
            body.remove(camera)
        for geom in body.findall("geom"):
            if [geom.get(name) for name in ("contype", "conaffinity", "density")] == ["0", "0", "0"]:
                body.remove(geom)
    used = {geom.get("mesh") for geom in world.iter("geom")}
    for asset in root.findall("asset"):
        for mesh in asset.findall("mesh"):
            if mesh.get("name") not in used:
                asset.remove(mesh)


def _add_corners(body: ElementTree.Element, box: Obstacle) -> None:
    size = _text((box.size / 2, box.size / 2, box.size))
    corners = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
    for number, (x, y) in enumerate(corners, 1):
        pos = f"{x * box.size!r} {y * box.size!r} 0"
        _geom(body, box, f"col{number}", size=size, pos=pos, density=repr(box.density))


def _body(world: ElementTree.Element, name: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(world, "body", {"name": name, **attributes})


def _geom(body: ElementTree.Element, obstacle: Obstacle, name: str, **attributes: str) -> None:
    shape, half_height = obstacle.shape
    size = (obstacle.size, half_height) if half_height is not None else (obstacle.size,) * 3
    values = {"name": name, "type": shape, "size": _text(size), "rgba": _text(obstacle.rgba)}
    ElementTree.SubElement(body, "geom", {**values, "group": str(obstacle.group), **attributes})


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element:
    child = element.find(tag)
    assert child is not None
    return child


def _text(values: Any) -> str:
    return " ".join(repr(float(value)) for value in values)


class TaskModel:
    """The compiled model of a task and where things are in it.

    Attributes:
        model: the compiled model, to be copied.
        agent: the robot's body.
        free: the bodies of what moves, gremlins included; they follow each other.
        vase_dofs: the degrees of freedom of the vases that cost.
        pairs: flat table `[ngeom * ngeom]` of what it means that two geoms touch: 0 nothing, `FORBIDDEN`,
            or `BUTTON << n` for button n; always with the robot.
    """

    FORBIDDEN = 1
    BUTTON = 2

    def __init__(self, task: Task) -> None:
        """Compiles the model.

        Raises:
            UserError: Safety-Gymnasium is not installed.
        """
        self.task = task
        # Not at the origin and not straight ahead: there the compiler takes shortcuts that hold only there.
        count = 1 + task.num_things
        xml = world_xml(task, np.ones((count, 2)), np.ones(count))
        self.model = model = mujoco.MjModel.from_xml_string(xml)
        self.agent = int(model.body("agent").id)
        kinds = [(o.kind, name) for o in task.obstacles for name in o.names]
        suffixes = {Kind.FREE: "", Kind.GREMLIN: "obj", Kind.SOLID: ""}
        embodied = [(n, name + suffixes[kind]) for n, (kind, name) in enumerate(kinds) if kind in suffixes]
        self._rows = np.array([0, *(1 + n for n, _ in embodied)])
        self._bodies = np.array([self.agent, *(model.body(name).id for _, name in embodied)])
        free = [model.body(f"{name}{suffixes[kind]}").id for kind, name in kinds if kind in (Kind.FREE, Kind.GREMLIN)]
        self.free = slice(free[0], free[-1] + 1) if free else slice(0, 0)
        self._welds = np.flatnonzero(model.eq_type == mujoco.mjtEq.mjEQ_WELD)

        joints = model.body_jntadr[self._bodies]
        has_free_joint = [j >= 0 and model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE for j in joints]
        self._free_rows = self._rows[has_free_joint]
        self._free_addresses = model.jnt_qposadr[joints[has_free_joint]]

        vases = task.obstacle("vase")
        self.vase_dofs = slice(0, 0)
        if vases is not None and vases.costly:
            first = int(model.body("vase0").dofadr[0])
            self.vase_dofs = slice(first, first + 6 * vases.num)
        self.pairs = self._touching()

    def place(
        self, model: mujoco.MjModel, data: mujoco.MjData, places: NDArray[np.float64], yaws: NDArray[np.float64]
    ) -> None:
        """Writes a layout into a copy of the model and resets the simulation to its beginning.

        Args:
            model: a copy of this model.
            data: its simulation.
            places: of the robot and of each thing, `[1 + things, 2]` in meters.
            yaws: likewise their rotations about the vertical, `[1 + things]` in radians.
        """
        quaternions = yaw_quaternions(yaws)
        model.body_pos[self._bodies, :2] = places[self._rows]
        model.body_quat[self._bodies] = quaternions[self._rows]
        if model.body_mass[self.agent] == 0:  # the compiler's inertial frame of a body that has no mass
            model.body_ipos[self.agent] = model.body_pos[self.agent]
            model.body_iquat[self.agent] = model.body_quat[self.agent]
        for row, address in zip(self._free_rows.tolist(), self._free_addresses.tolist(), strict=True):
            for start in (model.qpos0, model.qpos_spring):
                start[address : address + 2] = places[row]
                start[address + 3 : address + 7] = quaternions[row]
        if len(self._welds):
            # Only where the quaternion is zero are welds computed anew, and from where mocap bodies are now.
            model.eq_data[self._welds, 6:10] = 0.0
        mujoco.mj_resetData(model, data)
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)

    def _touching(self) -> NDArray[np.uint8]:
        model = self.model
        inside = np.zeros(model.nbody, np.bool_)
        inside[self.agent] = True
        for body in range(self.agent + 1, model.nbody):
            inside[body] = inside[model.body_parentid[body]]
        robot = inside[model.geom_bodyid]
        pairs = np.zeros((model.ngeom, model.ngeom), np.uint8)
        for geom in range(model.ngeom):
            name = model.geom(geom).name
            obstacle = next((o for o in self.task.obstacles if name.startswith(o.name) and not robot[geom]), None)
            meaning = 0
            if obstacle is not None and obstacle.name == "button":
                meaning = self.BUTTON << int(name.removeprefix("button"))
            elif obstacle is not None and obstacle.costly and obstacle.kind is not Kind.MARKER:
                meaning = self.FORBIDDEN
            pairs[geom, robot] = pairs[robot, geom] = meaning
        return pairs.ravel()


@functools.lru_cache(maxsize=16)
def _task_model(agent: str, goal: str, extent: float, obstacles: tuple[Obstacle, ...]) -> TaskModel:
    return TaskModel(Task(agent, goal, extent, obstacles))


def task_model(task: Task) -> TaskModel:
    """The model of a task, compiled when it is first asked for in this process.

    Raises:
        UserError: Safety-Gymnasium is not installed.
    """
    return _task_model(task.agent, task.goal, task.extent, task.obstacles)
