"""Reports: the numbers on the page are those of the run folders, and the page needs nothing else."""

from __future__ import annotations

import base64
import gzip
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_pages import Page
from typer.testing import CliRunner

from quadriga.platform import cli, training
from quadriga.platform.errors import UserError
from quadriga.platform.evaluation import evaluate, evaluations
from quadriga.platform.experiment import load
from quadriga.platform.lines import EvaluationRequest
from quadriga.platform.report import make_report
from quadriga.platform.report_page import render
from quadriga.platform.report_parts import MOST_POINTS, Figure, Quantity, Report, Section, Table, Text, line_trace
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.statistics import band, mean_interval

Train = Callable[..., RunFolder]
pytestmark = pytest.mark.usefixtures("walk_line")


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains the walking line in this test's own folder of runs."""

    def run(preset: str = "walk", **fields: Any) -> RunFolder:
        experiment = load(preset, {"steps": 5_000, **fields})
        return training.train(experiment, runs_dir=str(tmp_path / "runs"), progress="quiet")

    return run


def page_of(runs: list[RunFolder]) -> Page:
    return Page(render(make_report([run.path for run in runs])))


def logged(run: RunFolder, metric: str) -> list[Any]:
    return [value for value in run.metrics.read().column(metric).to_pylist() if value is not None]


def traces(page: Page, figure: str, role: str) -> list[dict[str, Any]]:
    return [trace for trace in page.figures[figure]["data"] if trace["meta"]["role"] == role]


def test_the_curve_of_a_run_is_what_it_logged(train: Train) -> None:
    run = train()
    (trace,) = traces(page_of([run]), "episode_return_mean", "mean")
    assert trace["x"] == logged(run, "env_steps")
    assert trace["y"] == logged(run, "episode_return_mean")


def test_a_value_that_a_row_lacks_is_no_point(train: Train) -> None:
    run = train()
    (trace,) = traces(page_of([run]), "episode_cost_mean", "mean")
    assert trace["x"] == logged(run, "env_steps")[1:]
    assert trace["y"] == logged(run, "episode_cost_mean")


def test_seeds_are_a_mean_with_the_band_of_the_statistics(train: Train) -> None:
    runs = [train(seed=seed) for seed in range(3)]
    page = page_of(runs)
    expected = band([(logged(run, "env_steps"), logged(run, "episode_return_mean")) for run in runs])
    (mean,), (area,) = (traces(page, "episode_return_mean", role) for role in ("mean", "band"))
    np.testing.assert_allclose(mean["y"], expected.mean, rtol=1e-12)
    np.testing.assert_allclose(area["y"], np.concatenate([expected.high, expected.low[::-1]]), rtol=1e-12)
    assert [trace["y"] for trace in traces(page, "episode_return_mean", "values")] == [
        logged(run, "episode_return_mean") for run in runs
    ]


def test_two_seeds_have_no_band(train: Train) -> None:
    page = page_of([train(seed=seed) for seed in range(2)])
    assert traces(page, "episode_return_mean", "band") == []
    assert len(traces(page, "episode_return_mean", "values")) == 2
    assert len(traces(page, "episode_return_mean", "mean")) == 1


def test_settings_have_series_of_their_own_in_every_figure(train: Train) -> None:
    page = page_of([train("walk"), train("walk-fast")])
    for figure in ("episode_return_mean", "episode_cost_mean"):
        assert [(trace["name"], trace["meta"]["series"]) for trace in traces(page, figure, "mean")] == [
            ("walk", 0),
            ("walk-fast", 1),
        ]


def test_the_limit_is_a_line_with_its_value(train: Train) -> None:
    layout = page_of([train()]).figures["episode_cost_mean"]["layout"]
    assert [shape["y0"] for shape in layout["shapes"]] == [0.5]
    assert [note["text"] for note in layout["annotations"]] == ["limit 0.5"]


