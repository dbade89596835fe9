"""Where environments go, for tasks whose place is two numbers: a plane, and how often each part of it was visited.

An environment says what its plane is (`ColumnVectorEnv.plane`) and where it stands; rollouts count; a run keeps the
counts of every iteration as text among its metrics, with which they are dropped and made again; `plot_visits` draws.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quadriga.platform.errors import UserError

BINS = 32
"""Parts of each axis."""


class Plane(NamedTuple):
    """Two numbers that tell the place of an environment: their names and bounds; what is beyond counts at the edge."""

    names: tuple[str, str]
    low: tuple[float, float]
    high: tuple[float, float]


@dataclass(frozen=True)
class Visits:
    """How many steps ended in each part of a plane.

    Attributes:
        plane: which.
        counts: int64 [BINS, BINS], first axis first.
    """

    plane: Plane
    counts: NDArray[np.int64]

    @classmethod
    def count(cls, plane: Plane, places: NDArray) -> Visits:
        """Of places [..., 2]."""
        low, high = np.asarray(plane.low), np.asarray(plane.high)
        index = np.floor((places.reshape(-1, 2) - low) / (high - low) * BINS).astype(np.int64).clip(0, BINS - 1)
        counts = np.bincount(index[:, 0] * BINS + index[:, 1], minlength=BINS * BINS)
        return cls(plane, counts.reshape(BINS, BINS))

    def __add__(self, other: Visits) -> Visits:
        return Visits(self.plane, self.counts + other.counts)

    def encode(self) -> str:
        """As text: the plane in JSON, a blank, and the counts (little-endian uint32, deflated, base 64)."""
        packed = base64.b64encode(zlib.compress(self.counts.astype("<u4").tobytes())).decode()
        return f"{json.dumps(self.plane, separators=(',', ':'))} {packed}"

    @classmethod
    def decode(cls, text: str) -> Visits:
        """What `encode` gave.

        Raises:
            UserError: it is something else.
        """
        plane, _, packed = text.rpartition(" ")
        try:
            counts = np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<u4").astype(np.int64)
            names, low, high = (tuple(part) for part in json.loads(plane))
            return cls(Plane(names, low, high), counts.reshape(BINS, BINS))
        except (ValueError, TypeError, zlib.error, binascii.Error) as error:
            raise UserError(f"visits: not the counts of a plane: {text[:40]!r}") from error
