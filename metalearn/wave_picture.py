"""The picture of a sine run, after the paper's figure 1: one fresh wave, learned from ten points.

Left the network as it was initialized, right as it was meta-trained: what it computes before, on the way and after
the inner steps of the test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quadriga.metalearn import inner
from quadriga.metalearn.distributions import make_kernel, make_slot
from quadriga.metalearn.experiment import MetaExperiment
from quadriga.metalearn.inner import Vector
from quadriga.metalearn.runner import TESTING
from quadriga.metalearn.sine import SPAN, SineWaves
from quadriga.metalearn.trainer import CHECKPOINT, initial_weights
from quadriga.platform import storage
from quadriga.platform.errors import UserError
from quadriga.platform.plot import COLORS, FORMATS, GRID, INK, MUTED
from quadriga.platform.run_folder import RunFolder

CURVE_POINTS = 200
PICTURE = 3
"""Beside the seed in the random stream of the wave."""


def draw(run: RunFolder, output: Path, seed: int = 0) -> Path:
    """Draws `run`'s latest checkpoint into `output` (`.png`, `.svg` or `.pdf`) and returns it.

    Raises:
        UserError: no checkpoint, not a sine run, another kind of file, or one that cannot be written.
    """
    kind = output.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"picture {str(output)!r}: expected a file name that ends with .{', .'.join(FORMATS)}")
    experiment = run.experiment()
    checkpoint = run.checkpoints.latest()
    if not isinstance(experiment, MetaExperiment) or checkpoint is None:
        raise UserError(f"run {run.path!r} has no whole checkpoint to draw")
    with checkpoint.local() as folder, np.load(folder / CHECKPOINT) as kept:
        phi = np.array(kept["phi"])
    picture = figure(experiment, phi, checkpoint.step, seed)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(output, format=kind, dpi=160)
    except OSError as error:
        raise UserError(f"cannot write {str(output)!r}: {storage.reason(error)}") from error
    return output


def figure(experiment: MetaExperiment, phi: Vector, meta_iterations: int, seed: int = 0) -> Figure:
    """The picture of weights `phi` beside the initial ones."""
    waves = SineWaves(*(getattr(experiment.task, name) for name in ("hidden", "activation")))
    picture = Figure(figsize=(10, 3.9), facecolor="white")
    FigureCanvasAgg(picture)
    axes = picture.subplots(1, 2, sharey=True)
    for axis, weights, title in (
        (axes[0], initial_weights(experiment, waves), "Without meta-training"),
        (axes[1], phi, f"After {meta_iterations:,} meta-iterations"),
    ):
        _panel(axis, experiment, waves, weights, seed)
        axis.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    handles, labels = axes[1].get_legend_handles_labels()
    picture.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=9, labelcolor=INK)
    picture.subplots_adjust(left=0.06, right=0.98, top=0.9, bottom=0.2, wspace=0.06)
    return picture


def learned(
    experiment: MetaExperiment, waves: SineWaves, weights: Vector, seed: int, marks: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, np.ndarray]]:
    """Sampled points x and y, true values on a fine grid, and outputs on it after each of `marks` inner steps."""
    settings = experiment.evaluation
    rng = np.random.default_rng((seed, PICTURE, TESTING))
    wave = waves.wave(rng)
    x = rng.uniform(-SPAN, SPAN, (settings.shots, 1)).astype(np.float32)
    grid = np.linspace(-SPAN, SPAN, CURVE_POINTS, dtype=np.float32)[:, None]
    kernel = make_kernel(experiment, waves)
    optimizer = make_slot(experiment.inner, len(weights))
    parameters = weights.copy()
    support, everywhere = kernel.prepare(x, wave(x)), kernel.prepare(grid)
    plan = inner.minibatches(rng, len(x), settings.batch_size, max(marks), replacement=False)
    curves, done = {}, 0

    for mark in marks:
        inner.descend(kernel, optimizer, parameters, inner.batches(support, plan[done:mark]))
        done = mark
        curves[mark] = kernel.predict(kernel.bind(parameters), everywhere).numpy().copy()
    return x, wave(x), wave(grid), curves


def _panel(axis: Axes, experiment: MetaExperiment, waves: SineWaves, weights: Vector, seed: int) -> None:
    last = experiment.evaluation.steps
    marks = tuple(sorted({0, last // 4, last}))
    x, y, true, curves = learned(experiment, waves, weights, seed, marks)
    grid = np.linspace(-SPAN, SPAN, CURVE_POINTS)
    axis.plot(grid, true, color=INK, linewidth=1.4, label="wave")
    shades = np.linspace(0.35, 1.0, len(marks))
    styles = ("dotted", "dashed", "solid")
    for mark, shade, style in zip(marks, shades, styles, strict=False):
        label = f"{mark} step{'' if mark == 1 else 's'}"
        axis.plot(grid, curves[mark], color=COLORS[1], alpha=shade, linestyle=style, linewidth=1.7, label=label)
    axis.plot(x, y, "o", color=COLORS[0], markersize=5.5, label="points it learns from", zorder=4)
    axis.grid(color=GRID, linewidth=0.9)
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axis.set_xmargin(0.02)
