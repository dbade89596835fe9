"""Sparse tasks of MuJoCo's robots, N simulations of one model in one loop.

Two tasks of Achiam & Sastry 2017 (arXiv:1703.01732, section 5): a half-cheetah that is paid only beyond five units, and
a swimmer among apples and bombs (Duan et al. 2016, arXiv:1604.06778). What is observed and paid is rllab's; the
cheetah's model is gymnasium's, and the swimmer's is built here. Differences are named at each task.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from quadriga.platform.environments.mujoco_robots import RobotVectorEnv, gymnasium_model
from quadriga.platform.environments.native import Failed
from quadriga.platform.environments.seeds import EpisodeSeeds

MAX_STEPS = 500

Array = NDArray[np.float64]


class _RobotEnv(RobotVectorEnv):
    """N simulations that share a model; the observation begins with positions, velocities and the torso's center."""

    def __init__(
        self,
        num_envs: int,
        model: mujoco.MjModel,
        *,
        substeps: int,
        hidden: int,
        extras: int,
        name: str,
        rebuild: bool = True,
        max_episode_steps: int | None = None,
        episode_seeds: EpisodeSeeds | None = None,
        autoreset: bool = True,
    ) -> None:
        """Makes the simulations.

        Args:
            num_envs: how many.
            model: the robot's, with a body `torso`.
            substeps: physics steps of an environment step.
            hidden: how many of the first positions are not observed.
            extras: how many observations follow those of the body.
            name: what error messages call them.
            rebuild: begin a new episode where one raises instead of raising `EnvironmentFailed`.
            max_episode_steps: time limit; by default the task's own.
            episode_seeds: the seed of every episode; needed for snapshots.
            autoreset: see `NativeVectorEnv`.
        """
        width = model.nq - hidden + model.nv + 3 + extras
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        super().__init__(
            num_envs,
            spaces.Box(-np.inf, np.inf, (width,), np.float32),
            spaces.Box(low.copy(), high.copy()),
            name=name,
            rebuild=rebuild,
            max_episode_steps=max_episode_steps or MAX_STEPS,
            episode_seeds=episode_seeds,
            autoreset=autoreset,
        )
        self._model, self._substeps, self._hidden = model, substeps, hidden
        self._body_width = width - extras
        self._simulations = [mujoco.MjData(model) for _ in range(num_envs)]
        self._random = [seeding.np_random(None)[0] for _ in range(num_envs)]
        torso = model.body("torso").id
        self._centers = [data.subtree_com[torso] for data in self._simulations]

    def _begin_episode(self, index: int) -> None:
        mujoco.mj_resetData(self._model, self._simulations[index])
        self._place(index)
        mujoco.mj_forward(self._model, self._simulations[index])
        self._observe(index)

    def _place(self, index: int) -> None:
        """Disturbs the resting pose of simulation `index`, and whatever else a new episode needs."""
        data, random = self._simulations[index], self._random[index]
        data.qpos[:] += 0.01 * random.standard_normal(self._model.nq)
        data.qvel[:] += 0.1 * random.standard_normal(self._model.nv)

    def _observe(self, index: int) -> None:
        data, out = self._simulations[index], self.exact_observations[index]
        np.concatenate([data.qpos[self._hidden :], data.qvel, self._centers[index]], out=out[: self._body_width])

    def _simulate(self, actions: NDArray) -> Failed:
        failed: Failed = []
        model, substeps, step = self._model, self._substeps, mujoco.mj_step
        for index, (data, own) in enumerate(zip(self._simulations, actions, strict=True)):
            try:
                data.ctrl[:] = own
                step(model, data, substeps)
                # Of the state after the last step, not before it.
                mujoco.mj_kinematics(model, data)
                mujoco.mj_comPos(model, data)
            except Exception as error:
                failed.append((index, error))
                continue
            self._reward(index)
            self._observe(index)
        return failed

    def _reward(self, index: int) -> None:
        """Sets `exact_rewards` and `_terminations` of simulation `index` after a step."""
        raise NotImplementedError


class SparseHalfCheetahEnv(_RobotEnv):
    """A half-cheetah: 1 for every step with its center of mass beyond x = 5, else 0; never ends but by time.

    Observation: positions but x, velocities, center of mass. The model is gymnasium's, which is rllab's, with a step of
    0.01 s as rllab has it: an episode is 5 seconds, in which noise gets half a unit far. With gymnasium's own 0.05 s,
    noise as wide as the actions are gets beyond 5 units in one episode of fifty.
    """

    DISTANCE = 5.0

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        super().__init__(num_envs, gymnasium_model("half_cheetah.xml"), substeps=1, hidden=1, extras=0, **kwargs)

    def _reward(self, index: int) -> None:
        self.exact_rewards[index] = float(self._centers[index][0] > self.DISTANCE)


