"""What a person or a program sees of a run while it trains: a live table, plain lines, JSON lines or nothing.

Gets rows and says them; what a row means and when a run ends is the training driver's business.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from quadriga.platform.errors import UserError

MODES = ("auto", "live", "plain", "json", "quiet")
PLAIN_INTERVAL_S = 5.0
RATE_WINDOW = 20
LIVE_ROWS = 8


@dataclass(frozen=True)
class RunInfo:
    """What is going to be trained.

    Attributes:
        version: of quadriga.
        preset: algorithm.
        task: what it is trained on.
        seed: of the run.
        path: the run folder, as the user may write it.
        start: progress before this session, in `unit`; 0 unless the run is resumed.
        total: progress at which the run ends.
        unit: the line's step metric, e.g. `env_steps`.
        headline: the metrics shown, in order.
    """

    version: str
    preset: str
    task: str
    seed: int
    path: str
    start: int
    total: int
    unit: str
    headline: Sequence[str]


class Progress:
    """Says nothing; the kinds that say something override what they need."""

    def start(self, info: RunInfo) -> None:
        """The run is about to begin; nothing expensive has happened yet."""
        self.info = info

    def note(self, text: str) -> None:
        """A line in passing."""

    def begin(self) -> None:
        """Everything is started and the first iteration begins."""

    def iteration(self, row: Mapping[str, Any]) -> None:
        """One iteration is done."""

    def finish(self, row: Mapping[str, Any], wall_time_s: float, commands: Sequence[str]) -> None:
        """The run has come to its end.

        Args:
            row: the last iteration's.
            wall_time_s: seconds of training, over all sessions of the run.
            commands: what the user may want to type next.
        """

    def close(self) -> None:
        """Gives the terminal back. May be called twice, and without `finish`."""


class PlainProgress(Progress):
    """One line an iteration, at most one every few seconds; the first and the last always."""

    def __init__(
        self,
        stream: IO[str] | None = None,
        interval: float = PLAIN_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._interval, self._clock = stream, interval, clock
        self._said_at = -math.inf

    def start(self, info: RunInfo) -> None:
        super().start(info)
        for line in opening(info):
            self._say(line)

    def note(self, text: str) -> None:
        self._say(text)

    def begin(self) -> None:
        self._pace = Pace(self.info, self._clock)

    def iteration(self, row: Mapping[str, Any]) -> None:
        info, step = self.info, int(row[self.info.unit])
        self._pace.at(step)
        now = self._clock()
        if now - self._said_at < self._interval and step < info.total:
            return
        self._said_at = now
        parts = [f"{step:,}/{info.total:,} {words(info.unit)}"]
        parts += [f"{label(name)} {number(row[name])}" for name in info.headline if name in row]
        self._say("  ".join([*parts, *self._pace.words()]))

    def finish(self, row: Mapping[str, Any], wall_time_s: float, commands: Sequence[str]) -> None:
        for line in ending(self.info, row, wall_time_s, commands):
            self._say(line)

    def _say(self, line: str) -> None:
        print(line, file=self._stream or sys.stdout, flush=True)


class LiveProgress(Progress):
    """A table of the latest iterations above a progress bar, redrawn in place."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        self._clock = clock
        self._rows: deque[Mapping[str, Any]] = deque(maxlen=LIVE_ROWS)
        self._live: Any = None

    def start(self, info: RunInfo) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar

        super().start(info)
        first, *others = opening(info)
        self._console.print(f"[bold]{first}[/]")
        for line in others:
            self._console.print(line, markup=False, soft_wrap=True)
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.fields[steps]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            expand=True,
            console=self._console,
        )
        self._task = self._bar.add_task("", total=info.total, completed=info.start, steps="starting", pace="")
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=4)
        self._live.start()

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self) -> None:
        self._pace = Pace(self.info, self._clock)

    def iteration(self, row: Mapping[str, Any]) -> None:
        step = int(row[self.info.unit])
        self._pace.at(step)
        self._rows.append(row)
        self._bar.update(
            self._task,
            completed=min(step, self.info.total),
            steps=f"{step:,}/{self.info.total:,} {words(self.info.unit)}",
            pace="  ".join(self._pace.words()),
        )

    def finish(self, row: Mapping[str, Any], wall_time_s: float, commands: Sequence[str]) -> None:
        self.close()
        for line in ending(self.info, row, wall_time_s, commands):
            self._console.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        rows = list(self._rows)
        names = [name for name in self.info.headline if any(name in row for row in rows)]
        if not rows:
            return self._bar
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
        for title in (words(self.info.unit), *map(label, names)):
            table.add_column(title, justify="right", no_wrap=True)
        for row in rows:
            cells = [number(row[self.info.unit]), *(number(row.get(name)) for name in names)]
            table.add_row(*cells, style="bold" if row is rows[-1] else "dim")
        return Group(table, self._bar)


