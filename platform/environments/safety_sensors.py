"""What a robot feels of itself: MuJoCo's sensors as the columns of Safety-Gymnasium's observations.

Angles of hinges become sine and cosine and a ball joint's quaternion a rotation matrix, so that no
observation jumps. Knows a compiled model, and nothing of tasks.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

FIRST = ("accelerometer", "velocimeter", "gyro", "magnetometer")
TOUCH = tuple(f"touch_ankle_{leg}{side}" for side in "ab" for leg in range(1, 5))
"""The doggo's, in the order of its observations."""


class RobotSensors:
    """Which sensors are observed, and in which order.

    Attributes:
        width: columns of an observation.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        """Finds the sensors of `model`."""
        names = [model.sensor(number).name for number in range(model.nsensor)]
        kinds = mujoco.mjtSensor

        def of(kind: int) -> list[str]:
            return [name for name, type in zip(names, model.sensor_type, strict=True) if type == kind]

        def addresses(name: str) -> list[int]:
            sensor = model.sensor(name)
            return list(range(int(sensor.adr[0]), int(sensor.adr[0]) + int(sensor.dim[0])))

        copied = [address for name in FIRST for address in addresses(name)]
        copied += [address for name in TOUCH if name in names for address in addresses(name)]
        copied += [address for name in of(kinds.mjSENS_JOINTVEL) for address in addresses(name)]
        copied += [address for name in of(kinds.mjSENS_BALLANGVEL) for address in addresses(name)]
        if "agent_pos" in names:
            copied += addresses("agent_pos")[2:]
        if "agent_qvel" in names:
            copied += addresses("agent_qvel")
        self._copied = np.array(copied)
        self._hinges = np.array([addresses(name)[0] for name in of(kinds.mjSENS_JOINTPOS)], np.intp)
        self._balls = [addresses(name)[0] for name in of(kinds.mjSENS_BALLQUAT)]
        self.width = len(copied) + 2 * len(self._hinges) + 9 * len(self._balls)

    def observe(self, readings: NDArray[np.float64], out: NDArray[np.float64]) -> None:
        """Writes observations.

        Args:
            readings: `sensordata` of each robot, `[N, nsensordata]`.
            out: `[N, width]`.
        """
        column = len(self._copied)
        out[:, :column] = readings[:, self._copied]
        if len(self._hinges):
            angles = readings[:, self._hinges]
            end = column + 2 * len(self._hinges)
            out[:, column:end:2] = np.sin(angles)
            out[:, column + 1 : end : 2] = np.cos(angles)
            column = end
        for address in self._balls:
            out[:, column : column + 9] = rotation_matrices(readings[:, address : address + 4])
            column += 9


def rotation_matrices(quaternions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit quaternions `[n, 4]` (scalar first) as rotation matrices, row by row `[n, 9]`."""
    w, x, y, z = quaternions.T
    matrices = np.empty((len(quaternions), 9))
    ww, xx, yy, zz = w * w, x * x, y * y, z * z
    matrices[:, 0] = ww + xx - yy - zz
    matrices[:, 4] = ww - xx + yy - zz
    matrices[:, 8] = ww - xx - yy + zz
    matrices[:, 1] = 2 * (x * y - w * z)
    matrices[:, 2] = 2 * (x * z + w * y)
    matrices[:, 3] = 2 * (x * y + w * z)
    matrices[:, 5] = 2 * (y * z - w * x)
    matrices[:, 6] = 2 * (x * z - w * y)
    matrices[:, 7] = 2 * (y * z + w * x)
    return matrices
