"""Where the gremlins of Safety-Gymnasium's Button tasks are pulled to: around a circle, by time alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quadriga.platform.environments.safety_tasks import GREMLIN_TRAVEL, SUBSTEPS

_BLOCK = 1000
_HEIGHT = 0.1


class Circle:
    """The places at each physics step, computed once for all gremlins, environments and episodes."""

    def __init__(self, timestep: float) -> None:
        """`timestep`: of the physics, in seconds."""
        self._timestep = timestep
        self._times = [0.0]
        self._targets = np.zeros((0, 3))

    def targets(self, time: float, length: int) -> NDArray[np.float64]:
        """The places `[10, 3]` relative to a gremlin's first one, in meters.

        Args:
            time: of the simulation, in seconds.
            length: environment steps since the episode began.
        """
        first = length * SUBSTEPS
        while first + SUBSTEPS > len(self._targets):
            self._extend()
        if time != self._times[first]:  # MuJoCo begins anew, at time 0, where a simulation diverges
            times = [time]
            for _ in range(SUBSTEPS - 1):
                times.append(times[-1] + self._timestep)
            return np.array([self._target(moment) for moment in times])
        return self._targets[first : first + SUBSTEPS]

    def _extend(self) -> None:
        begin = len(self._targets)
        for _ in range(_BLOCK):
            self._times.append(self._times[-1] + self._timestep)
        fresh = [self._target(time) for time in self._times[begin : begin + _BLOCK]]
        self._targets = np.concatenate([self._targets, fresh])

    @staticmethod
    def _target(time: float) -> tuple[float, float, float]:
        return float(np.sin(time) * GREMLIN_TRAVEL), float(np.cos(time) * GREMLIN_TRAVEL), _HEIGHT
