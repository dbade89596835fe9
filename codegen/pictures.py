"""Pictures of code models, after Chen et al. 2021: pass@k over temperatures (figure 5), rankings (figure 7).

Numbers come in, a file goes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from quadriga.codegen.sweep import Point, best
from quadriga.platform import storage
from quadriga.platform.errors import UserError
from quadriga.platform.plot import COLORS, DASHES, FORMATS, GRID, INK, MUTED


def pass_at_k(points: Sequence[Point], title: str) -> Figure:
    """Above pass@k against k, a curve a temperature with its 95% interval; below the best temperature of each k."""
    picture = Figure(figsize=(6.4, 5.6), facecolor="white")
    FigureCanvasAgg(picture)
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    for point, color, dashes in zip(points, _colors(len(points)), _dashes(len(points)), strict=True):
        ks = list(point.pass_at_k)
        values = list(point.pass_at_k.values())
        label = f"T = {point.temperature:g}"
        above.plot(
            ks, [each.estimate for each in values], color=color, linestyle=dashes, marker="o", ms=3.5, label=label
        )
        above.fill_between(ks, [each.low for each in values], [each.high for each in values], color=color, alpha=0.12)
    chosen = best(points)
    below.plot(list(chosen), [point.temperature for point in chosen.values()], color=INK, marker="o", ms=4)
    below.set_ylim(0, 1.15 * max(0.1, *(point.temperature for point in points)))
    _axes(above, title, "pass@k")
    _axes(below, "Best temperature", "temperature")
    _counts(below, sorted(chosen))
    below.set_xlabel("k, samples a problem", fontsize=9, color=MUTED)
    above.legend(frameon=False, fontsize=9, labelcolor=INK)
    picture.tight_layout()
    return picture


def rankings(curves: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """How often the sample that each ranking chooses of n is right, against n."""
    picture = Figure(figsize=(6.4, 4.2), facecolor="white")
    FigureCanvasAgg(picture)
    axis = picture.subplots()
    for (name, curve), color, dashes in zip(curves.items(), _colors(len(curves)), _dashes(len(curves)), strict=True):
        axis.plot(list(curve), list(curve.values()), color=color, linestyle=dashes, marker="o", ms=3.5, label=name)
    _axes(axis, title, "share of problems solved")
    _counts(axis, sorted({n for curve in curves.values() for n in curve}))
    axis.set_xlabel("samples to choose from", fontsize=9, color=MUTED)
    axis.legend(frameon=False, fontsize=9, labelcolor=INK)
    picture.tight_layout()
    return picture


def save(picture: Figure, output: Path) -> Path:
    """Writes a `.png`, `.svg` or `.pdf` and returns its path.

    Raises:
        UserError: another kind of file, or one that cannot be written.
    """
    kind = output.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"picture {str(output)!r}: expected a file name that ends with .{', .'.join(FORMATS)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(output, format=kind, dpi=160)
    except OSError as error:
        raise UserError(f"cannot write {str(output)!r}: {storage.reason(error)}") from error
    return output


def _axes(axis: Axes, title: str, label: str) -> None:
    axis.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    axis.set_ylabel(label, fontsize=9, color=MUTED)
    axis.grid(color=GRID, linewidth=0.9)
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axis.set_ylim(bottom=0)


def _counts(axis: Axes, values: Sequence[int]) -> None:
    """A logarithmic axis whose ticks are the numbers themselves."""
    axis.set_xscale("log")
    axis.set_xticks(values)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _colors(count: int) -> list[str]:
    return [COLORS[n % len(COLORS)] for n in range(count)]


def _dashes(count: int) -> list[Any]:
    return [DASHES[n // len(COLORS) % len(DASHES)] for n in range(count)]
