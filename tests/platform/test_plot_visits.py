"""Pictures of where runs went, made from real run folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quadriga.platform.environments.planes import Plane, Visits
from quadriga.platform.experiment import load
from quadriga.platform.lines import Line
from quadriga.platform.plot_visits import WINDOWS, plot_visits, windows_of
from quadriga.platform.run_folder import EXPERIMENT, RunFolder

PLANE = Plane(("x", "y"), (0.0, 0.0), (1.0, 1.0))


def make_run(tmp_path: Path, iterations: int, *, counted: bool) -> RunFolder:
    experiment = load("toy", {})
    run = RunFolder.create(str(tmp_path), "toy")
    run.write_text(EXPERIMENT, experiment.to_yaml())
    for index in range(iterations):
        places = np.full((10 * (index + 1), 2), 0.5)
        row = {"env_steps": 100 * (index + 1)}
        run.metrics.append(row | ({"visits": Visits.count(PLANE, places).encode()} if counted else {}))
    return run


def test_windows_hold_all_visits_in_order(toy_line: Line, tmp_path: Path) -> None:
    windows = windows_of(make_run(tmp_path, 12, counted=True))
    assert len(windows) == WINDOWS
    assert windows[-1][0] == 1200
    sums = [int(visits.counts.sum()) for _, visits in windows]
    assert sums == sorted(sums)
    assert sum(sums) == 10 * sum(range(1, 13))


def test_a_picture_lies_beside_that_of_the_curves_if_any_run_has_counted(toy_line: Line, tmp_path: Path) -> None:
    counted, silent = make_run(tmp_path, 3, counted=True), make_run(tmp_path, 3, counted=False)
    assert plot_visits([silent], tmp_path / "plot.png") is None
    path = plot_visits([counted, silent], tmp_path / "plot.png")
    assert path == tmp_path / "plot_visits.png"
    assert path.stat().st_size > 5000
