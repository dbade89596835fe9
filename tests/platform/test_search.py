"""Searches before anything runs: what a file may say, the points it means, what is good."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from quadriga.platform import experiment as experiments
from quadriga.platform import search
from quadriga.platform.errors import UserError
from quadriga.platform.search import Objective, Parameter, SearchSettings

OBJECTIVE = {"maximize": "episode_return_mean"}


def settings(parameters: dict[str, Any], **more: Any) -> SearchSettings:
    return SearchSettings.model_validate({"parameters": parameters, "objective": OBJECTIVE, **more})


def test_points_are_the_grid_times_the_draws_and_the_same_for_the_same_seed() -> None:
    made = settings({"seed": {"grid": [0, 1]}, "learning_rate": {"loguniform": [1e-4, 1e-2]}}, trials=5, seed=3)
    points = search.points(made)
    assert len(points) == made.total == 10
    assert points == search.points(made)
    assert points != search.points(made.model_copy(update={"seed": 4}))
    # Both seeds get each drawn value.
    assert [p["learning_rate"] for p in points[::2]] == [p["learning_rate"] for p in points[1::2]]
    assert {p["seed"] for p in points} == {0, 1}


@hypothesis.given(st.integers(0, 1000))
def test_draws_stay_within_their_ranges(seed: int) -> None:
    made = settings(
        {
            "a": {"uniform": [-1, 2]},
            "b": {"loguniform": [1e-6, 1e-1]},
            "c": {"randint": [2, 4]},
            "d": {"choice": ["x", "y"]},
        },
        trials=3,
        seed=seed,
    )
    for point in search.points(made):
        assert -1 <= point["a"] <= 2 and 1e-6 <= point["b"] <= 1e-1
        assert point["c"] in (2, 3, 4) and point["d"] in ("x", "y")


def test_conditional_fields_count_only_where_their_condition_holds() -> None:
    made = settings(
        {
            "brake.kind": {"choice": ["none", "fixed"]},
            "brake.strength": {"uniform": [0, 1], "when": {"brake.kind": "fixed"}},
        },
        trials=40,
    )
    points = search.points(made)
    assert {("brake.strength" in point, point["brake.kind"]) for point in points} == {(True, "fixed"), (False, "none")}


@pytest.mark.parametrize(
    ("parameters", "more", "said"),
    [
        ({"a": {}}, {}, "expected one of uniform"),
        ({"a": {"uniform": [0, 1], "choice": [1]}}, {}, "got uniform and choice"),
        ({"a": {"uniform": [1, 0]}}, {}, "expected low < high"),
        ({"a": {"loguniform": [0, 1]}}, {}, "expected low > 0"),
        ({"a": {"uniform": [0, 1], "when": {"b": 1}}}, {}, "'b' is no other searched field"),
        ({"a": {"grid": [1]}}, {"searcher": "optuna"}, "expected 'random' with a grid"),
        ({"a": {"grid": [1]}}, {"scheduler": {"kind": "pbt"}}, "'pbt' changes ranges and choices"),
        (
            {"a": {"uniform": [0, 1]}, "b": {"uniform": [0, 1], "when": {"a": 1}}},
            {"searcher": "bohb", "scheduler": {"kind": "hyperband"}},
            "no conditional fields",
        ),
        ({"a": {"uniform": [0, 1]}}, {"searcher": "bohb"}, "goes with scheduler 'hyperband'"),
        ({"a": {"uniform": [0, 1]}}, {"searcher": "optuna", "scheduler": {"kind": "pbt"}}, "draws its own values"),
        ({"a": {"uniform": [0, 1]}}, {"objective": {}}, "expected one of maximize and minimize"),
        ({"a": {"uniform": [0, 1]}}, {"scheduler": {"kind": "pbt"}, "concurrency": 2}, "pauses trials to"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(parameters: dict[str, Any], more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(parameters, **more)


@pytest.mark.usefixtures("toy_line")
def test_every_point_is_validated_before_anything_starts() -> None:
    wide = settings({"learning_rate": {"uniform": [-1, 1]}})
    with pytest.raises(UserError, match=r"search point learning_rate=-.*learning_rate: expected greater than 0"):
        search.check({"preset": "toy"}, wide)
    unknown = settings({"learning_rat": {"uniform": [0.1, 1]}})
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        search.check({"preset": "toy"}, unknown)
    # A searcher that draws as it goes is tried at the bounds.
    with pytest.raises(UserError, match=r"search point learning_rate=-1\.0"):
        search.check({"preset": "toy"}, wide.model_copy(update={"searcher": "optuna"}))
    assert len(search.check({"preset": "toy"}, settings({"learning_rate": {"uniform": [0.1, 1]}}))) == 12


@pytest.mark.usefixtures("toy_line")
@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_metric_that_is_not_logged_is_refused(searcher: str) -> None:
    wide = {"learning_rate": {"uniform": [0.1, 1]}}
    for objective, said in {
        "maximize: unknown metric 'episode_retrun_mean'; did you mean 'episode_return_mean'": {
            "maximize": "episode_retrun_mean"
        },
        "minimize: unknown metric 'zzz'; a run's are shown by": {"minimize": "zzz"},
        "subject_to: unknown metric 'episode_cost'": {"minimize": "kl", "subject_to": {"episode_cost": 1}},
    }.items():
        made = settings(wide, objective=said, searcher=searcher)
        with pytest.raises(UserError, match=rf"search\.objective\.{objective}"):
            search.check({"preset": "toy"}, made)


@pytest.mark.usefixtures("toy_line")
@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_a_grace_beyond_the_end_is_refused(kind: str) -> None:
    made = settings({"learning_rate": {"uniform": [0.1, 1]}}, scheduler={"kind": kind, "grace": 20_000})
    with pytest.raises(UserError, match=r"search\.scheduler\.grace: expected at most steps \(10,000\), got 20,000"):
        search.check({"preset": "toy", "steps": 10_000}, made)
    search.check({"preset": "toy", "steps": 20_000}, made)


@pytest.mark.usefixtures("toy_line")
def test_a_point_changes_only_its_fields() -> None:
    experiment: Any = search.experiment_at({"preset": "toy-fixed", "task": "Toy-v1"}, {"brake.limit": 5.0})
    assert (experiment.brake.kind, experiment.brake.strength, experiment.brake.limit) == ("fixed", 2.0, 5.0)
    assert experiment.task.id == "Toy-v1"


def test_objective_averages_the_last_values_and_knows_when_there_is_none() -> None:
    objective = Objective(maximize="r", average=2)
    assert objective.value([]) == objective.value([{"r": math.nan}]) == search.UNKNOWN
    assert objective.value([{"r": 9.0}, {"r": 1.0}, {"x": 1.0}, {"r": 3.0}]) == 2.0
    assert Objective(minimize="r").value([{"r": 4.0}]) == -4.0


@hypothesis.given(
    st.lists(st.fixed_dictionaries({}, optional={"r": st.floats(-9, 9) | st.just(math.nan), "c": st.floats(-9, 9)})),
    st.integers(1, 4),
)
def test_what_a_trial_keeps_of_its_rows_is_what_its_objective_reads(rows: list[dict[str, float]], average: int) -> None:
    objective = Objective(maximize="r", subject_to={"c": 0}, average=average)
    kept: list[dict[str, float]] = []
    for row in rows:
        kept = objective.needed([*kept, {**row, "x": 1.0}])
    assert objective.value(kept) == objective.value(rows)
    assert len(kept) <= 2 * average and not any("x" in row for row in kept)


@hypothesis.given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 25), st.floats(25.001, 1e4))
def test_a_trial_within_the_limit_beats_every_one_above_it(a: float, b: float, within: float, above: float) -> None:
    objective = Objective(maximize="r", subject_to={"c": 25})
    good, bad = objective.value([{"r": a, "c": within}]), objective.value([{"r": b, "c": above}])
    assert good > bad > search.UNKNOWN
    better = objective.value([{"r": max(a, b) + 1, "c": within}])
    assert better > good
    assert objective.value([{"r": b, "c": above + 1}]) < bad


def test_penalty_trades_the_metric_for_the_excess() -> None:
    objective = Objective(maximize="r", subject_to={"c": 25}, penalty=0.5)
    assert objective.value([{"r": 10.0, "c": 35.0}]) == 5.0
    assert objective.value([{"r": 10.0, "c": 5.0}]) == 10.0


@pytest.mark.usefixtures("toy_line")
def test_file_with_a_search_is_for_tune_and_one_without_for_train(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "preset: toy\nsearch:\n  parameters: {learning_rate: {uniform: [0.1, 1]}}\n"
        "  objective: {maximize: episode_return_mean}\n  scheduler: asha\n"
    )
    fields, made = search.load(str(file), {"search": {"trials": 3}, "steps": 200})
    assert (fields, made.draws, made.scheduler.kind) == ({"preset": "toy", "steps": 200}, 3, "asha")
    with pytest.raises(UserError, match="quadriga tune"):
        experiments.load(str(file))
    file.write_text("preset: toy\n")
    with pytest.raises(UserError, match="quadriga train"):
        search.load(str(file))
    file.write_text("preset: toy\nsearch: {parameters: {a: {uniform: [0, 1]}}, objective: {maximise: r}}\n")
    with pytest.raises(UserError, match=r"search: unknown key 'objective.maximise'"):
        search.load(str(file))


def test_clipping_keeps_a_nudged_value_in_its_range() -> None:
    assert Parameter(uniform=(0, 1)).clip(1.2) == 1.0
    assert Parameter(choice=(1, 2)).clip(2) == 2


@pytest.mark.parametrize("scheduler", ["none", "asha", "hyperband", "median", "pbt"])
def test_what_a_search_keeps_of_itself_is_the_same_search(scheduler: str) -> None:
    made = settings({"a": {"uniform": [0, 1]}, "b": {"choice": [None, 1]}}, scheduler={"kind": scheduler}, trials=3)
    assert SearchSettings.model_validate(made.model_dump(mode="json", exclude_none=True)) == made


@pytest.mark.parametrize(
    ("steps", "grace", "lengths"), [(60_000, None, 10), (60_000, 20_000, 3), (5, None, 5), (3, 9, 1)]
)
def test_hyperband_counts_in_lengths_of_its_shortest_trial(steps: int, grace: int | None, lengths: int) -> None:
    assert search.HyperBandSettings(grace=grace).lengths(steps) == lengths
