"""SIGINT and SIGTERM for a program that wants to finish what it is doing first."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from quadriga.platform.errors import TrainingInterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"\nfinishing this iteration, then saving a checkpoint; once more to stop at once\n"


class Interrupts:
    """Handles the two signals while it is entered.

    Outside `deferred` a signal raises `KeyboardInterrupt` at once; inside, the first one is only
    noted in `received` and the second raises. Does nothing outside the main thread, where Python
    allows no handlers.

    Attributes:
        received: the first signal that came, or `None`.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def install(self) -> None:
        """Puts the handlers in place, also after somebody else replaced them."""
        for signum in self._before:
            signal.signal(signum, self._handle)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While inside, the first signal is noted instead of raised."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        first = self.received is None
        if first:
            self.received = signum
        if not (first and self._deferring):
            raise KeyboardInterrupt
        # Not through sys.stderr: the signal may have come in the middle of a write to it.
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), NOTICE)


@contextlib.contextmanager
def resumable(message: str) -> Iterator[None]:
    """Work that can be gone on with: a signal ends it with a message that says how.

    Raises:
        TrainingInterrupted: one came.
    """
    with Interrupts() as interrupts:
        try:
            yield
        except KeyboardInterrupt:
            raise TrainingInterrupted(interrupts.received or signal.SIGINT, message) from None
