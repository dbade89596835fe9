"""The picture of a search: parallel coordinates of its trials above their learning curves, the best in color."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quadriga.platform import storage
from quadriga.platform.errors import UserError
from quadriga.platform.plot import COLORS, GRID, INK, MUTED
from quadriga.platform.progress import number, words
from quadriga.platform.search import Parameter, SearchSettings

if TYPE_CHECKING:
    from quadriga.platform.tuning_results import TrialResult

Curve = tuple[list[float], list[float]]
MARGIN = 0.05


def draw(settings: SearchSettings, ranking: Sequence[TrialResult], curves: Mapping[str, Curve], target: Path) -> None:
    """Draws into `target`.

    Args:
        settings: of the search.
        ranking: usable trials, best first.
        curves: steps and values of the objective's metric, by trial.
        target: `.png`, `.svg` or `.pdf`.

    Raises:
        UserError: it cannot be written.
    """
    names = list(settings.parameters)
    picture = Figure(
        figsize=(max(7.0, 1.5 * (len(names) + 1 + len(settings.objective.subject_to))), 7.2), facecolor="white"
    )
    FigureCanvasAgg(picture)
    above, below = picture.subplots(2, 1)
    _coordinates(above, settings, ranking)
    _curves(below, settings, ranking, curves)
    picture.suptitle(f"{len(ranking)} trials, best first in color", color=INK, fontsize=12, x=0.02, ha="left")
    picture.tight_layout()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(target, dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {str(target)!r}: {storage.reason(error)}") from error


def place(parameter: Parameter, value: Any) -> float:
    """Where a value stands on its axis, from 0 to 1; logarithmic where it was drawn so."""
    bounds = parameter.bounds()
    if parameter.choice or parameter.grid:
        return bounds.index(value) / max(1, len(bounds) - 1) if value in bounds else math.nan
    low, high = bounds
    if parameter.loguniform:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def _coordinates(axis: Axes, settings: SearchSettings, ranking: Sequence[TrialResult]) -> None:
    metrics = list(settings.objective.metrics)
    titles = [*settings.parameters, *map(words, metrics)]
    ranges = {}
    for metric in metrics:
        values = [trial.means[metric] for trial in ranking if metric in trial.means]
        ranges[metric] = (min(values), max(values)) if values else (0.0, 1.0)
    for rank, trial in reversed(list(enumerate(ranking))):
        heights = [
            place(parameter, trial.point[name]) if name in trial.point else math.nan
            for name, parameter in settings.parameters.items()
        ]
        for metric in metrics:
            low, high = ranges[metric]
            heights.append((trial.means.get(metric, math.nan) - low) / ((high - low) or 1.0))
        axis.plot(range(len(titles)), heights, **_style(rank))
    for position, (name, parameter) in enumerate(settings.parameters.items()):
        bounds = parameter.bounds()
        ends = (bounds[0], bounds[-1])
        _ends(axis, position, *(number(end) if isinstance(end, (int, float)) else str(end) for end in ends))
        del name
    for offset, metric in enumerate(metrics):
        _ends(axis, len(settings.parameters) + offset, *map(number, ranges[metric]))
    axis.set_xticks(range(len(titles)), titles, fontsize=8, color=INK)
    axis.set_yticks([])
    axis.set_ylim(-0.12, 1.12)
    for side in ("top", "left", "right", "bottom"):
        axis.spines[side].set_visible(False)


def _ends(axis: Axes, position: int, low: str, high: str) -> None:
    axis.axvline(position, color=GRID, linewidth=1.2, zorder=0)
    axis.text(position, -MARGIN, low, ha="center", va="top", fontsize=7, color=MUTED)
    axis.text(position, 1 + MARGIN, high, ha="center", va="bottom", fontsize=7, color=MUTED)


def _curves(axis: Axes, settings: SearchSettings, ranking: Sequence[TrialResult], curves: Mapping[str, Curve]) -> None:
    for rank, trial in reversed(list(enumerate(ranking))):
        steps, values = curves.get(trial.name, ([], []))
        axis.plot(steps, values, label=f"{rank + 1}: {trial.name}" if rank < len(COLORS) else None, **_style(rank))
    axis.set_xlabel("steps", color=MUTED, fontsize=9)
    axis.set_ylabel(words(settings.objective.metric), color=MUTED, fontsize=9)
    axis.tick_params(colors=MUTED, labelsize=8)
    axis.grid(color=GRID, linewidth=0.8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], fontsize=7, frameon=False)


def _style(rank: int) -> dict[str, Any]:
    if rank < len(COLORS):
        return {"color": COLORS[rank], "linewidth": 2.0 if rank == 0 else 1.3, "zorder": 3}
    return {"color": "#B6BCC3", "linewidth": 0.8, "zorder": 1}
