"""Wall and CPU seconds of this process's iterations, by phase.

The same stopwatch runs inside ours and inside every peer, in another virtual environment as well: it needs
nothing but the standard library. CPU seconds are those of all threads of the process; processes that merely
stand by (Ray's own) do not count.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLING, LEARNING, SYNC = "sampling", "learning", "sync"
BONUS = "bonus"
"""Parts of sampling and learning; of runs that have one."""


class Stopwatch:
    """Measures iterations and, inside them, the calls that `wrap` was shown."""

    def __init__(self) -> None:
        self.iterations: list[dict[str, float]] = []
        self._current: dict[str, float] = {}
        self._began = (0.0, 0.0)

    def wrap(self, owner: Any, method: str, phase: str) -> None:
        """Counts what `owner.method` takes as `phase` from now on."""
        original: Callable[..., Any] = getattr(owner, method)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = _now()
            try:
                return original(*args, **kwargs)
            finally:
                self._add(phase, began)

        setattr(owner, method, timed)

    def begin(self) -> None:
        """An iteration begins."""
        self._current = {f"{phase}_{kind}_s": 0.0 for phase in (SAMPLING, LEARNING, SYNC) for kind in ("wall", "cpu")}
        self._began = _now()

    def end(self, env_steps: int) -> None:
        """The iteration ends; it took `env_steps` environment steps."""
        wall, cpu = _now()
        seconds = {"wall_s": wall - self._began[0], "cpu_s": cpu - self._began[1]}
        self.iterations.append({"env_steps": env_steps, **seconds, **self._current})

    def _add(self, phase: str, began: tuple[float, float]) -> None:
        for kind, before, after in zip(("wall", "cpu"), began, _now(), strict=True):
            key = f"{phase}_{kind}_s"
            self._current[key] = self._current.get(key, 0.0) + after - before


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def run(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The main of a measured process: `SCRIPT SPECIFICATION OUTPUT`, both JSON, the output a file."""
    import json

    specification, output = sys.argv[1:]
    Path(output).write_text(json.dumps(measure(json.loads(specification))), encoding="utf-8")
