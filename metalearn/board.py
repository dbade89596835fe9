"""Weights and directions in memory that the driver shares with the task workers on its own machine.

A worker elsewhere is served by Ray's object store; beside the driver that costs a copy into the store, one out of it
and several messages for every vector of every meta-iteration, which is more than a short inner loop takes. Here the
weights are written once, directions where they are summed, and Ray carries the call alone.

The memory is a file without a name (`memfd_create`): it is found through the driver's `/proc` entry, and is gone with
the last process that has it, however that ends. The link's text holds a random token, so that the same process number
on another machine or in another container is not mistaken for the driver.
"""

from __future__ import annotations

import mmap
import os
import secrets
from typing import NamedTuple

import numpy as np

from quadriga.metalearn.inner import Vector


class Address(NamedTuple):
    """Where a board is, for processes of the same machine."""

    process: int
    file: int
    token: str
    slots: int
    size: int


class Board:
    """One row for the weights and one for every slot's direction.

    Attributes:
        phi: `[size]`.
        directions: `[slots, size]`.
    """

    def __init__(self, file: int, address: Address) -> None:
        rows = (address.slots + 1, address.size)
        memory = mmap.mmap(file, rows[0] * rows[1] * np.dtype(np.float32).itemsize)
        table = np.frombuffer(memory, np.float32).reshape(rows)
        self.address = address
        self.phi: Vector = table[0]
        self.directions: Vector = table[1:]

    @classmethod
    def make(cls, slots: int, size: int) -> Board | None:
        """A new one; None where the system has no such memory."""
        if not hasattr(os, "memfd_create"):
            return None
        token = f"quadriga-{secrets.token_hex(16)}"
        try:
            file = os.memfd_create(token)
        except OSError:
            return None
        try:
            os.ftruncate(file, (slots + 1) * size * np.dtype(np.float32).itemsize)
            return cls(file, Address(os.getpid(), file, token, slots, size))
        except OSError:
            os.close(file)
            return None

    @classmethod
    def find(cls, address: Address) -> Board | None:
        """The board of `address`; None if that is on another machine, or another user's."""
        path = f"/proc/{address.process}/fd/{address.file}"
        try:
            if address.token not in os.readlink(path):
                return None
            file = os.open(path, os.O_RDWR)
        except OSError:
            return None
        try:
            return cls(file, address)
        finally:
            os.close(file)

    def close(self) -> None:
        """Ends the sharing with processes that have not found it yet. The maker's, once."""
        os.close(self.address.file)
