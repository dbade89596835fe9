"""Pictures of runs, made from real run folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D

from quadriga.platform.errors import UserError
from quadriga.platform.experiment import load
from quadriga.platform.lines import Line
from quadriga.platform.plot import COLORS, figure, plot_runs, short_number
from quadriga.platform.run_folder import EXPERIMENT, RunFolder
from quadriga.platform.statistics import mean_interval

RunMaker = Callable[..., RunFolder]


@pytest.fixture
def make_run(toy_line: Line, tmp_path: Path) -> RunMaker:
    """Makes a finished run whose return at every step is `slope` times the step."""

    def make(preset: str = "toy", *, slope: float = 1.0, points: int = 10, **fields: Any) -> RunFolder:
        experiment = load(preset, fields)
        run = RunFolder.create(str(tmp_path / "runs"), f"{preset}-s{experiment.seed}")
        run.write_text(EXPERIMENT, experiment.to_yaml())
        for index in range(points):
            step = 100 * (index + 1)
            row = {"env_steps": step, "episode_return_mean": slope * step if index else math.nan, "phase": "main"}
            if preset != "toy":
                row |= {"episode_cost_mean": 50.0 - index, "lagrange_multiplier": 0.1 * index}
            run.metrics.append(row)
        return run

    return make


def panels(runs: list[RunFolder]) -> dict[str, Axes]:
    return {str(axis.get_label()): axis for axis in figure(runs).axes}


def curves(axis: Axes) -> Mapping[str, Line2D]:
    return {str(line.get_label()): line for line in axis.lines if not str(line.get_label()).startswith("_")}


def references(axis: Axes) -> list[float]:
    return [line.get_ydata()[0] for line in axis.lines if line.get_gid() == "reference"]  # type: ignore[index]


def bands(axis: Axes) -> list[PolyCollection]:
    return [found for found in axis.collections if isinstance(found, PolyCollection)]


def test_the_picture_is_written(make_run: RunMaker, tmp_path: Path) -> None:
    written = plot_runs([make_run()], tmp_path / "new" / "picture.png")
    pixels = matplotlib.image.imread(written)
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800
    assert np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0).shape[0] > 20


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("a.PNG", b"\x89PNG")])
def test_the_file_name_says_the_format(make_run: RunMaker, tmp_path: Path, name: str, begins: bytes) -> None:
    assert plot_runs([make_run()], tmp_path / name).read_bytes().startswith(begins)


def test_there_is_a_panel_for_every_curve_that_was_logged(make_run: RunMaker, toy_line: Line) -> None:
    assert list(panels([make_run("toy-fixed")])) == list(toy_line.curves)
    assert list(panels([make_run("toy")])) == ["episode_return_mean"]
    assert list(panels([make_run("toy"), make_run("toy-fixed")])) == list(toy_line.curves)


def test_panels_are_named_in_words_and_steps_in_thousands(make_run: RunMaker) -> None:
    axis = panels([make_run("toy-fixed", points=30)])["episode_cost_mean"]
    assert axis.get_title(loc="left") == "Cost"
    assert axis.get_xlabel() == "environment steps"
    axis.figure.canvas.draw()  # type: ignore[union-attr]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "1k", "2k", "3k"]


def test_a_single_run_is_its_values_without_the_missing_ones(make_run: RunMaker) -> None:
    axis = panels([make_run(slope=2.0)])["episode_return_mean"]
    (line,) = curves(axis).values()
    np.testing.assert_array_equal(line.get_xdata(), np.arange(200, 1001, 100))
    np.testing.assert_allclose(line.get_ydata(), np.arange(400, 2001, 200))
    assert bands(axis) == []


def test_runs_that_differ_in_the_seed_become_a_mean_with_a_band(make_run: RunMaker) -> None:
    slopes = [1.0, 2.0, 6.0]
    runs = [make_run(seed=seed, slope=slope, name=f"mine-{seed}") for seed, slope in enumerate(slopes)]
    axis = panels(runs)["episode_return_mean"]
    line = curves(axis)["toy (3 seeds)"]
    np.testing.assert_allclose(line.get_ydata(), 3 * np.arange(200, 1001, 100))
    (shade,) = bands(axis)
    expected = mean_interval([1000 * slope for slope in slopes])
    at_the_end = shade.get_paths()[0].vertices
    ends = at_the_end[at_the_end[:, 0] == 1000, 1]
    assert (ends.min(), ends.max()) == pytest.approx((expected.low, expected.high))


def test_two_seeds_are_their_mean_between_their_lines(make_run: RunMaker) -> None:
    axis = panels([make_run(seed=seed, slope=slope) for seed, slope in enumerate([1.0, 5.0])])["episode_return_mean"]
    np.testing.assert_allclose(curves(axis)["toy (2 seeds)"].get_ydata(), 3 * np.arange(200, 1001, 100))
    thin = [line.get_ydata() for line in axis.lines if line.get_gid() == "runs"]
    np.testing.assert_allclose(thin, [slope * np.arange(200, 1001, 100) for slope in (1.0, 5.0)])
    assert bands(axis) == []


def test_other_runs_get_a_line_each_and_a_legend(make_run: RunMaker) -> None:
    runs = [make_run("toy"), make_run("toy-fixed"), make_run("toy-adaptive")]
    picture = figure(runs)
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["toy", "toy-fixed", "toy-adaptive"]
    assert len({line.get_color() for line in curves(picture.axes[0]).values()}) == 3
    assert bands(picture.axes[0]) == []


def test_a_run_has_the_same_color_in_every_panel(make_run: RunMaker) -> None:
    found = panels([make_run("toy"), make_run("toy-fixed")])
    assert {curves(axis)["toy-fixed"].get_color() for axis in found.values()} == {COLORS[1]}


def test_runs_of_one_preset_are_told_apart_by_what_differs(make_run: RunMaker) -> None:
    runs = [make_run(learning_rate=rate, hidden=hidden) for rate in (1e-3, 1e-2) for hidden in ([8], [9])]
    labels = list(curves(panels(runs)["episode_return_mean"]))
    assert labels[0] == "toy, hidden=[8], learning_rate=0.001"
    assert len(set(labels)) == 4


def test_labels_that_are_given_stand_in_the_legend(make_run: RunMaker) -> None:
    runs = [make_run(learning_rate=1e-3), make_run(learning_rate=1e-2, seed=0), make_run(learning_rate=1e-2, seed=1)]
    picture = figure(runs, ["slow", "fast", "fast"])
    assert list(curves(picture.axes[0])) == ["slow", "fast (2 seeds)"]


def test_runs_of_several_tasks_are_told_apart_by_the_task(make_run: RunMaker) -> None:
    picture = figure([make_run(task="A-v0"), make_run(task="B-v0")])
    assert list(curves(picture.axes[0])) == ["toy, A-v0", "toy, B-v0"]
    assert picture.texts[0].get_text() == "A-v0 and B-v0"


def test_many_runs_are_told_apart_by_color_and_dashes(make_run: RunMaker) -> None:
    runs = [make_run(learning_rate=10.0**-power) for power in range(1, 14)]
    lines = curves(panels(runs)["episode_return_mean"]).values()
    assert len({(line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in lines}) == 13  # type: ignore[attr-defined]


def test_the_reference_is_drawn_in_its_panel_once(make_run: RunMaker) -> None:
    found = panels([make_run("toy-fixed"), make_run("toy-adaptive"), make_run("toy")])
    assert references(found["episode_cost_mean"]) == [25.0]
    assert references(found["episode_return_mean"]) == references(found["lagrange_multiplier"]) == []
    low, high = found["episode_cost_mean"].get_ylim()
    assert low <= 25 <= high


def test_every_limit_of_several_is_drawn(make_run: RunMaker) -> None:
    runs = [make_run("toy-fixed", brake={"limit": limit}) for limit in (10, 60)]
    assert references(panels(runs)["episode_cost_mean"]) == [10.0, 60.0]


def test_long_runs_are_smoothed_and_their_values_stay_visible(make_run: RunMaker, toy_line: Line) -> None:
    run = make_run(points=2)
    rng = np.random.default_rng(0)
    values = rng.normal(size=200)
    for index, value in enumerate(values):
        run.metrics.append({"env_steps": 1000 + 100 * index, "episode_return_mean": value})
    axis = panels([run])["episode_return_mean"]
    (raw,) = [line for line in axis.lines if line.get_gid() == "values"]
    (smooth,) = curves(axis).values()
    np.testing.assert_array_equal(raw.get_ydata()[1:], values)  # type: ignore[index]
    # a mean over 11 values: window of 5% of 201
    np.testing.assert_allclose(smooth.get_ydata()[101], values[95:106].mean(), atol=1e-12)  # type: ignore[index]


def test_smoothing_keeps_a_straight_line_from_its_beginning(make_run: RunMaker) -> None:
    (smooth,) = curves(panels([make_run(points=60)])["episode_return_mean"]).values()
    np.testing.assert_allclose(smooth.get_ydata()[:-2], smooth.get_xdata()[:-2])  # type: ignore[index]


def test_a_wide_band_of_few_seeds_does_not_flatten_the_curves(make_run: RunMaker) -> None:
    runs = [make_run(seed=seed, slope=1.0 + seed) for seed in range(2)]
    assert panels(runs)["episode_return_mean"].get_ylim()[1] < 2500


def test_a_run_of_one_iteration_is_a_point(make_run: RunMaker) -> None:
    axis = panels([make_run("toy-fixed", points=1)])["episode_cost_mean"]
    (line,) = curves(axis).values()
    assert line.get_marker() == "o"


def test_a_run_without_metrics_is_left_out(make_run: RunMaker, caplog: pytest.LogCaptureFixture) -> None:
    empty = make_run("toy-adaptive", points=0)
    assert list(curves(panels([make_run(), empty])["episode_return_mean"])) == ["toy"]
    assert empty.path in caplog.text


def test_nothing_to_draw_is_a_clear_error(make_run: RunMaker, toy_line: Line, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to draw"):
        figure([])
    with pytest.raises(UserError, match="no metrics to draw yet"):
        figure([make_run(points=0)])
    with pytest.raises(UserError, match="logged none of episode_return_mean, episode_cost_mean, lagrange_multiplier"):
        figure([make_run(points=1)])


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    for name in ("picture.jpeg", "picture"):
        with pytest.raises(
            UserError, match=rf"picture '.*{name}': expected a file name that ends with \.png, \.svg, \.pdf"
        ):
            plot_runs([], tmp_path / name)


def test_a_picture_that_cannot_be_written_is_a_clear_error(make_run: RunMaker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write '.*file/picture\.png': (File exists|Not a directory)"):
        plot_runs([make_run()], tmp_path / "file" / "picture.png")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (250, "250"), (20_000, "20k"), (1_500_000, "1.5M"), (-3000, "-3k"), (2e9, "2G")],
)
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert short_number(value) == text


def test_a_quantity_that_is_always_zero_has_no_panel(tmp_path: Path, toy_line: Line) -> None:
    run = RunFolder.create(str(tmp_path), "free")
    run.write_text("experiment.yaml", load("toy").to_yaml())
    for step in (100, 200):
        run.metrics.append({"env_steps": step, "episode_return_mean": step / 10, "episode_cost_mean": 0.0})
    assert [axis.get_label() for axis in figure([run]).axes if axis.get_label()] == ["episode_return_mean"]
