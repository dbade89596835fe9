"""Which trial of a search is the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quadriga.platform.lines import Line
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.search import SearchSettings
from quadriga.platform.tuning_results import Outcome, TrialResult


def result(name: str, step: int, objective: float, **more: Any) -> TrialResult:
    fields: dict[str, Any] = {"steps": 10_000, "means": {}, "stopped": None, "error": None, "ended": True}
    return TrialResult(name=name, point={}, step=step, objective=objective, folder=name, **fields | more)


def outcome(line: Line, folder: Path, *trials: TrialResult) -> Outcome:
    settings = SearchSettings.model_validate(
        {"parameters": {"seed": {"grid": [0, 1]}}, "objective": {"maximize": "episode_return_mean"}}
    )
    return Outcome(RunFolder.create(str(folder), "search"), settings, line, trials)


def test_of_trials_that_went_to_the_end_the_last_batch_s_overshoot_decides_nothing(
    toy_line: Line, tmp_path: Path
) -> None:
    large, small, early = result("large", 12_288, 1.0), result("small", 10_000, 2.0), result("early", 4096, 3.0)
    found = outcome(toy_line, tmp_path, early, large, small)
    assert [trial.name for trial in found.ranking()] == ["small", "large", "early"]
    assert found.best() is small


def test_trials_that_could_not_go_on_are_counted_and_not_ranked(toy_line: Line, tmp_path: Path) -> None:
    failed = [result("nan", 10_000, 9.0, stopped="the loss is NaN"), result("dead", 10_000, 9.0, error="killed")]
    found = outcome(toy_line, tmp_path, *failed)
    assert (found.best(), found.failed) == (None, 2)
