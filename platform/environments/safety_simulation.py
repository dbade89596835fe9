"""N MuJoCo simulations of one of Safety-Gymnasium's tasks: moved one after the other, read all at once.

Knows physics and what touches what; nothing of rewards, goals and episodes.

What the package does with a simulation in a step is 10 `mj_step` and three `mj_forward`. `mj_forward` changes nothing
when it is repeated, so one is left, after the steps, for the sensors. Its positions and velocities are those at
which the next step begins, so that one continues from there. And the forces that it finds are felt by the robot alone,
so where nothing touches a robot they are not asked for. None of these changes a bit of the motion or of the readings.
"""

from __future__ import annotations

import copy

import mujoco
import numpy as np
from numpy.typing import NDArray

from quadriga.platform.environments.native import Failed
from quadriga.platform.environments.safety_gremlins import Circle
from quadriga.platform.environments.safety_model import TaskModel
from quadriga.platform.environments.safety_tasks import SUBSTEPS
from quadriga.platform.errors import UserError

_NO_SENSORS = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
_POSITION_STAGE = mujoco.mjtStage.mjSTAGE_POS
_VELOCITY_STAGE = mujoco.mjtStage.mjSTAGE_VEL
_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


def sleep_flag() -> int:
    """MuJoCo's flag that lets objects at rest sleep.

    Raises:
        UserError: the installed version has none.
    """
    flag = getattr(mujoco.mjtEnableBit, "mjENBL_SLEEP", None)
    if flag is None:
        raise UserError(
            f"env.sleeping: MuJoCo {mujoco.__version__} has no sleeping objects; install mujoco>=3.17, or leave it off"
        )
    return int(flag)


