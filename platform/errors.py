"""Errors for people: what was wrong, where, and what to do.

The command line prints a `UserError` as one line and exits with code 2; anything else is a
defect and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can put right; the message is one line that says how."""


class TrainingStopped(UserError):
    """Training cannot go on (a NaN loss, an environment that keeps failing); the last good checkpoint stands."""


class WorkersLost(TrainingStopped):
    """Processes that training needs died and did not come back: nothing is wrong with it, and it may be tried again."""


class StorageFailed(UserError):
    """What a run is to keep cannot be written: nothing is wrong with the run, and it may be tried again."""


class TrainingInterrupted(Exception):
    """A signal ended a run before its last step; the message says how to go on.

    Attributes:
        signum: the signal, e.g. `signal.SIGINT`.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


def one_line(error: BaseException) -> str:
    """What an error says, on one line; of an error that a Ray worker raised, without the worker's traceback."""
    cause = getattr(error, "cause", None)
    said = cause if isinstance(cause, BaseException) else error
    return " ".join(str(said).split()) or type(said).__name__


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice closest to `name` or the only one it begins, or the empty string."""
    choices = list(choices)
    lowered = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if not matches and len(name) >= 3:
        begun = [choice for choice in lowered if choice.startswith(name.lower())]
        matches = begun if len(begun) == 1 else []
    return f"; did you mean {lowered[matches[0]]!r}?" if matches else ""


def unknown(kind: str, name: str, choices: Iterable[str], *, listing: str = "") -> UserError:
    """The error for a name that no registry holds: the nearest one, or where the list is.

    Args:
        kind: what the name was meant to be, e.g. `"environment"`.
        name: what was given.
        choices: every valid name.
        listing: what to run or read to see them all, e.g. `"quadriga list environments"`.
    """
    choices = list(choices)
    hint = nearest(name, choices)
    if not hint and listing:
        hint = f"; see: {listing}"
    elif not hint and choices:
        hint = f"; allowed: {', '.join(sorted(choices))}"
    return UserError(f"unknown {kind} {name!r}{hint}")
