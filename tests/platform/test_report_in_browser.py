"""Reports in a real browser: no errors, the numbers of the run folder, room on a phone, nothing loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import PATIENCE_MS

from quadriga.platform import training
from quadriga.platform.evaluation import evaluate
from quadriga.platform.experiment import load
from quadriga.platform.lines import EvaluationRequest
from quadriga.platform.report import write_report
from quadriga.platform.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("walk_line")]

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def runs(tmp_path: Path) -> list[RunFolder]:
    """Two settings, one of them with three seeds, evaluated and filmed."""
    experiments = [load("walk", {"steps": 5_000, "seed": seed}) for seed in range(3)]
    experiments.append(load("walk-fast", {"steps": 5_000}))
    made = [training.train(each, runs_dir=str(tmp_path / "runs"), progress="quiet") for each in experiments]
    for run in made:
        evaluate(run, EvaluationRequest(episodes=5))
    _film(Path(made[0].path, "film.mp4"))
    return made


def _film(path: Path) -> None:
    import numpy as np

    from quadriga.platform.video import VideoWriter

    with VideoWriter(path) as video:
        for shade in range(0, 250, 10):
            video.add(np.full((64, 64, 3), shade, np.uint8))


@pytest.fixture
def opened(browser: Any, runs: list[RunFolder], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the report of `runs`; at the end nothing was said on the console and nothing asked from a network."""
    file = write_report([run.path for run in runs], tmp_path / "report.html")
    troubles: list[str] = []
    contexts = []

    def open_page(size: dict[str, int] = DESKTOP, **options: Any) -> Any:
        context = browser.new_context(viewport=size, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("request", lambda request: _note_request(request.url))
        page.goto(file.as_uri())
        page.wait_for_function("document.documentElement.dataset.ready === 'true'")
        return page

    def _note_request(url: str) -> None:
        if not url.startswith(("data:", "blob:")) and url != file.as_uri():
            troubles.append(f"request: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def drawn(page: Any, figure: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(
        """name => document.querySelector(`[data-figure="${name}"]`).data.map(
            ({name, x, y, meta, line, visible}) => ({name, x, y, meta, line, visible}))""",
        figure,
    )
    return found


def test_the_numbers_in_the_browser_are_those_of_the_run_folder(opened: Any, runs: list[RunFolder]) -> None:
    page = opened()
    rows = runs[3].metrics.read().to_pylist()
    (trace,) = [
        t for t in drawn(page, "episode_return_mean") if t["name"] == "walk-fast" and t["meta"]["role"] == "mean"
    ]
    assert trace["x"] == [row["env_steps"] for row in rows]
    assert trace["y"] == [row["episode_return_mean"] for row in rows]
    cells = page.evaluate(
        """() => [...document.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.dataset.sort))"""
    )
    (row,) = [row for row in cells if row[0] == runs[3].name and len(row) == 7 and row[1] == "walk-fast"]
    assert [float(value) for value in row[5:]] == [rows[-1]["episode_return_mean"], rows[-1]["episode_cost_mean"]]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_window(opened: Any, size: dict[str, int]) -> None:
    page = opened(size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    figures = page.locator(".canvas")
    assert figures.count() >= 4
    for index in range(figures.count()):
        box = figures.nth(index).locator("svg.main-svg").first.bounding_box()
        assert box["width"] > 200 and box["height"] > 100
    assert page.screenshot(full_page=True).startswith(b"\x89PNG")


def test_dark_and_light_follow_the_system_and_the_button(opened: Any) -> None:
    page = opened(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    line = drawn(page, "episode_return_mean")[-1]["line"]["color"]
    page.emulate_media(color_scheme="light")
    light = page.evaluate(paper)
    assert dark != light
    page.wait_for_function(
        "color => document.querySelector('[data-figure=episode_return_mean]').data.at(-1).line.color !== color",
        arg=line,
    )
    for theme, color in (("light", light), ("dark", dark), ("auto", light)):
        page.click("#theme")
        assert (page.inner_text("#theme"), page.evaluate(paper)) == (f"Theme: {theme}", color)


def test_a_click_on_a_head_sorts_by_the_exact_numbers(opened: Any) -> None:
    page = opened()
    head = page.locator("th", has_text="Return").last
    head.locator("button").click()
    column = """head => [...head.closest("table").tBodies[0].rows]
        .map(row => Number(row.cells[head.cellIndex].dataset.sort))"""
    ascending = head.evaluate(column)
    assert ascending == sorted(ascending) and len(set(ascending)) == 4
    head.locator("button").click()
    assert head.evaluate(column) == ascending[::-1]


def test_a_click_on_the_legend_hides_a_setting_in_every_figure_of_its_section(opened: Any) -> None:
    page = opened()
    page.locator(".legend button", has_text="walk-fast").first.click()
    for figure in ("episode_return_mean", "episode_cost_mean"):
        page.wait_for_function(
            'name => document.querySelector(`[data-figure="${name}"]`).data.some(trace => !trace.visible)', arg=figure
        )
        assert {t["name"] for t in drawn(page, figure) if not t["visible"]} == {"walk-fast"}


def test_films_play(opened: Any) -> None:
    page = opened()
    page.wait_for_function("document.querySelector('video').readyState >= 2")
    assert page.evaluate("[document.querySelector('video').videoWidth, document.querySelector('video').error]") == [
        64,
        None,
    ]


def test_it_prints(opened: Any) -> None:
    page = opened()
    assert len(page.pdf(format="A4")) > 20_000
