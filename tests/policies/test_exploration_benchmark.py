"""The benchmark of exploration: its tasks exist, and its variants differ in the bonus alone."""

from __future__ import annotations

from quadriga.platform.benchmark import choose_variants, grid
from quadriga.platform.environments.registry import list_environments
from quadriga.policies.benchmarks import BENCHMARKS
from quadriga.policies.line import LINE

EXPLORATION = BENCHMARKS["exploration"]


def test_every_task_of_every_suite_exists() -> None:
    known = {row.id for row in list_environments()}
    assert [task for suite in EXPLORATION.suites.values() for task in suite.tasks if task not in known] == []


def test_variants_of_control_differ_in_the_bonus_alone() -> None:
    suite = EXPLORATION.suites["control"]
    trials = grid(LINE, EXPLORATION, choose_variants(LINE, suite, []), ["SparseMountainCar-v0"], [0], 1000)
    assert [trial.experiment.bonus.kind for trial in trials] == list(suite.variants)
    settings = [trial.experiment.model_dump(exclude={"bonus", "preset", "name"}) for trial in trials]
    assert all(each == settings[0] for each in settings)
    of_its_kind = {"kind", "k", "dynamics"}
    bonuses = [trial.experiment.bonus.model_dump(exclude=of_its_kind) for trial in trials[1:]]
    assert all(each == bonuses[0] for each in bonuses), "who learns its value, eta, decay"
    models = [t.experiment.bonus.dynamics for t in trials[1:] if t.variant != "vime"]
    assert all(each == models[0] for each in models)


def test_under_a_limit_the_bonus_is_all_that_is_added() -> None:
    suite = EXPLORATION.suites["safety"]
    trials = grid(LINE, EXPLORATION, choose_variants(LINE, suite, []), ["SparseSafetyPointGoal1-v0"], [0], 1000)
    plain, safe = (trial.experiment.model_dump(exclude={"bonus", "preset", "name"}) for trial in trials)
    assert plain == safe
    assert [trial.experiment.bonus.kind for trial in trials] == ["none", "surprisal"]
