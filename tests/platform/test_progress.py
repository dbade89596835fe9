"""What is said of a run while it trains."""

from __future__ import annotations

import io
import json
import math
import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadriga.platform import progress
from quadriga.platform.errors import UserError
from quadriga.platform.progress import JsonProgress, LiveProgress, Pace, PlainProgress, Progress, RunInfo

INFO = RunInfo("1.0", "ppo", "CartPole-v1", 3, "runs/a", 0, 40_000, "env_steps", ("episode_return_mean", "kl"))


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def row(step: int, value: float = 1.0) -> dict[str, float]:
    return {"env_steps": step, "episode_return_mean": value}


def plain(interval: float = 5.0) -> tuple[PlainProgress, io.StringIO, Clock]:
    said, clock = io.StringIO(), Clock()
    display = PlainProgress(said, interval, clock)
    display.start(INFO)
    display.begin()
    return display, said, clock


def test_opening_says_what_runs_how_far_with_which_seed_and_where() -> None:
    _, said, _ = plain()
    assert all(
        text in said.getvalue() for text in ("ppo on CartPole-v1", "40,000 env steps", "seed        3", "runs/a")
    )


def test_opening_of_a_resumed_run_says_where_it_goes_on() -> None:
    resumed = RunInfo("1.0", "ppo", "CartPole-v1", 3, "runs/a", 20_000, 40_000, "env_steps", ())
    assert any("20,000 to 40,000" in line for line in progress.opening(resumed))


def test_plain_lines_come_at_most_once_an_interval_but_first_and_last_always() -> None:
    display, said, clock = plain(interval=5.0)
    for step in range(1000, 41_000, 1000):
        clock.now += 1.0
        display.iteration(row(step))
    steps = [line.split("/")[0] for line in said.getvalue().splitlines() if "/40,000" in line]
    assert steps == [f"{step:,}" for step in [*range(1000, 40_000, 5000), 40_000]]


def test_plain_line_shows_the_headline_the_rate_and_the_time_left() -> None:
    display, said, clock = plain()
    clock.now = 2.0
    display.iteration({**row(2000, 21.5), "kl": 0.01234, "other": 7.0})
    line = said.getvalue().splitlines()[-1]
    assert line == "2,000/40,000 env steps  return 21.5  kl 0.0123  1,000 steps/s  38 s left"


def test_time_before_the_first_iteration_does_not_count() -> None:
    said, clock = io.StringIO(), Clock()
    display = PlainProgress(said, 5.0, clock)
    display.start(INFO)
    clock.now = 500.0
    display.begin()
    clock.now = 502.0
    display.iteration(row(2000))
    assert "1,000 steps/s" in said.getvalue()


def test_pace_follows_the_last_iterations() -> None:
    clock = Clock()
    pace = Pace(INFO, clock)
    assert math.isnan(pace.rate())
    for step in range(1, 11):
        clock.now += 10.0
        pace.at(step * 100)
    assert pace.rate() == pytest.approx(10.0)
    for step in range(1, progress.RATE_WINDOW + 1):
        clock.now += 1.0
        pace.at(1000 + step * 100)
    assert pace.rate() == pytest.approx(100.0)
    assert pace.remaining() == pytest.approx((40_000 - 3000) / 100)


def test_ending_says_what_to_type_next() -> None:
    display, said, clock = plain()
    clock.now = 100.0
    display.finish(row(40_000, 199.25), 100.0, ["quadriga plot a"])
    assert "done: 40,000 env steps in 1 min 40 s" in said.getvalue()
    assert "episode_return_mean  199.2" in said.getvalue()
    assert said.getvalue().endswith("next:\n  quadriga plot a\n")


def test_json_lines_are_strict_json() -> None:
    said = io.StringIO()
    display = JsonProgress(said)
    display.start(INFO)
    display.begin()
    display.note("not for programs")
    values = {"a": math.nan, "b": -math.inf, "c": np.float32(0.5), "d": np.int64(3), "e": True, "f": "text"}
    display.iteration({**row(1000), **values})
    display.finish(row(1000), 1.0, ["quadriga plot a"])
    start, iteration, end = (json.loads(line, parse_constant=pytest.fail) for line in said.getvalue().splitlines())
    assert (start["event"], start["run"], start["total"]) == ("start", "runs/a", 40_000)
    assert {name: iteration[name] for name in values} == {
        "a": None,
        "b": None,
        "c": 0.5,
        "d": 3,
        "e": True,
        "f": "text",
    }
    assert (end["event"], end["env_steps"], end["wall_time_s"]) == ("end", 1000, 1.0)


def test_live_display_draws_the_latest_rows_and_gives_the_terminal_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    display = LiveProgress()
    display.start(INFO)
    display.begin()
    for step in range(1000, 21_000, 1000):
        display.iteration(row(step, step / 3))
    display.finish(row(20_000), 3.0, ["quadriga plot a"])
    display.close()
    said = capsys.readouterr().out
    assert "6,667" in said
    assert "20,000/40,000 env steps" in said
    assert "50%" in said
    assert "quadriga plot a" in said
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert said.rindex(show) > said.rindex(hide)


def test_live_display_closes_after_a_failure_before_the_first_iteration(capsys: pytest.CaptureFixture[str]) -> None:
    display = LiveProgress()
    display.start(INFO)
    display.close()
    display.close()
    assert "ppo on CartPole-v1" in capsys.readouterr().out


def test_auto_is_plain_in_a_pipe_and_live_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe, os.fdopen(reading):
        monkeypatch.setattr(sys, "stdout", pipe)
        assert isinstance(progress.make_progress("auto"), PlainProgress)
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master):
        monkeypatch.setattr(sys, "stdout", terminal)
        assert isinstance(progress.make_progress("auto"), LiveProgress)


def test_modes_are_named_and_others_refused() -> None:
    assert type(progress.make_progress("quiet")) is Progress
    assert isinstance(progress.make_progress("json"), JsonProgress)
    with pytest.raises(UserError, match="expected one of auto, live, plain, json, quiet, got 'loud'"):
        progress.make_progress("loud")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (math.nan, "-"), (0.0, "0"), (25.0, "25"), (1234567, "1,234,567"), (1234.5, "1,234"),
     (123.45, "123.5"), (0.012345, "0.0123"), (1.5e-7, "1.5e-07"), (math.inf, "inf"), ("text", "text"), (True, "True")],
)  # fmt: skip
def test_numbers_show_the_digits_that_matter(value: object, text: str) -> None:
    assert progress.number(value) == text


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_can_be_shown(value: float) -> None:
    assert progress.number(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3600, "1 h"),
     (90_000, "1 d 1 h"), (math.nan, "?")],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
