"""Response curves: what trials measured against a setting that varies between them, e.g. a controller's gain.

Learning curves are `plot`'s; the look is shared with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quadriga.platform.experiment import flattened
from quadriga.platform.plot import COLORS, INK, NOT_THE_SETTING, RUNS_OF_A_BAND, frame, short
from quadriga.platform.statistics import mean_interval
from quadriga.platform.suites import Benchmark

if TYPE_CHECKING:
    from quadriga.platform.benchmark_report import Result

WIDE = 20.0
"""Settings that span more than this factor are drawn on a logarithmic axis."""


def responses(benchmark: Benchmark, trials: Sequence[Result], axis: str) -> Figure:
    """A panel a measure, its mean and 95% interval against the field `axis`.

    Intervals are Student's t over three seeds or more; of two, their values are drawn. Trials whose experiments
    differ in anything but `axis`, seed and name are different curves. The field is a number; trials whose experiment
    does not have it are left out.
    """
    curves: dict[str, dict[float, list[Result]]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for trial in trials:
        setting = flattened(trial.experiment.model_dump(mode="json", exclude=NOT_THE_SETTING))
        if axis not in setting:
            continue
        value = float(setting.pop(axis))
        key = repr(setting)
        settings[key] = setting
        curves.setdefault(key, {}).setdefault(value, []).append(trial)
    labels = _labels(settings)
    count = len(benchmark.measures)
    picture = Figure(figsize=(4.1 * count, 4.1), facecolor="white", layout="constrained")
    FigureCanvasAgg(picture)
    panels = picture.subplots(1, count, squeeze=False)[0]
    for panel, (name, measure) in zip(panels, benchmark.measures.items(), strict=True):
        panel.set_label(name)
        for index, (key, points) in enumerate(curves.items()):
            _draw(panel, name, points, labels[key], COLORS[index % len(COLORS)])
        frame(panel, axis, measure.label)
        _set_scale(panel, sorted({value for points in curves.values() for value in points}))
    if len(curves) > 1:
        handles, texts = panels[0].get_legend_handles_labels()
        picture.legend(handles, texts, loc="outside upper left", frameon=False, fontsize=9, labelcolor=INK, ncols=4)
    return picture


def _labels(settings: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The fields that tell the curves apart; of one curve, its preset."""
    differing = [
        field
        for field in dict.fromkeys(field for setting in settings.values() for field in setting)
        if len({repr(setting.get(field)) for setting in settings.values()}) > 1
    ]
    return {
        key: ", ".join(f"{field.rpartition('.')[2]}={short(setting.get(field))}" for field in differing[:3])
        or str(setting.get("preset", ""))
        for key, setting in settings.items()
    }


def _draw(panel: Axes, measure: str, points: dict[float, list[Result]], label: str, color: str) -> None:
    measured = {value: [trial.measures[measure] for trial in points[value]] for value in sorted(points)}
    means = [mean_interval(samples).mean for samples in measured.values()]
    reach = [_reach(samples) for samples in measured.values()]
    for value, samples in measured.items():
        if 1 < len(samples) < RUNS_OF_A_BAND:
            panel.plot([value] * len(samples), samples, "o", color=color, markersize=3, alpha=0.5, gid="runs")
    panel.errorbar(
        list(measured), means, yerr=reach, color=color, label=label, marker="o", markersize=4, capsize=3, linewidth=1.6
    )


def _reach(samples: Sequence[float]) -> float:
    """Half the interval of a mean; 0, which draws none, where too few seeds have one that says anything."""
    interval = mean_interval(samples)
    return 0.0 if len(samples) < RUNS_OF_A_BAND or math.isnan(interval.high) else interval.high - interval.mean


def _set_scale(panel: Axes, values: Sequence[float]) -> None:
    panel.set_xlim(auto=True)
    panel.set_xmargin(0.06)
    positive = [value for value in values if value > 0]
    if len(positive) > 1 and positive[-1] > WIDE * positive[0] and min(values) >= 0:
        if min(values) > 0:
            panel.set_xscale("log")
        else:
            panel.set_xscale("symlog", linthresh=positive[0])
    else:
        panel.autoscale(axis="x")
