"""Where a sample's processes run: on one processor while the sample is short, so that a call wakes no other one.

A call of the solution hands over between two processes of which one always waits. On one processor that is a switch;
on two it is an interrupt to a processor that has gone to sleep, which costs more than the work of most calls.
Where the system does not let processes be moved, they stay where they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from quadriga.codegen.sandbox import system

SHORT_S = 0.1


class Placement:
    """Moves processes together, and lets them go where the scheduler sees fit."""

    def __init__(self) -> None:
        self._allowed = os.sched_getaffinity(0)
        self._here: set[int] = set()

    def gather(self, process: int) -> None:
        """Stays where this process runs now, with what it forks from now on, and brings another one here."""
        if len(self._allowed) > 1:
            self._here = {system.current_processor()}
            _allow(process, self._here)
            _allow(0, self._here)

    def release(self, processes: Iterable[int]) -> None:
        """Lets processes go; 0 is this one."""
        if self._here:
            for process in processes:
                _allow(process, self._allowed)


def _allow(process: int, processors: set[int]) -> None:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(process, processors)
