"""What vectors of MuJoCo's robots have in common: gymnasium's models, and snapshots of simulations that share one.

Tasks are in `safety_velocity` and `sparse_locomotion`; Safety-Gymnasium's navigation tasks, whose simulations have a
model each, are not among them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.utils import seeding

from quadriga.platform.environments.native import NativeVectorEnv

_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


@functools.cache
def gymnasium_model(file: str) -> mujoco.MjModel:
    """The model `file` of gymnasium's assets, which nobody may change."""
    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / file
    return mujoco.MjModel.from_xml_path(str(path))


class RobotVectorEnv(NativeVectorEnv):
    """N simulations of one model, each with random numbers of its own; a subclass makes them."""

    _model: mujoco.MjModel
    _simulations: list[mujoco.MjData]
    _random: list[np.random.Generator]

    def _seed(self, index: int, seed: int) -> None:
        self._random[index] = seeding.np_random(seed)[0]

    def _snapshot(self) -> dict[str, Any]:
        physics = np.zeros((self.num_envs, mujoco.mj_stateSize(self._model, _STATE)))
        for data, row in zip(self._simulations, physics, strict=True):
            mujoco.mj_getState(self._model, data, row, _STATE)
        return {
            "physics": physics,
            "exact_observations": self.exact_observations.copy(),
            "random": [random.bit_generator.state for random in self._random],
        }

    def _restore(self, index: int, snapshot: dict[str, Any]) -> None:
        mujoco.mj_resetData(self._model, self._simulations[index])
        mujoco.mj_setState(self._model, self._simulations[index], snapshot["physics"][index], _STATE)
        self._random[index].bit_generator.state = snapshot["random"][index]
        self.exact_observations[index] = snapshot["exact_observations"][index]
