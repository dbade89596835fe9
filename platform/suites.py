"""Benchmarks as lines of work declare them: tasks, algorithms, what a trial is measured by, what was published.

A benchmark is a grid of variants (an algorithm with its settings) x tasks x seeds. Only
declarations and arithmetic on a trial's columns live here; running trials is `benchmark`'s business, tables and
pictures are `benchmark_report`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64]]
"""A trial's metrics, float64 [iterations] a column, the line's step metric among them; NaN where nothing was known."""


@dataclass(frozen=True)
class Measure:
    """One number of a finished trial.

    Attributes:
        label: heads its column of the table.
        of: the number, from the trial's columns and the name of its step metric; NaN if it is not known.
        better: `"higher"` or `"lower"`.
    """

    label: str
    of: Callable[[Columns, str], float]
    better: str = "higher"


@dataclass(frozen=True)
class Suite:
    """Tasks that are run together, and by what.

    Attributes:
        summary: one line.
        tasks: what `Benchmark.fields` takes.
        variants: by label: fields of an experiment, `preset` among them.
        steps: length of a trial.
        axis: dotted field that a response curve is drawn against, e.g. `"constraint.kp"`; `None` draws none.
    """

    summary: str
    tasks: Sequence[str]
    variants: Mapping[str, Mapping[str, Any]]
    steps: int
    axis: str | None = None


@dataclass(frozen=True)
class Publication:
    """What others have published of the same tasks.

    Attributes:
        name: short, e.g. `"OmniSafe"`.
        source: where the numbers stand, and how they were made.
        results: task to variant to measure to (mean, standard deviation over seeds).
    """

    name: str
    source: str
    results: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of a line of work.

    Attributes:
        summary: one line for `quadriga list benchmarks`.
        source: where it was published.
        suites: by name, the default one first.
        measures: by name, in the order of the table.
        fields: the fields of an experiment that make it one of a task.
        seeds: of a trial, by default.
        normalised: labels of what `normalise` returns, by name.
        normalise: a trial's measures in units that tasks share; an empty mapping for a task that has none.
        normalised_by: where the units come from.
        published: what to compare with.
    """

    summary: str
    source: str
    suites: Mapping[str, Suite]
    measures: Mapping[str, Measure]
    fields: Callable[[str], Mapping[str, Any]] = lambda task: {"env": {"id": task}}
    seeds: Sequence[int] = (0, 1, 2)
    normalised: Mapping[str, str] = field(default_factory=dict)
    normalise: Callable[[str, Mapping[str, float]], Mapping[str, float]] = lambda task, measures: {}
    normalised_by: str = ""
    published: Sequence[Publication] = ()


def at_the_end(metric: str, share: float = 0.1) -> Callable[[Columns, str], float]:
    """The mean of `metric` over the iterations in the last `share` of a trial's steps, one at least."""

    def of(columns: Columns, step_metric: str) -> float:
        if metric not in columns:
            return float("nan")
        steps, values = columns[step_metric], columns[metric]
        last = values[steps > (1.0 - share) * steps[-1]]
        known = last[~np.isnan(last)]
        return float(known.mean()) if len(known) else float("nan")

    return of


def last(metric: str) -> Callable[[Columns, str], float]:
    """The last known value of `metric`, e.g. of a rate over the whole training."""

    def of(columns: Columns, step_metric: str) -> float:
        values = columns.get(metric, np.empty(0))
        known = values[~np.isnan(values)]
        return float(known[-1]) if len(known) else float("nan")

    return of


def steps_until(metric: str, least: float) -> Callable[[Columns, str], float]:
    """Steps done when `metric` first was `least` or more; infinite if it never was."""

    def of(columns: Columns, step_metric: str) -> float:
        reached = np.flatnonzero(columns.get(metric, np.empty(0)) >= least)
        return float(columns[step_metric][reached[0]]) if len(reached) else float("inf")

    return of