def test_published_numbers_are_lines_and_rows(train: Train, walk_line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train()
    published = {"episode_return_mean": {"Robbins and Monro 1951": -0.25}}
    object.__setattr__(walk_line, "published", lambda experiment, metric: published.get(metric, {}))
    try:
        page = page_of([run])
    finally:
        object.__setattr__(walk_line, "published", lambda experiment, metric: {})
    notes = page.figures["episode_return_mean"]["layout"]["annotations"]
    assert [note["text"] for note in notes] == ["Robbins and Monro 1951: -0.25"]
    assert page.table("measure", "value", "source").column("value") == ["-0.25"]


def test_the_table_of_runs_holds_the_last_numbers_exactly(train: Train) -> None:
    runs = [train(seed=seed) for seed in range(2)]
    table = page_of(runs).table("run", "seed", "Return")
    assert table.column("run") == [run.name for run in runs]
    assert [float(value) for value in table.column("Return")] == [
        logged(run, "episode_return_mean")[-1] for run in runs
    ]
    assert [float(value) for value in table.column("env steps")] == [5_000, 5_000]


def test_the_table_of_settings_holds_means_and_intervals_over_seeds(train: Train) -> None:
    runs = [train(seed=seed) for seed in range(3)]
    table = page_of(runs).table("setting", "seeds", "Return")
    lasts = [float(np.mean(logged(run, "episode_return_mean")[-1:])) for run in runs]
    expected = mean_interval(lasts)
    assert float(table.column("Return")[0]) == pytest.approx(expected.mean, rel=1e-12)
    (cell,) = [row[table.headers.index("Return")][0] for row in table.rows]
    assert f"{expected.low:.3g} to {expected.high:.3g}" in cell


def test_evaluations_are_a_table_and_a_figure_with_intervals(train: Train) -> None:
    run = train()
    evaluate(run, EvaluationRequest(episodes=5))
    evaluate(run, EvaluationRequest(episodes=7, deterministic=False), checkpoint="best")
    found = evaluations(run)
    page = page_of([run])
    table = page.table("checkpoint", "return", "cost")
    assert [float(value) for value in table.column("return")] == [each["return"]["mean"] for each in found]
    assert table.column("samples") == ["5", "7"]
    data = page.figures["evaluation_return"]["data"]
    assert [trace["x"][0] for trace in data] == [each["return"]["mean"] for each in found]
    for trace, each in zip(data, found, strict=True):
        assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(each["return"]["high"])
        assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(each["return"]["low"])


def test_films_of_evaluations_and_of_the_folder_are_inside(train: Train, tmp_path: Path) -> None:
    run = train()
    evaluate(run, EvaluationRequest(episodes=2, video=tmp_path / "outside.mp4"))
    Path(run.path, "inside.gif").write_bytes(b"picture")
    page = page_of([run])
    inside = [reference for reference in page.references if "base64" in reference]
    assert inside == [
        f"data:video/mp4;base64,{base64.b64encode(b'film').decode()}",
        f"data:image/gif;base64,{base64.b64encode(b'picture').decode()}",
    ]
    (tmp_path / "outside.mp4").unlink()
    assert len([reference for reference in page_of([run]).references if "base64" in reference]) == 1


def test_a_film_that_another_run_has_written_over_is_left_out(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (train(seed=seed) for seed in (1, 2))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    evaluate(one, EvaluationRequest(episodes=2, video=Path("film.mp4")))
    monkeypatch.chdir(tmp_path)
    assert [reference for reference in page_of([one]).references if "base64" in reference]
    evaluate(other, EvaluationRequest(episodes=2, video=tmp_path / "here" / "film.mp4"))
    assert [reference for reference in page_of([one]).references if "base64" in reference] == []
    assert [reference for reference in page_of([other]).references if "base64" in reference]


def test_every_number_that_was_logged_has_a_figure(train: Train) -> None:
    page = page_of([train()])
    assert set(page.figures) == {"episode_return_mean", "episode_cost_mean"}
    assert page.headings[1:] == ["Results", "Curves", "What was run"]


def test_what_differs_from_the_preset_is_listed(train: Train) -> None:
    table = page_of([train("walk-fast", env={"dim": 7}, seed=3)]).table("field", "preset", "here")
    assert [[cell[0] for cell in row][1:] for row in table.rows] == [["env.dim", "3", "7"]]
    assert page_of([train()]).table("field", "preset", "here").column("field") == ["nothing"]


def test_the_origin_of_every_run_is_listed(train: Train) -> None:
    runs = [train(seed=seed) for seed in range(2)]
    table = page_of(runs).table("run", "commit", "machine")
    assert table.column("run") == [run.name for run in runs]
    assert table.column("state") == ["done", "done"]


def test_the_page_refers_to_nothing_outside(train: Train) -> None:
    run = train()
    html = render(make_report([run.path]))
    page = Page(html)
    assert [each for each in page.references if not each.startswith(("data:", "#"))] == []
    assert "default-src 'none'" in page.policy and "http" not in page.policy
    own = re.sub(r'<script id="plotly".*?</script>', "", html, flags=re.DOTALL)
    assert re.findall(r"https?://|@import|url\(", own) == []


def test_plotly_is_embedded_whole_and_compressed(train: Train) -> None:
    from plotly.offline import get_plotlyjs

    html = render(make_report([train().path]))
    packed = re.search(r'<script id="plotly"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed[1])).decode() == get_plotlyjs()
    assert len(html) < 2_500_000


def test_figures_are_valid_for_plotly(train: Train) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    run = train()
    for episodes in (5, 6):
        evaluate(run, EvaluationRequest(episodes=episodes))
    for figure in page_of([run, train("walk-fast", seed=1), train(seed=2)]).figures.values():
        graph_objects.Figure(figure)


def test_markup_in_texts_stays_text() -> None:
    nasty = "</script><b>&\"'"
    figure = Figure(nasty, nasty, [line_trace([1], [math.nan], series=0, name=nasty)])
    table = Table(nasty, [nasty], [[nasty]])
    page = Page(render(Report(nasty, [Section(nasty, [figure, table, Text(nasty, nasty)], nasty, [nasty, nasty])])))
    assert page.tables[0].rows[0][0][0] == nasty
    assert page.headings == [nasty, nasty]
    (found,) = page.figures.values()
    assert (found["data"][0]["name"], found["data"][0]["y"]) == (nasty, [None])


def test_missing_numbers_are_a_dash_that_is_sorted_last() -> None:
    cells = [[Quantity(None)], [Quantity(math.nan)], [Quantity(0.1234, (0.1, 0.2), percent=True)]]
    page = Page(render(Report("", [Section("", [Table("", ["x"], cells)])])))
    assert [row[0] for row in page.tables[0].rows] == [("-", ""), ("-", ""), ("12.34% 10.00% to 20.00%", "0.1234")]


def test_a_long_curve_is_thinned_out_but_keeps_its_ends() -> None:
    points = 10 * MOST_POINTS + 7
    trace = line_trace(range(points), range(points), series=0, name="")
    assert MOST_POINTS / 2 < len(trace["x"]) <= MOST_POINTS + 1
    assert (trace["x"][0], trace["x"][-1]) == (0, points - 1)


def test_a_run_without_metrics_is_left_out_and_alone_refused(train: Train, tmp_path: Path) -> None:
    run = train()
    empty = RunFolder.create(str(tmp_path / "runs"), "empty")
    empty.write_text("experiment.yaml", run.experiment().to_yaml())
    assert page_of([run, empty]).table("run", "seed", "Return").column("run") == [run.name]
    with pytest.raises(UserError, match="no metrics to draw yet"):
        make_report([empty.path])


def test_a_file_that_nobody_reports_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="nothing here can report on such a file; what can be reported on: run folders"):
        make_report([str(tmp_path / "notes.txt")])


def test_the_command_puts_the_page_into_the_folder_of_its_only_run(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [train(seed=seed).name for seed in range(2)]
    say = CliRunner().invoke(cli.app, ["report", runs[0]], catch_exceptions=False).output
    assert say == f"report: runs/{runs[0]}/report.html\n"
    assert Path("runs", runs[0], "report.html").is_file()
    CliRunner().invoke(cli.app, ["report", *runs], catch_exceptions=False)
    assert Path("report.html").is_file()
    CliRunner().invoke(cli.app, ["report", *runs, "-o", "new/both.html"], catch_exceptions=False)
    assert Page(Path("new/both.html").read_text(encoding="utf-8")).headings[0] == "Bowl-v0: walk"
