"""Pictures of runs: one panel a curve, metrics against steps, several seeds of one setting as a mean with a band.

What the panels show is the line of work's (`Line.curves`, `Line.reference`); how they look is here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from quadriga.platform import storage
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import flattened
from quadriga.platform.lines import Line, line_of
from quadriga.platform.statistics import Array, band

if TYPE_CHECKING:
    from quadriga.platform.experiment import Experiment
    from quadriga.platform.run_folder import RunFolder

FORMATS = ("png", "svg", "pdf")
# Told apart by people with any color vision (Okabe & Ito 2008), darkest contrasts first; then as dashes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
INK, MUTED, GRID = "#1F2328", "#59636E", "#E6E8EB"
STEP_LABELS = {"env_steps": "environment steps"}
SMOOTHED_FROM_POINTS = 40
SMOOTHED_FRACTION = 0.05
VALUES_SHOWN_UP_TO_SETTINGS = 3
RUNS_OF_A_BAND = 3
"""Student's interval of two runs is 12.7 standard errors wide: their lines say more."""
NUMBERS = {"bool", "int64", "double"}
NOT_THE_SETTING = {"name", "seed", "checkpoint"}

logger = logging.getLogger("quadriga")


@dataclass(frozen=True)
class Run:
    """A run that has metrics; `columns`: every number it logged, float64 [rows], NaN where a row has none."""

    folder: RunFolder
    experiment: Experiment
    columns: Mapping[str, Array]


@dataclass(frozen=True)
class Setting:
    """The runs that differ in nothing but their seeds, and what tells them from the others in the picture."""

    runs: list[Run]
    label: str
    color: str
    dashes: Any


def plot_runs(runs: Sequence[RunFolder], output: Path, labels: Sequence[str] = ()) -> Path:
    """Draws `runs` into the file `output` (`.png`, `.svg` or `.pdf`), labelled as by `figure`, and returns its path.

    Raises:
        UserError: no run or none with metrics, runs of different lines of work, another kind of
            file, or one that cannot be written.
    """
    kind = output.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"picture {str(output)!r}: expected a file name that ends with .{', .'.join(FORMATS)}")
    picture = figure(runs, labels)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(output, format=kind, dpi=160)
    except OSError as error:
        raise UserError(f"cannot write {str(output)!r}: {storage.reason(error)}") from error
    return output


def figure(runs: Sequence[RunFolder], labels: Sequence[str] = ()) -> Figure:
    """The picture of `runs`: a panel for every curve of their line of work that any of them has logged.

    Runs that differ only in seed and name become their mean with a 95% Student's t band over the steps that all of
    them have reached, two of them their mean between thin lines; others a line each. Runs of 40 iterations and more
    are smoothed by a centered mean over 5% of them; the values of single runs stay visible behind, if there are not
    too many.

    Args:
        runs: of one line of work.
        labels: what the legend calls each of them; without any, the shortest names that tell the settings apart.

    Raises:
        UserError: no run or none with metrics, or runs of different lines of work.
    """
    line, found = read_runs(runs)
    panels = shown_curves(line, found)
    if not panels:
        raise UserError(f"the runs have logged none of {', '.join(line.curves)}")
    settings = settings_of(line, found, dict(zip((run.path for run in runs), labels, strict=False)))
    width = max(4.1 * len(panels), 6.4)
    picture = Figure(figsize=(width, 3.9), facecolor="white")
    FigureCanvasAgg(picture)
    axes = picture.subplots(1, len(panels), squeeze=False)[0]
    for axis, (metric, label) in zip(axes, panels.items(), strict=True):
        axis.set_label(metric)
        _draw_panel(axis, line, metric, label, settings)
    _head(picture, line, settings)
    return picture


def read_runs(runs: Sequence[RunFolder]) -> tuple[Line, list[Run]]:
    """The runs that have metrics, and the line of work of all.

    Raises:
        UserError: no run or none with metrics, or runs of different lines of work.
    """
    if not runs:
        raise UserError("no run to draw")
    lines: dict[str, Line] = {}
    found = []
    for folder in runs:
        experiment = folder.experiment()
        line = line_of(experiment)
        lines[line.name] = line
        rows = folder.metrics.read()
        numbers = [field.name for field in rows.schema if str(field.type) in NUMBERS]
        columns = {name: np.array(rows.column(name).to_pylist(), dtype=np.float64) for name in numbers}
        columns = {name: values for name, values in columns.items() if not np.isnan(values).all()}
        if line.step_metric in columns:
            found.append(Run(folder, experiment, columns))
        else:
            logger.warning("run %s has no metrics yet and is left out", folder.path)
    if len(lines) > 1:
        raise UserError(f"runs of different lines of work ({', '.join(sorted(lines))}) do not share a picture")
    if not found:
        raise UserError("no metrics to draw yet: the first row comes with the first iteration")
    return next(iter(lines.values())), found


