"""What a sample may use, and what comes out: limits and verdicts. Plain data, no processes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from quadriga.platform.errors import UserError

Kind = Literal["passed", "failed", "timeout", "crashed", "oom", "infrastructure_error"]
KINDS: tuple[Kind, ...] = ("passed", "failed", "timeout", "crashed", "oom", "infrastructure_error")
Mode = Literal["split", "inproc"]
MODES: tuple[Mode, ...] = ("split", "inproc")
Tier = Literal["namespaces", "landlock", "none"]

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one sample may use.

    Attributes:
        wall_s: seconds from the start of its process until it is killed.
        cpu_s: CPU seconds, in whole seconds; `None`: one more than `wall_s`, so that the wall clock decides.
        memory_bytes: address space.
        output_bytes: of one answer to the tests; what it prints goes nowhere.
        scratch_bytes: of all its files together, and of each; no file can be written in the tier `landlock`.
        scratch_files: files, folders and links.

    Raises:
        UserError: a limit with which nothing could run.
    """

    wall_s: float = 3.0
    cpu_s: float | None = None
    memory_bytes: int = 512 * MEGABYTE
    output_bytes: int = 4 * MEGABYTE
    scratch_bytes: int = 16 * MEGABYTE
    scratch_files: int = 1024

    def __post_init__(self) -> None:
        least = {"wall_s": 0.01, "cpu_s": 0.01, "memory_bytes": 128 * MEGABYTE, "output_bytes": 1024}
        least |= {"scratch_bytes": 64 * 1024, "scratch_files": 8}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= lowest):
                raise UserError(f"limit {name}: expected {lowest:,} or more, got {value!r}")

    @property
    def cpu_seconds(self) -> float:
        """The limit on CPU time that is in force."""
        return self.wall_s + 1 if self.cpu_s is None else self.cpu_s

    def with_wall(self, wall_s: float) -> Limits:
        """The same with at least `wall_s`."""
        return self if wall_s <= self.wall_s else dataclasses.replace(self, wall_s=wall_s)

    def as_json(self) -> dict[str, Any]:
        """For a results file."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Verdict:
    """What became of a sample.

    Attributes:
        kind: `passed`; `failed`: an assertion or another exception; `timeout`; `crashed`: its process
            ended before the tests did; `oom`: out of memory; `infrastructure_error`: the sandbox or
            the problem is at fault, and the sample has not been judged.
        detail: why, on one bounded line that is safe to print; empty for `passed`.
        seconds: wall seconds.
        cpu_s: CPU seconds of the sample's process; in `split` mode without those of the tests.
    """

    kind: Kind
    detail: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the tests came to their end without a complaint."""
        return self.kind == "passed"


def printable(text: str, length: int = 400) -> str:
    """`text` on one line of at most `length` characters, with nothing that a terminal would obey."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return shown if len(shown) <= length else shown[: length - 3] + "..."


@dataclass(frozen=True)
class Isolation:
    """How samples are kept in, as a sandbox found it.

    Attributes:
        tier: `namespaces` (with seccomp and, where the kernel has it, Landlock), `landlock` (with
            seccomp), or `none`.
        python: version of the interpreter that runs samples.
        interpreter: its program.
        library: its standard library, as the sandbox found it.
        landlock: version of Landlock in force, 0 for none.
        user: user id, on this machine, that samples run as.
    """

    tier: Tier
    python: str
    interpreter: str
    library: str
    landlock: int
    user: int

    def __str__(self) -> str:
        parts = {
            "namespaces": f"namespaces, seccomp, Landlock {self.landlock or 'none'}",
            "landlock": f"Landlock {self.landlock}, seccomp; no namespaces",
            "none": "NONE: samples can do what this user can",
        }
        return f"{parts[self.tier]}; Python {self.python} ({self.interpreter}), user {self.user}"