_WALL = '<geom type="box" pos="{x} {y} 0" size="{w} {h} 1" contype="1" conaffinity="1" condim="3"/>'
_LINK = (
    '<geom type="capsule" fromto="{0} 0 0 {1} 0 0" size="0.1" density="1000" contype="1" conaffinity="2" condim="1"/>'
)
_SWIMMER = """
<mujoco model="swimmer among walls">
  <compiler angle="degree" inertiafromgeom="true"/>
  <option timestep="0.005" density="4000" viscosity="0.1" integrator="implicitfast" gravity="0 0 0"/>
  <worldbody>
    {walls}
    <body name="torso">
      <joint type="slide" axis="1 0 0"/>
      <joint type="slide" axis="0 1 0"/>
      <joint type="hinge" axis="0 0 1"/>
      {head}
      <body name="mid" pos="0.5 0 0">
        <joint name="front" type="hinge" axis="0 0 1" range="-100 100" limited="true"/>
        {link}
        <body name="back" pos="-1 0 0">
          <joint name="rear" type="hinge" axis="0 0 1" range="-100 100" limited="true"/>
          {link}
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="front" ctrllimited="true" ctrlrange="-50 50"/>
    <motor joint="rear" ctrllimited="true" ctrlrange="-50 50"/>
  </actuator>
</mujoco>
"""


@functools.lru_cache(maxsize=1)
def _swimmer() -> mujoco.MjModel:
    walls = "".join(
        _WALL.format(x=x, y=y, w=0.5 if x else 7.5, h=0.5 if y else 7.5) for x, y in ((7, 0), (-7, 0), (0, 7), (0, -7))
    )
    xml = _SWIMMER.format(walls=walls, head=_LINK.format(1.5, 0.5), link=_LINK.format(0, -1))
    return mujoco.MjModel.from_xml_string(xml)


class SwimmerGatherEnv(_RobotEnv):
    """A swimmer of three links among 8 apples and 8 bombs: 1 for an apple, -1 for a bomb, else 0.

    Objects stand on a grid of 2 m within 6 m, at least 2 m from the origin, and are caught at less than 1 m from the
    swimmer's center of mass. Observation: positions, velocities, center of mass, and two rings of 10 sensors over the
    half circle ahead, `1 - distance / 6` of the nearest apple and of the nearest bomb in each. An episode ends with
    the last object. Lengths, masses, water, forces and the 0.05 s of a step are rllab's; the physics step is 5 ms in
    place of 1 ms, with an implicit integrator, and links do not collide with each other.
    """

    APPLES, BOMBS, RANGE, SPACING, CATCH, BINS = 8, 8, 6.0, 2.0, 1.0, 10

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        # x, y and caught (1) or there (0) of every object; the apples come first.
        self._objects = np.zeros((num_envs, self.APPLES + self.BOMBS, 3))
        self._grid = np.array(
            [(x, y) for x in range(-6, 6, 2) for y in range(-6, 6, 2) if math.hypot(x, y) >= self.SPACING], np.float64
        )
        super().__init__(num_envs, _swimmer(), substeps=10, hidden=0, extras=2 * self.BINS, **kwargs)

    def _place(self, index: int) -> None:
        super()._place(index)
        chosen = self._random[index].permutation(len(self._grid))[: self.APPLES + self.BOMBS]
        self._objects[index, :, :2] = self._grid[chosen]
        self._objects[index, :, 2] = 0.0

    def _reward(self, index: int) -> None:
        objects = self._objects[index]
        near = np.square(objects[:, :2] - self._centers[index][:2]).sum(axis=1) < self.CATCH**2
        caught = near & (objects[:, 2] == 0)
        objects[caught, 2] = 1.0
        self.exact_rewards[index] = caught[: self.APPLES].sum() - caught[self.APPLES :].sum()
        self._terminations[index] = bool(objects[:, 2].all())

    def _observe(self, index: int) -> None:
        super()._observe(index)
        readings = self.exact_observations[index, self._body_width :]
        readings[:] = 0.0
        objects = self._objects[index]
        offset = objects[:, :2] - self._centers[index][:2]
        distance = np.hypot(offset[:, 0], offset[:, 1])
        angle = np.arctan2(offset[:, 1], offset[:, 0]) - self._simulations[index].qpos[2]
        angle = (angle + math.pi) % (2 * math.pi) - math.pi
        seen = (objects[:, 2] == 0) & (distance <= self.RANGE) & (np.abs(angle) <= math.pi / 2)
        bins = np.minimum((angle + math.pi / 2) / math.pi * self.BINS, self.BINS - 1).astype(int)
        bins[self.APPLES :] += self.BINS
        np.maximum.at(readings, bins[seen], 1.0 - distance[seen] / self.RANGE)

    def _snapshot(self) -> dict[str, Any]:
        return {**super()._snapshot(), "objects": self._objects.copy()}

    def _restore(self, index: int, snapshot: dict[str, Any]) -> None:
        super()._restore(index, snapshot)
        self._objects[index] = snapshot["objects"][index]
