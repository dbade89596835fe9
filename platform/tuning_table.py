"""What a person or a program sees of a search while it runs: a live table, plain lines, JSON lines or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quadriga.platform import trial as trials
from quadriga.platform.errors import UserError
from quadriga.platform.progress import MODES, json_line, number, words
from quadriga.platform.search import UNKNOWN, SearchSettings

PLAIN_INTERVAL_S = 10.0
LIVE_INTERVAL_S = 0.5
LIVE_ROWS = 24


@dataclass
class Row:
    """One trial as the table shows it."""

    name: str
    point: Mapping[str, Any]
    state: str = "running"
    step: int = 0
    objective: float = UNKNOWN
    means: Mapping[str, float] = field(default_factory=dict)


class Display:
    """Knows the trials' rows and says nothing; the kinds that say something override `changed` and `ending`.

    Attributes:
        ended: names of the trials that have nothing left to do.
    """

    def __init__(self, path: str, settings: SearchSettings, cluster: str) -> None:
        self.path, self.settings, self.cluster = path, settings, cluster
        self.rows: dict[str, Row] = {}
        self.ended: set[str] = set()

    def start(self) -> None:
        """The search is about to begin."""

    def update(self, name: str, config: Mapping[str, Any], state: str, result: Mapping[str, Any] | None) -> None:
        """Something happened to a trial."""
        row = self.rows.setdefault(name, Row(name, {}))
        row.point, row.state = trials.point_of(config), state
        if result:
            row.step = int(result.get(trials.STEP, row.step))
            row.objective = float(result.get(trials.OBJECTIVE, row.objective))
            row.means = {key: result[key] for key in self.settings.objective.metrics if key in result}
            if result.get(trials.STOPPED):
                row.state = "stopped"
        if state in ("done", "failed"):
            self.ended.add(name)
        self.changed(row)

    def changed(self, row: Row) -> None:
        """A row is new."""

    def close(self) -> None:
        """Gives the terminal back."""

    def counts(self) -> str:
        """How far the search is."""
        running = sum(row.state == "running" for row in self.rows.values())
        return f"{len(self.ended)} of {self.settings.total} trials ended, {running} running"

    def cells(self, row: Row) -> list[str]:
        """A row of the table."""
        values = [shown(row.point.get(name, "")) for name in self.settings.parameters]
        means = [number(row.means[name]) if name in row.means else "" for name in self.settings.objective.metrics]
        return [row.name.removeprefix("trial-"), row.state, *values, f"{row.step:,}", *means]

    def headers(self) -> list[str]:
        """Titles of the columns."""
        names = map(words, self.settings.objective.metrics)
        return ["trial", "state", *self.settings.parameters, "steps", *names]


class PlainDisplay(Display):
    """A line when a trial ends, and one in between now and then."""

    _said_at = 0.0

    def start(self) -> None:
        print(f"search      {self.path}\n  trials      {self.settings.total}\n  runs on     {self.cluster}", flush=True)

    def changed(self, row: Row) -> None:
        if row.name in self.ended:
            parts = [f"{title} {cell}" for title, cell in zip(self.headers(), self.cells(row), strict=True) if cell]
            print("  ".join(parts), flush=True)
        elif time.monotonic() - self._said_at > PLAIN_INTERVAL_S:
            self._said_at = time.monotonic()
            print(self.counts(), flush=True)


class JsonDisplay(Display):
    """A JSON object whenever a trial reports."""

    def changed(self, row: Row) -> None:
        print(
            json_line(
                {
                    "trial": row.name,
                    "state": row.state,
                    "point": dict(row.point),
                    "step": row.step,
                    "objective": row.objective,
                    **row.means,
                }
            ),
            flush=True,
        )


class LiveDisplay(Display):
    """A table of the trials, redrawn in place: running ones first, then the best."""

    _live: Any = None
    _drawn_at = 0.0

    def start(self) -> None:
        from rich.live import Live

        self._live = Live(self._table(), auto_refresh=False)
        self._live.start()

    def changed(self, row: Row) -> None:
        if self._live is not None and time.monotonic() - self._drawn_at > LIVE_INTERVAL_S:
            self._drawn_at = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            self._live = None

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(
            *self.headers(), box=None, header_style="bold", title=f"{self.path}: {self.counts()}", title_justify="left"
        )
        order = sorted(self.rows.values(), key=lambda row: (row.state != "running", -row.objective))
        for row in order[:LIVE_ROWS]:
            table.add_row(*self.cells(row))
        return table


current: Display | None = None
"""The display of the search that this process runs."""


def make_display(mode: str, path: str, settings: SearchSettings, cluster: str) -> Display:
    """The display of a mode; `auto` is live on a terminal and plain elsewhere."""
    if mode not in MODES:
        raise UserError(f"progress: expected one of {', '.join(MODES)}, got {mode!r}")
    if mode == "auto":
        mode = "live" if sys.stdout.isatty() else "plain"
    kinds = {"live": LiveDisplay, "plain": PlainDisplay, "json": JsonDisplay, "quiet": Display}
    global current
    current = kinds[mode](path, settings, cluster)
    return current


def shown(value: Any) -> str:
    """A point's value in a cell."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
