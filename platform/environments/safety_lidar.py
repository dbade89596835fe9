"""What a robot sees of the things around it: Safety-Gymnasium's pseudo lidar, for many robots at once.

Around the robot are 16 bins, numbered counterclockwise from straight ahead. A thing at distance d fills the
bin of its direction with max(0, 3 - d) / 3, and by the share of the way that it stands towards
them, the two bins beside. A bin keeps the greatest value that it is given. Each kind of thing has a lidar of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 16
MAX_DISTANCE = 3.0
"""In meters."""
_BIN_SIZE = (np.pi * 2) / NUM_BINS


def lidar(
    offsets: NDArray[np.float64],
    heights: NDArray[np.float64],
    rotations: NDArray[np.float64],
    lidars: NDArray[np.intp],
    num_lidars: int,
) -> NDArray[np.float64]:
    """All bins of all robots.

    Args:
        offsets: from each robot to each thing in the world's frame, `[N, things, 2]` in meters.
        heights: of the robots' origins above the floor, `[N]` in meters.
        rotations: from the robots' frames to the world's, row by row, `[N, 9]`.
        lidars: the number of the lidar that sees each thing, `[things]`.
        num_lidars: how many there are.

    Returns:
        Values in [0, 1], `[N, num_lidars * 16]`, lidar by lidar.
    """
    num_envs, num_things = offsets.shape[:2]
    x, y = offsets[..., 0], offsets[..., 1]
    ahead = x * rotations[:, 0, None] + y * rotations[:, 3, None] - (heights * rotations[:, 6])[:, None]
    left = x * rotations[:, 1, None] + y * rotations[:, 4, None] - (heights * rotations[:, 7])[:, None]
    closeness = np.maximum(0.0, MAX_DISTANCE - np.hypot(ahead, left)) / MAX_DISTANCE
    position = (np.arctan2(left, ahead) % (np.pi * 2)) / _BIN_SIZE
    bins = position.astype(np.intp)
    share = position - bins
    bins %= NUM_BINS  # a direction just right of straight ahead may be rounded to a full turn

    values = np.zeros(num_envs * num_lidars * NUM_BINS)
    first = (np.arange(num_envs)[:, None] * num_lidars + lidars) * NUM_BINS
    cells = np.empty((3, num_envs, num_things), np.intp)
    np.add(first, bins, out=cells[0])
    np.add(first, (bins + 1) % NUM_BINS, out=cells[1])
    np.add(first, (bins - 1) % NUM_BINS, out=cells[2])
    seen = np.empty((3, num_envs, num_things))
    seen[0] = closeness
    np.multiply(share, closeness, out=seen[1])
    np.multiply(1 - share, closeness, out=seen[2])
    np.maximum.at(values, cells.ravel(), seen.ravel())
    return values.reshape(num_envs, num_lidars * NUM_BINS)
