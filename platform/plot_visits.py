"""Pictures of where runs went: a row a run, the plane of its task from the first window of training to the last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from quadriga.platform import storage
from quadriga.platform.environments.planes import Visits
from quadriga.platform.errors import UserError
from quadriga.platform.lines import line_of
from quadriga.platform.plot import INK, MUTED, short_number

if TYPE_CHECKING:
    from quadriga.platform.run_folder import RunFolder

VISITS = "visits"
WINDOWS = 5


def plot_visits(runs: Sequence[RunFolder], output: Path) -> Path | None:
    """Draws where those of `runs` went that have counted it; `None` if none has.

    Args:
        runs: in the order of the rows.
        output: picture of the curves; this one lies beside it, `_visits` added to its name.

    Raises:
        UserError: the picture cannot be written.
    """
    counted = [(run.name, windows) for run in runs if (windows := windows_of(run))]
    if not counted:
        return None
    size = (2.1 * WINDOWS + 0.9, 2.0 * len(counted) + 0.8)
    picture = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots(len(counted), WINDOWS, squeeze=False)
    for row, (name, windows) in zip(axes, counted, strict=True):
        most = max(int(visits.counts.max()) for _, visits in windows)
        for axis, (steps, visits) in zip(row, windows, strict=False):
            plane = visits.plane
            extent = (plane.low[0], plane.high[0], plane.low[1], plane.high[1])
            shown = np.ma.masked_equal(visits.counts.T, 0)
            norm = LogNorm(1, max(2, most))
            axis.imshow(shown, origin="lower", extent=extent, aspect="auto", cmap="viridis", norm=norm)
            axis.set_title(f"to step {short_number(steps)}", fontsize=8.5, color=MUTED)
            axis.set_facecolor("#F1F2F4")
            axis.tick_params(colors=MUTED, labelsize=7, length=2)
        for axis in row[len(windows) :]:
            axis.set_axis_off()
        row[0].set_ylabel(f"{name}\n{windows[0][1].plane.names[1]}", fontsize=8.5, color=INK)
        row[0].set_xlabel(windows[0][1].plane.names[0], fontsize=8.5, color=INK)
    picture.suptitle(
        "Steps that ended in each part of the plane (logarithmic)", fontsize=11, color=INK, x=0.01, ha="left"
    )
    target = output.with_stem(f"{output.stem}_{VISITS}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(target, dpi=130)
    except OSError as error:
        raise UserError(f"cannot write {str(target)!r}: {storage.reason(error)}") from error
    return target


def windows_of(run: RunFolder) -> list[tuple[float, Visits]]:
    """Up to `WINDOWS` sums of a run's visits, each with the step at which it ends; none if it has counted none."""
    table = run.metrics.read()
    if VISITS not in table.column_names:
        return []
    texts = table.column(VISITS).to_pylist()
    steps = table.column(line_of(run.experiment()).step_metric).to_pylist()
    known = [(step, text) for step, text in zip(steps, texts, strict=True) if text is not None]
    found = []
    for part in np.array_split(np.arange(len(known)), WINDOWS):
        if len(part):
            visits = [Visits.decode(known[index][1]) for index in part]
            found.append((known[part[-1]][0], sum(visits[1:], visits[0])))
    return found
