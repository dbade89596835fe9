"""What a report is made of: sections of figures, tables, films and texts, as plain data.

Lines of work and the platform fill these; how they look on a page belongs to `report_page`. Figures are
plotly.js figures (`data`, `layout`) without colors: a trace says which series it shows and in which role, and the page
colors it for light or dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MOST_POINTS = 2000
DASHES = ("solid", "dash", "dot", "dashdot")
SERIES_PER_DASH = 6


@dataclass(frozen=True)
class Quantity:
    """A number in a table: shown rounded, sorted and kept exactly; `interval`: its 95% limits, if it has some."""

    value: float | None
    interval: tuple[float, float] | None = None
    percent: bool = False


Cell = str | Quantity


@dataclass(frozen=True)
class Table:
    """A table that its reader can sort; `rows`: as many cells as there are headers."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """An interactive figure.

    Attributes:
        name: what it shows, for programs, e.g. `episode_return_mean`; unlike all others of its section.
        title: the same for people.
        data: plotly.js traces; `meta` of each holds `series` (number of its color) and `role`.
        layout: of plotly.js, without colors.
        note: a line under it.
    """

    name: str
    title: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Film:
    """A video (`video/mp4`) or moving picture (`image/gif`)."""

    title: str
    mime: str
    content: bytes


@dataclass(frozen=True)
class Text:
    """A text as it is, e.g. an experiment file."""

    title: str
    text: str


Block = Table | Figure | Film | Text


@dataclass(frozen=True)
class Section:
    """Blocks under one heading.

    Attributes:
        title: the heading.
        blocks: in order.
        note: a paragraph under the heading.
        legend: names of the series, in order of their numbers; their figures share it.
        folded: opened by a click.
    """

    title: str
    blocks: Sequence[Block]
    note: str = ""
    legend: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """All of it."""

    title: str
    sections: Sequence[Section]


def line_trace(
    x: ArrayLike, y: ArrayLike, *, series: int, name: str, role: str = "mean", low_high: tuple[Any, Any] | None = None
) -> dict[str, Any]:
    """A line; of more than `MOST_POINTS` points every n-th is kept, and the last.

    Args:
        x: [points].
        y: [points].
        series: number of its color.
        name: in the legend and under the pointer.
        role: `mean` (drawn boldly) or `values` (behind it, faint).
        low_high: limits of an error bar at every point, [points] each.
    """
    kept = _kept(len(np.asarray(x)))
    steps, values = np.asarray(x, np.float64)[kept], np.asarray(y, np.float64)[kept]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines" if len(steps) > 1 else "markers",
        "x": numbers(steps),
        "y": numbers(values),
        "name": name,
        "line": {"width": 2 if role == "mean" else 1, "dash": _dash(series)},
        "meta": {"series": series, "role": role},
        "opacity": 1 if role == "mean" else 0.35,
        **({"hoverinfo": "skip"} if role != "mean" else {}),
    }
    if low_high is not None:
        low, high = (np.asarray(each, np.float64)[kept] for each in low_high)
        trace["mode"] = "lines+markers"
        trace["error_y"] = error_bars(values, low, high)
    return trace


def band_trace(x: ArrayLike, low: ArrayLike, high: ArrayLike, *, series: int, name: str) -> dict[str, Any]:
    """The area between two curves [points]."""
    kept = _kept(len(np.asarray(x)))
    steps, below, above = (np.asarray(each, np.float64)[kept] for each in (x, low, high))
    return {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(np.concatenate([steps, steps[::-1]])),
        "y": numbers(np.concatenate([above, below[::-1]])),
        "fill": "toself",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": f"{name}, 95%",
        "meta": {"series": series, "role": "band"},
    }


def error_bars(values: ArrayLike, low: ArrayLike, high: ArrayLike) -> dict[str, Any]:
    """plotly.js error bars of values [n] with limits [n]; a limit that is NaN draws none."""
    center, below, above = (np.asarray(each, np.float64) for each in (values, low, high))
    return {
        "type": "data",
        "symmetric": False,
        "array": numbers(np.nan_to_num(above - center)),
        "arrayminus": numbers(np.nan_to_num(center - below)),
    }


def reference(value: float, label: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A horizontal line across a figure, and its label: an entry of the layout's `shapes`, one of its `annotations`."""
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": value, "y1": value}
    place = {"xref": "paper", "x": 1, "xanchor": "right", "yref": "y", "y": value, "yanchor": "bottom"}
    return {**shape, "line": {"width": 1.5, "dash": "dash"}}, {**place, "text": label, "showarrow": False}


def layout(x_title: str, references: Mapping[str, float] | None = None, **more: Any) -> dict[str, Any]:
    """The layout of a figure: its horizontal axis and its reference lines, by label."""
    drawn = [reference(value, label) for label, value in (references or {}).items()]
    return {
        "xaxis": {"title": {"text": x_title}, "rangemode": "tozero"},
        "shapes": [shape for shape, _ in drawn],
        "annotations": [label for _, label in drawn],
        **more,
    }


def numbers(values: ArrayLike) -> list[float | int | None]:
    """Plain numbers for JSON: whole ones without a fraction, `None` for what is not finite."""
    plain = np.asarray(values, np.float64).tolist()
    return [None if not np.isfinite(value) else int(value) if value.is_integer() else value for value in plain]


def _kept(points: int) -> np.ndarray:
    if points <= MOST_POINTS:
        return np.arange(points)
    stride = -(-points // MOST_POINTS)
    return np.unique(np.append(np.arange(0, points, stride), points - 1))


def _dash(series: int) -> str:
    return DASHES[series // SERIES_PER_DASH % len(DASHES)]
