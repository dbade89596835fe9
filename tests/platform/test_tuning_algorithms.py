"""Schedulers as Tune drives them, moment by moment; whole searches are run in tests/clusters."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.experiment import Trial

from quadriga.platform import search, tuning_algorithms
from quadriga.platform.trial import LENGTHS, OBJECTIVE


class Controller:
    """What a scheduler asks of Tune's controller."""

    def __init__(self, trials: list[Trial]) -> None:
        self._trials = trials

    def get_trials(self) -> list[Trial]:
        return self._trials

    def stop_trial(self, trial: Trial) -> None:
        trial.set_status(Trial.TERMINATED)


@pytest.fixture
def hyperband() -> Any:
    settings = search.SearchSettings.model_validate(
        {
            "parameters": {"learning_rate": {"uniform": [0, 1]}},
            "objective": {"maximize": "episode_return_mean"},
            "scheduler": {"kind": "hyperband", "grace": 1000},
        }
    )
    made = tuning_algorithms.scheduler(settings, steps=3000)
    made.set_search_properties(OBJECTIVE, "max")
    return made


def test_a_trial_that_saves_while_its_bracket_ends_does_not_wait_for_ever(hyperband: Any) -> None:
    first, last = trials = [Trial("trial", stub=True) for _ in range(2)]
    controller = Controller(trials)
    for each in trials:
        hyperband.on_trial_add(controller, each)
        each.set_status(Trial.RUNNING)
    assert hyperband.on_trial_result(controller, first, {LENGTHS: 3, OBJECTIVE: 1.0}) == hyperband.PAUSE
    assert hyperband.on_trial_result(controller, last, {LENGTHS: 3, OBJECTIVE: 2.0}) == hyperband.STOP
    last.set_status(Trial.TERMINATED)
    hyperband.on_trial_complete(controller, last, {LENGTHS: 3, OBJECTIVE: 2.0})
    first.set_status(Trial.PAUSED)  # only now has it saved
    assert hyperband.choose_trial_to_run(controller) is None
    assert first.status == Trial.TERMINATED
