"""What is said about repeated measurements: medians with their range, ratios, tables. Pure functions.

Rounds are interleaved (ours, peer, ours, peer, ...), so the ratio of a round compares two runs that met much
the same machine; the ratio of the medians compares the typical ones. Both are reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quadriga.platform.statistics import Interval


class Spread(NamedTuple):
    """Repeated measurements: their median, least and greatest."""

    median: float
    low: float
    high: float


class Ratio(NamedTuple):
    """How many times the peer's cost is ours: of the medians, and round by round."""

    of_medians: float
    paired: Spread


def spread(values: Sequence[float]) -> Spread:
    """Median and range of one or more values.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no measurements")
    return Spread(statistics.median(values), min(values), max(values))


def ratio(ours: Sequence[float], peers: Sequence[float]) -> Ratio:
    """The peer's cost over ours; `ours[i]` and `peers[i]` were measured in the same round.

    Raises:
        ValueError: not as many of one as of the other, or none.
    """
    if len(ours) != len(peers):
        raise ValueError(f"{len(ours)} rounds of ours against {len(peers)} of the peer's")
    paired = spread([peer / own for own, peer in zip(ours, peers, strict=True)])
    return Ratio(statistics.median(peers) / statistics.median(ours), paired)


def short(value: float) -> str:
    """Three significant digits without an exponent: 0.00213, 1.70, 23.4, 1,234."""
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.6f}" if abs(value) < 1e-3 else f"{value:#.3g}"


def show_spread(values: Spread) -> str:
    """`1.70 (1.62..1.81)`; the median alone if there is nothing else."""
    if values.low == values.high:
        return short(values.median)
    return f"{short(values.median)} ({short(values.low)}..{short(values.high)})"


def show_ratio(value: Ratio) -> str:
    """`6.9x (rounds 6.7 to 7.2, median 6.9)`."""
    paired = value.paired
    if paired.low == paired.high:
        return f"{value.of_medians:.2f}x"
    return f"{value.of_medians:.2f}x (rounds {paired.low:.2f} to {paired.high:.2f}, median {paired.median:.2f})"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column to the left, the others to the right."""
    alignment = ["---", *["---:"] * (len(headers) - 1)]
    lines = [headers, alignment, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def first_reached(steps: ArrayLike, values: ArrayLike, goal: float) -> int | None:
    """The first of `steps` [n] at which `values` [n] is at least `goal`; `None` if it never is. NaN is below it."""
    above = np.flatnonzero(np.asarray(values, float) >= goal)
    return int(np.asarray(steps)[above[0]]) if len(above) else None


def last_mean(values: ArrayLike, share: float) -> float:
    """The mean of the last `share` of `values` [n], NaN left out; at least one value is taken."""
    values = np.asarray(values, float)
    last = values[-max(1, round(share * len(values))) :]
    known = last[~np.isnan(last)]
    return float(known.mean()) if len(known) else float("nan")


def show_interval(interval: Interval) -> str:
    """`1,712 [1,650, 1,774]`, mean and interval; the mean alone where there is no interval."""
    if math.isnan(interval.mean):
        return "none"
    if math.isnan(interval.low):
        return short(interval.mean)
    return f"{short(interval.mean)} [{short(interval.low)}, {short(interval.high)}]"