def shown_curves(line: Line, runs: Sequence[Run]) -> dict[str, str]:
    """The curves of the line of work that any run has logged, in order, each with its label."""
    logged = {metric: label for metric, label in line.curves.items() if any(metric in run.columns for run in runs)}
    # A quantity that is 0 throughout and has no limit (the cost, where none is reported) deserves no panel.
    telling = {metric: label for metric, label in logged.items() if any(_tells(line, metric, run) for run in runs)}
    return telling or logged


def references(line: Line, metric: str, runs: Sequence[Run]) -> list[float]:
    """The horizontal lines that belong to a curve of these runs, e.g. their cost limits, ascending."""
    found = (line.reference(run.experiment, metric) for run in runs)
    return sorted({value for value in found if value is not None})


def _tells(line: Line, metric: str, run: Run) -> bool:
    """Whether a curve is more than a line of zeros."""
    values = run.columns.get(metric, np.zeros(1))
    return line.reference(run.experiment, metric) is not None or bool(np.nan_to_num(values).any())


def settings_of(line: Line, runs: Sequence[Run], names: Mapping[str, str] | None = None) -> list[Setting]:
    """The runs grouped into settings, in the order of their first runs; `names`: theirs by the paths of runs."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        setting = run.experiment.model_dump(mode="json", exclude=NOT_THE_SETTING)
        groups.setdefault(repr(setting), []).append(run)
    firsts = [group[0] for group in groups.values()]
    labels = [
        (names or {}).get(run.folder.path, label)
        for run, label in zip(firsts, _labels(line, [run.experiment for run in firsts]), strict=True)
    ]
    return [
        Setting(
            group,
            label if len(group) == 1 else f"{label} ({len(group)} seeds)",
            COLORS[index % len(COLORS)],
            DASHES[index // len(COLORS) % len(DASHES)],
        )
        for index, (group, label) in enumerate(zip(groups.values(), labels, strict=True))
    ]


def _labels(line: Line, experiments: list[Experiment]) -> list[str]:
    """The shortest names that tell the settings apart: preset, then task, then the values that differ."""
    tasks = [line.task(experiment) for experiment in experiments]
    one_task = len(set(tasks)) == 1
    names = [
        experiment.preset if one_task else f"{experiment.preset}, {task}"
        for experiment, task in zip(experiments, tasks, strict=True)
    ]
    flat = [flattened(experiment.model_dump(mode="json", exclude=NOT_THE_SETTING)) for experiment in experiments]
    labels = []
    for index, name in enumerate(names):
        rivals = [flat[other] for other in range(len(names)) if names[other] == name]
        differing = [key for key in flat[index] if len({repr(rival.get(key)) for rival in rivals}) > 1]
        labels.append(", ".join([name, *(f"{key}={short(flat[index].get(key))}" for key in differing[:3])]))
    return labels


def short(value: Any) -> str:
    """A setting's value as a label shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw_panel(axis: Axes, line: Line, metric: str, label: str, settings: list[Setting]) -> None:
    seen: list[Array] = []
    for setting in settings:
        curves = [curve(run, line.step_metric, metric) for run in setting.runs if metric in run.columns]
        if curves:
            seen += _draw_setting(axis, setting, curves, show_values=len(settings) <= VALUES_SHOWN_UP_TO_SETTINGS)
    limits = references(line, metric, [run for setting in settings for run in setting.runs])
    for value in limits:
        axis.axhline(value, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1.5, gid="reference")
        axis.annotate(
            f"limit\n{value:g}",
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            fontsize=8,
            linespacing=1.05,
        )
    frame(axis, step_label(line), label)
    _set_range(axis, np.concatenate([*seen, np.asarray(limits)]))


