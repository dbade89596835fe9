"""Safety-Gymnasium's velocity tasks: gymnasium's MuJoCo robots under a speed limit, in one loop.

The physics is most of a step here already. What is left out is the rest: gymnasium's look-ups by name and its
dictionaries of infos, and contact forces where they are not observed. The same seeds give the same episodes to the
last bit.

Gymnasium's order of things is kept: where the ant and the humanoid are is read from the last physics step's
beginning, and the cost of control is float32 arithmetic where the actions are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from quadriga.platform.environments.mujoco_robots import RobotVectorEnv, gymnasium_model
from quadriga.platform.environments.native import Failed
from quadriga.platform.environments.seeds import EpisodeSeeds

MAX_STEPS = 1000
_UNLIMITED = (-np.inf, np.inf)


@dataclass(frozen=True)
class Robot:
    """One robot and its task.

    Attributes:
        file: its model in gymnasium's assets.
        substeps: physics steps of an environment step.
        limit: the speed in m/s above which a step costs 1.
        hidden: how many of the first positions are not observed.
        control_cost: weight of the squared controls.
        noise: scale of the noise at the beginning of an episode.
        gaussian: whether that of the velocities is normal instead of uniform.
        forward: weight of the speed ahead in the reward.
        alive: reward of a step for not having fallen.
        height: between which heights of `qpos[height_at]` it has not fallen.
        height_at: where the height is in `qpos`.
        angle: likewise the angle `qpos[2]`.
        bound: of all other numbers of its state.
        clip: of observed velocities.
        planar: whether the limit is on the speed in the plane instead of that ahead.
    """

    file: str
    substeps: int
    limit: float
    hidden: int
    control_cost: float
    noise: float
    gaussian: bool = False
    forward: float = 1.0
    alive: float = 0.0
    height: tuple[float, float] = _UNLIMITED
    height_at: int = 1
    angle: tuple[float, float] = _UNLIMITED
    bound: float = np.inf
    clip: float = np.inf
    planar: bool = False


ROBOTS = {
    "HalfCheetah": Robot("half_cheetah.xml", 5, 3.2096, 1, 0.1, 0.1, gaussian=True),
    "Hopper": Robot(
        "hopper.xml",
        4,
        0.7402,
        1,
        1e-3,
        5e-3,
        alive=1.0,
        height=(0.7, np.inf),
        angle=(-0.2, 0.2),
        bound=100.0,
        clip=10.0,
    ),
    "Swimmer": Robot("swimmer.xml", 4, 0.2282, 2, 1e-4, 0.1),
    "Walker2d": Robot(
        "walker2d.xml", 4, 2.3415, 1, 1e-3, 5e-3, alive=1.0, height=(0.8, 2.0), angle=(-1.0, 1.0), clip=10.0
    ),
    "Ant": Robot(
        "ant.xml", 5, 2.6222, 2, 0.5, 0.1, gaussian=True, alive=1.0, height=(0.2, 1.0), height_at=2, planar=True
    ),
    "Humanoid": Robot(
        "humanoid.xml", 5, 1.4149, 2, 0.1, 1e-2, forward=1.25, alive=5.0, height=(1.0, 2.0), height_at=2, planar=True
    ),
}


class SafetyVelocityEnv(RobotVectorEnv):
    """N simulations of one robot, which share its model."""

    def __init__(
        self,
        robot: str,
        num_envs: int,
        *,
        name: str,
        rebuild: bool = True,
        max_episode_steps: int | None = None,
        episode_seeds: EpisodeSeeds | None = None,
    ) -> None:
        """Makes the simulations.

        Args:
            robot: one of `ROBOTS`.
            num_envs: how many.
            name: what error messages call them.
            rebuild: begin a new episode where one raises instead of raising `EnvironmentFailed`.
            max_episode_steps: time limit; by default the task's own.
            episode_seeds: the seed of every episode; needed for snapshots.
        """
        self.robot = ROBOTS[robot]
        self._is_ant, self._is_humanoid = robot == "Ant", robot == "Humanoid"
        self._model = model = gymnasium_model(self.robot.file)
        self._simulations = [mujoco.MjData(model) for _ in range(num_envs)]
        self._start = self._simulations[0].qpos.copy(), self._simulations[0].qvel.copy()
        parts = [self._observed(data) for data in self._simulations]
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        width = model.nq - self.robot.hidden + model.nv + sum(part.size for part in parts[0])
        super().__init__(
            num_envs,
            spaces.Box(-np.inf, np.inf, (width,), np.float32),
            spaces.Box(low.copy(), high.copy()),
            name=name,
            rebuild=rebuild,
            max_episode_steps=max_episode_steps or MAX_STEPS,
            episode_seeds=episode_seeds,
        )
        self._seconds = float(model.opt.timestep * self.robot.substeps)
        self._random = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self._places = np.zeros((num_envs, 2))
        self._positions = np.zeros((num_envs, model.nq))
        self._velocities = np.zeros((num_envs, model.nv))
        self._extras = np.zeros((num_envs, width - (model.nq - self.robot.hidden + model.nv)))
        self._controls = [data.ctrl for data in self._simulations]
        self._position_views = [data.qpos for data in self._simulations]
        self._velocity_views = [data.qvel for data in self._simulations]
        self._extra_views = [view for views in parts for view in views]
        self._masses = model.body_mass[:, None].copy()
        torso = model.body("torso").id
        self._torso_views = [data.xpos[torso] for data in self._simulations]
        self._center_views = [data.xipos for data in self._simulations]
        self._centers = np.zeros((num_envs, model.nbody, 3))

    def _observed(self, data: mujoco.MjData) -> list[NDArray[np.float64]]:
        """What is observed besides positions and velocities, as flat views."""
        if not self._is_humanoid:
            return []
        return [part.reshape(-1) for part in (data.cinert, data.cvel, data.qfrc_actuator, data.cfrc_ext)]

    def _begin_episode(self, index: int) -> None:
        data, random, noise = self._simulations[index], self._random[index], self.robot.noise
        mujoco.mj_resetData(self._model, data)
        qpos, qvel = self._start
        data.qpos[:] = qpos + random.uniform(-noise, noise, self._model.nq)
        if self.robot.gaussian:
            data.qvel[:] = qvel + noise * random.standard_normal(self._model.nv)
        else:
            data.qvel[:] = qvel + random.uniform(-noise, noise, self._model.nv)
        mujoco.mj_forward(self._model, data)
        self._read()
        self._places[index] = self._whereabouts()[index]
        self._observe(slice(index, index + 1))

    def _read(self) -> None:
        np.concatenate(self._position_views, out=self._positions.reshape(-1))
        np.concatenate(self._velocity_views, out=self._velocities.reshape(-1))
        if self._extra_views:
            np.concatenate(self._extra_views, out=self._extras.reshape(-1))

    def _whereabouts(self) -> NDArray[np.float64]:
        """Where the robots are for the reward, `[N, 2]` in meters."""
        if self._is_ant:
            return np.array(self._torso_views)[:, :2]
        if self._is_humanoid:
            np.concatenate(self._center_views, out=self._centers.reshape(-1, 3))
            centers: NDArray[np.float64] = np.sum(self._masses * self._centers, axis=1) / np.sum(self._masses)
            return centers[:, :2]
        return self._positions[:, :2]

    def _simulate(self, actions: NDArray[np.float32]) -> Failed:
        failed = self._move(actions)
        self._read()
        places = self._whereabouts()
        speeds = (places - self._places) / self._seconds
        self._places[:] = places
        ahead = speeds[:, 0]
        speed = np.sqrt(ahead * ahead + speeds[:, 1] * speeds[:, 1]) if self.robot.planar else ahead
        np.greater(speed, self.robot.limit, out=self._costs)
        controls = np.array(self._controls) if self._is_humanoid else actions
        cost = self.robot.control_cost * np.sum(np.square(controls), axis=1)
        self.exact_rewards[:] = (self.robot.forward * ahead + self.robot.alive) - cost
        self._terminations[:] = self._fallen()
        self._observe(slice(None))
        return failed

    def _move(self, actions: NDArray[np.float32]) -> Failed:
        failed: Failed = []
        model, substeps, step = self._model, self.robot.substeps, mujoco.mj_step
        for index, (data, control, own) in enumerate(zip(self._simulations, self._controls, actions, strict=True)):
            try:
                control[:] = own
                step(model, data, substeps)
                if self._is_humanoid:
                    mujoco.mj_rnePostConstraint(model, data)
            except Exception as error:
                failed.append((index, error))
        return failed

    def _fallen(self) -> NDArray[np.bool_] | bool:
        robot, positions, velocities = self.robot, self._positions, self._velocities
        if not robot.alive:
            return False
        low, high = robot.height
        height = positions[:, robot.height_at]
        if self._is_ant:
            healthy = (low <= height) & (height <= high)
            healthy &= np.isfinite(positions).all(axis=1) & np.isfinite(velocities).all(axis=1)
        else:
            healthy = (low < height) & (height < high)
        if robot.angle != _UNLIMITED:
            healthy &= (robot.angle[0] < positions[:, 2]) & (positions[:, 2] < robot.angle[1])
        if robot.bound < np.inf:
            healthy &= (np.abs(positions[:, 2:]) < robot.bound).all(axis=1)
            healthy &= (np.abs(velocities) < robot.bound).all(axis=1)
        return ~healthy

    def _observe(self, rows: slice) -> None:
        out = self.exact_observations[rows]
        first = self._model.nq - self.robot.hidden
        second = first + self._model.nv
        out[:, :first] = self._positions[rows, self.robot.hidden :]
        if self.robot.clip < np.inf:
            np.clip(self._velocities[rows], -self.robot.clip, self.robot.clip, out=out[:, first:second])
        else:
            out[:, first:second] = self._velocities[rows]
        out[:, second:] = self._extras[rows]

    def _snapshot(self) -> dict[str, Any]:
        return {**super()._snapshot(), "places": self._places.copy()}

    def _restore(self, index: int, snapshot: dict[str, Any]) -> None:
        super()._restore(index, snapshot)
        self._places[index] = snapshot["places"][index]