class JsonProgress(Progress):
    """One JSON object a line: `event` is `start`, `iteration` (with the row's metrics) or `end`; NaN is null."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    def start(self, info: RunInfo) -> None:
        super().start(info)
        self._say(
            event="start",
            run=info.path,
            preset=info.preset,
            task=info.task,
            seed=info.seed,
            step_metric=info.unit,
            start=info.start,
            total=info.total,
        )

    def iteration(self, row: Mapping[str, Any]) -> None:
        self._say(event="iteration", **row)

    def finish(self, row: Mapping[str, Any], wall_time_s: float, commands: Sequence[str]) -> None:
        self._say(
            event="end",
            run=self.info.path,
            wall_time_s=wall_time_s,
            **{name: value for name, value in row.items() if name == self.info.unit or name in self.info.headline},
        )

    def _say(self, **fields: Any) -> None:
        print(json_line(fields), file=self._stream or sys.stdout, flush=True)


def make_progress(mode: str) -> Progress:
    """The progress display of a mode; `auto` is `live` on a terminal and `plain` elsewhere.

    Raises:
        UserError: no such mode.
    """
    if mode == "auto":
        mode = "live" if sys.stdout.isatty() else "plain"
    kinds: dict[str, Callable[[], Progress]] = {
        "live": LiveProgress,
        "plain": PlainProgress,
        "json": JsonProgress,
        "quiet": Progress,
    }
    if mode not in kinds:
        raise UserError(f"progress: expected one of {', '.join(MODES)}, got {mode!r}")
    return kinds[mode]()


class Pace:
    """Steps a second over the last iterations, and the time that is left at that rate."""

    def __init__(self, info: RunInfo, clock: Callable[[], float] = time.monotonic) -> None:
        self._info, self._clock = info, clock
        self._marks: deque[tuple[float, int]] = deque([(clock(), info.start)], maxlen=RATE_WINDOW + 1)

    def at(self, step: int) -> None:
        """The run has reached `step`."""
        self._marks.append((self._clock(), step))

    def rate(self) -> float:
        """Steps a second; NaN before the first iteration."""
        (since, first), (now, last) = self._marks[0], self._marks[-1]
        return (last - first) / (now - since) if now > since else math.nan

    def remaining(self) -> float:
        """Seconds until the end of the run; NaN while unknown."""
        rate = self.rate()
        return max(0, self._info.total - self._marks[-1][1]) / rate if rate > 0 else math.nan

    def words(self) -> list[str]:
        """The rate, unless it is among the metrics shown anyway, and the time left."""
        rate, left = self.rate(), self.remaining()
        shown = f"{self._info.unit}_per_second" in self._info.headline or math.isnan(rate)
        said = [] if shown else [f"{rate:,.0f} steps/s" if rate >= 10 else f"{rate:.2g} steps/s"]
        return said if math.isnan(left) else [*said, f"{duration(left)} left"]


def opening(info: RunInfo) -> list[str]:
    """What runs, how far, and where it is kept."""
    steps = f"{info.total:,} {words(info.unit)}"
    if info.start:
        steps = f"{words(info.unit)} {info.start:,} to {info.total:,}"
    return [
        f"quadriga {info.version}: {info.preset} on {info.task}",
        f"  steps       {steps}",
        f"  seed        {info.seed}",
        f"  run folder  {info.path}",
    ]


def ending(info: RunInfo, row: Mapping[str, Any], wall_time_s: float, commands: Sequence[str]) -> list[str]:
    """How far the run came, the last values of the headline, and what to type next."""
    shown = [name for name in info.headline if name in row]
    width = max(map(len, shown), default=0)
    return [
        f"done: {int(row[info.unit]):,} {words(info.unit)} in {duration(wall_time_s)}",
        *(f"  {name:<{width}}  {number(row[name])}" for name in shown),
        f"run folder: {info.path}",
        "next:",
        *(f"  {command}" for command in commands),
    ]


def json_line(fields: Mapping[str, Any]) -> str:
    """`fields` as strict JSON: numpy's numbers become Python's, NaN and the infinities null."""
    return json.dumps({name: _plain(value) for name, value in fields.items()}, allow_nan=False)


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def words(metric: str) -> str:
    """A metric's name as words: `env_steps` is `env steps`."""
    return metric.replace("_", " ")


def label(metric: str) -> str:
    """A short name for a column: `episode_return_mean` is `return`, `env_steps_per_second` is `steps/s`."""
    if metric.endswith("steps_per_second"):
        return "steps/s"
    return words(metric.removeprefix("episode_").removesuffix("_mean"))


def number(value: Any) -> str:
    """A metric's value with as many digits as matter; `-` for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, (str, bool)):
        return str(value)
    value = float(value)
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    raise AssertionError(whole)
