"""SIGINT and SIGTERM during a search: the first ends Tune, which saves its state; the second ends the command."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TO_TUNE = signal.SIGUSR1
"""Tune's own handler of it does what its handler of SIGINT does, which is off (`TUNE_DISABLE_SIGINT_HANDLER`)."""


class Stop:
    """Which signal came.

    Attributes:
        received: the first one, or `None`.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        first, tune = self.received is None, signal.getsignal(TO_TUNE)
        self.received = self.received or signum
        if not first or not callable(tune):
            raise KeyboardInterrupt
        tune(signum, frame)


@contextlib.contextmanager
def noted() -> Iterator[Stop]:
    """Handles the signals while inside; does nothing outside the main thread, where Python allows no handlers.

    A signal that comes before Tune listens, or after another, raises `KeyboardInterrupt`.
    """
    stop = Stop()
    before = {each: signal.getsignal(each) for each in (*SIGNALS, TO_TUNE)}
    try:
        for each in SIGNALS:
            signal.signal(each, stop._handle)
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        for each, handler in before.items():
            if handler is not None:  # of C, which cannot be put back
                signal.signal(each, handler)