class Simulations:
    """The simulations and what was last read from them.

    Attributes:
        models: each simulation's own, for its layout is in it.
        data: the simulations.
        readings: of the sensors, `[N, nsensordata]`.
        positions: of all bodies, `[N, nbody, 3]` in meters.
        rotations: from the robots' frames to the world's, row by row, `[N, 9]`.
        vase_velocities: linear and angular, `[N, vases that cost, 6]`.
    """

    def __init__(self, shared: TaskModel, num_envs: int, *, sleeping: bool = False) -> None:
        """Copies the model.

        Args:
            shared: the task's model.
            num_envs: how many simulations.
            sleeping: let objects at rest sleep, which changes the motion.

        Raises:
            UserError: `sleeping`, and the installed MuJoCo cannot.
        """
        template = shared.model
        self._shared = shared
        self.models = [copy.copy(template) for _ in range(num_envs)]
        if sleeping:
            for model in self.models:
                model.opt.enableflags |= sleep_flag()
        self.data = [mujoco.MjData(model) for model in self.models]
        self.readings = np.zeros((num_envs, template.nsensordata))
        self.positions = np.zeros((num_envs, template.nbody, 3))
        self.rotations = np.zeros((num_envs, 9))
        dofs = shared.vase_dofs
        self.vase_velocities = np.zeros((num_envs, (dofs.stop - dofs.start) // 6, 6))

        self._options = [model.opt for model in self.models]
        self._controls = [data.ctrl for data in self.data]
        self._reading_views = [data.sensordata for data in self.data]
        self._position_views = [data.xpos for data in self.data]
        self._rotation_views = [data.xmat[shared.agent] for data in self.data]
        self._velocity_views = [data.qvel[dofs] for data in self.data]
        self._flags = int(template.opt.disableflags)
        self._circle = Circle(float(template.opt.timestep))
        if template.nmocap:
            self._advance = self._pull
        elif template.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER and not sleeping:
            self._advance = self._resume
        else:
            self._advance = self._run
        self._feels_contacts = bool(shared.pairs.any())
        root = int(template.body_jntadr[shared.agent])
        stands = template.jnt_type[root] == mujoco.mjtJoint.mjJNT_FREE  # on the floor, by forces
        others = np.isin(template.geom_bodyid, np.arange(template.nbody)[shared.free])
        worth_it = (
            np.count_nonzero(others) > 1
        )  # the forces on a single shape take less time than asking for them apart
        self._sense = self._sense_alone if worth_it and not stands and not sleeping else self._sense_all
        self._first_dof = int(template.jnt_dofadr[root])
        count = np.count_nonzero(template.dof_treeid == template.body_treeid[shared.agent])
        own = slice(self._first_dof, self._first_dof + count)
        self._accelerations = [(data.qacc[own], data.qacc_smooth[own]) for data in self.data]

    @property
    def agents(self) -> NDArray[np.float64]:
        """Where the robots are, `[N, 3]` in meters."""
        return self.positions[:, self._shared.agent]

    @property
    def free(self) -> NDArray[np.float64]:
        """Where the things that move are, `[N, such things, 3]` in meters."""
        return self.positions[:, self._shared.free]

    def move(self, controls: NDArray[np.float64], lengths: NDArray[np.int64]) -> Failed:
        """One environment step of physics, after which everything is read.

        Args:
            controls: of the actuators, within their ranges, `[N, nu]`.
            lengths: environment steps since each simulation began, `[N]`.

        Returns:
            The simulations that raised, with what they raised.
        """
        failed: Failed = []
        advance, sense, flags = self._advance, self._sense, self._flags
        columns = zip(self.models, self.data, self._options, self._controls, controls, lengths.tolist(), strict=True)
        for index, (model, data, option, control, own, length) in enumerate(columns):
            try:
                control[:] = own
                option.disableflags = flags | _NO_SENSORS
                advance(model, data, length)
                option.disableflags = flags
                sense(index, model, data)
            except Exception as error:
                option.disableflags = flags
                failed.append((index, error))
        np.concatenate(self._reading_views, out=self.readings.reshape(-1))
        np.concatenate(self._position_views, out=self.positions.reshape(-1, 3))
        np.concatenate(self._rotation_views, out=self.rotations.reshape(-1))
        np.concatenate(self._velocity_views, out=self.vase_velocities.reshape(-1))
        return failed

    def place(self, index: int, places: NDArray[np.float64], yaws: NDArray[np.float64]) -> None:
        """Begins simulation `index` anew with a layout; see `TaskModel.place`."""
        self._shared.place(self.models[index], self.data[index], places, yaws)

    def read(self, index: int) -> None:
        """Brings simulation `index` up to date with its state, and reads it."""
        mujoco.mj_forward(self.models[index], self.data[index])
        self.readings[index] = self._reading_views[index]
        self.positions[index] = self._position_views[index]
        self.rotations[index] = self._rotation_views[index]
        self.vase_velocities[index] = self._velocity_views[index].reshape(-1, 6)

    def touched(self, rows: slice) -> NDArray[np.uint8]:
        """What each robot touches, as the bits of `TaskModel.pairs`, `[rows]`."""
        simulations = self.data[rows]
        touched = np.zeros(len(simulations), np.uint8)
        if self._feels_contacts:
            geoms = [data.contact.geom for data in simulations]
            both = np.concatenate(geoms)
            meanings = self._shared.pairs[both[:, 0] * self._shared.model.ngeom + both[:, 1]]
            hits = np.flatnonzero(meanings)
            if len(hits):
                ends = np.cumsum([len(own) for own in geoms])
                np.bitwise_or.at(touched, np.searchsorted(ends, hits, side="right"), meanings[hits])
        return touched

    def states(self) -> NDArray[np.float64]:
        """All that the motion depends on but for the layout, `[N, numbers]`."""
        states = np.zeros((len(self.models), mujoco.mj_stateSize(self._shared.model, _STATE)))
        for model, data, row in zip(self.models, self.data, states, strict=True):
            mujoco.mj_getState(model, data, row, _STATE)
        return states

    def set_state(self, index: int, state: NDArray[np.float64]) -> None:
        """Continues simulation `index`, which has its layout, from a row of `states`."""
        mujoco.mj_setState(self.models[index], self.data[index], state, _STATE)

    def _run(self, model: mujoco.MjModel, data: mujoco.MjData, length: int) -> None:
        mujoco.mj_step(model, data, SUBSTEPS)

    def _resume(self, model: mujoco.MjModel, data: mujoco.MjData, length: int) -> None:
        """`_run`, where the first step only adds the new controls to what the last `mj_forward` found."""
        mujoco.mj_checkPos(model, data)
        mujoco.mj_checkVel(model, data)
        if data.time == 0.0:  # these begin anew a simulation that has diverged
            mujoco.mj_step(model, data, SUBSTEPS)
            return
        mujoco.mj_forwardSkip(model, data, _VELOCITY_STAGE, 1)
        mujoco.mj_checkAcc(model, data)
        mujoco.mj_Euler(model, data)
        mujoco.mj_step(model, data, SUBSTEPS - 1)

    def _sense_all(self, index: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        mujoco.mj_forward(model, data)

    def _sense_alone(self, index: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """`_sense_all` without the forces between things, unless the robot is in contact with one of them."""
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_sensorPos(model, data)
        if data.nefc == 0 or data.dof_island[self._first_dof] >= 0:
            mujoco.mj_forwardSkip(model, data, _POSITION_STAGE, 0)
            return
        mujoco.mj_fwdVelocity(model, data)
        mujoco.mj_sensorVel(model, data)
        mujoco.mj_fwdActuation(model, data)
        mujoco.mj_fwdAcceleration(model, data)
        acceleration, unconstrained = self._accelerations[index]
        acceleration[:] = unconstrained
        mujoco.mj_sensorAcc(model, data)

    def _pull(self, model: mujoco.MjModel, data: mujoco.MjData, length: int) -> None:
        """`_run`, where the gremlins are pulled around their circles."""
        mocap, step = data.mocap_pos, mujoco.mj_step
        for target in self._circle.targets(data.time, length):
            mocap[:] = target
            step(model, data)