def _draw_setting(axis: Axes, setting: Setting, curves: list[tuple[Array, Array]], *, show_values: bool) -> list[Array]:
    """Draws one setting; returns values that must be inside the panel."""
    points = max(len(values) for _, values in curves)
    window = smoothing_window(points)
    smooth = [(steps, smoothed(values, window)) for steps, values in curves]
    seen = [values for _, values in smooth]
    if len(curves) > 1:
        whole = band(smooth)
        steps, mean = whole.steps, whole.mean
        if len(curves) >= RUNS_OF_A_BAND:
            axis.fill_between(steps, whole.low, whole.high, color=setting.color, alpha=0.16, linewidth=0, zorder=2)
        else:
            for each in smooth:
                axis.plot(*each, color=setting.color, alpha=0.35, linewidth=0.8, zorder=2, gid="runs")
    else:
        steps, mean = smooth[0]
        if window > 1 and show_values:
            axis.plot(*curves[0], color=setting.color, alpha=0.25, linewidth=0.9, zorder=2, gid="values")
            seen.append(np.percentile(curves[0][1], [1, 99]).astype(np.float64))
    (drawn,) = axis.plot(steps, mean, color=setting.color, linestyle=setting.dashes, linewidth=1.9, label=setting.label)
    drawn.set(zorder=3, marker="o" if len(steps) == 1 else "none", solid_capstyle="round")
    return seen


def curve(run: Run, step_metric: str, metric: str) -> tuple[Array, Array]:
    """Steps and values [points] of a metric, without the rows that have none."""
    steps, values = run.columns[step_metric], run.columns[metric]
    present = ~(np.isnan(steps) | ~np.isfinite(values))
    return steps[present], values[present]


def smoothing_window(points: int) -> int:
    """Over how many of a curve's points `smoothed` takes its means; 1 leaves a short curve as it is."""
    return max(3, round(SMOOTHED_FRACTION * points)) if points >= SMOOTHED_FROM_POINTS else 1


def smoothed(values: Array, window: int) -> Array:
    """Means over `2 * (window // 2) + 1` values around each, over fewer at the ends.

    Learning curves are steep first and flat last: at the beginning windows stay centered, so that
    nothing is lifted; at the end they keep their left half, so that the last value is no outlier.
    """
    if window <= 1:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(index, window // 2)
    first, last = index - reach, np.minimum(index + reach, len(values) - 1)
    return np.asarray((total[last + 1] - total[first]) / (last - first + 1))


def step_label(line: Line) -> str:
    """What the horizontal axis of a line's curves counts, in words."""
    return STEP_LABELS.get(line.step_metric, line.step_metric.replace("_", " "))


def frame(axis: Axes, step_label: str, title: str) -> None:
    """The look of a panel: title, label of the horizontal axis, grid and ticks."""
    axis.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    axis.set_xlabel(step_label, fontsize=9, color=MUTED)
    axis.set_xmargin(0)
    axis.set_xlim(left=0)
    axis.grid(axis="y", color=GRID, linewidth=0.9)
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED, labelsize=8.5, length=0, pad=5)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("#C4C9CF")
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _set_range(axis: Axes, values: Array) -> None:
    """Shows all curves and references; a band of few seeds may leave the panel rather than flatten the curves."""
    low, high = float(values.min()), float(values.max())
    margin = 0.08 * (high - low) or max(abs(high), 1.0) * 0.1
    axis.set_ylim(0 if low >= 0 else low - margin, high + margin)


def _head(picture: Figure, line: Line, settings: list[Setting]) -> None:
    """The title, the legend under it, and the room that both take."""
    tasks = {line.task(run.experiment) for setting in settings for run in setting.runs}
    title = " and ".join(sorted(tasks)) if len(tasks) <= 2 else f"{len(tasks)} tasks"
    single = len(settings) == 1
    if single:
        title = f"{title}  ·  {settings[0].label}"
    width, height = picture.get_size_inches()
    left = 0.55 / width
    handles: dict[str, Artist] = {}
    for axis in picture.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    longest = max(map(len, handles), default=1)
    columns = max(1, min(len(handles), int(width / (0.09 * longest + 0.6))))
    rows = 0 if single else math.ceil(len(handles) / columns)
    height += 0.22 * max(rows - 1, 0)
    picture.set_size_inches(width, height)
    picture.text(left, 1 - 0.16 / height, title, fontsize=12.5, fontweight="bold", color=INK, va="top")
    if rows:
        picture.legend(
            list(handles.values()),
            list(handles),
            loc="upper left",
            bbox_to_anchor=(left, 1 - 0.42 / height),
            bbox_transform=picture.transFigure,
            borderpad=0,
            borderaxespad=0,
            ncols=columns,
            frameon=False,
            fontsize=9.5,
            labelcolor=INK,
            handlelength=1.8,
            columnspacing=1.8,
        )
    top = 1 - (0.78 + 0.24 * rows) / height
    picture.subplots_adjust(left=left, right=1 - 0.45 / width, bottom=0.55 / height, top=top, wspace=0.24)


def short_number(value: float) -> str:
    """A number as an axis shows it: 0, 0.5, 250, 20k, 1.5M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
