"""What happens in Tune, told to the display: that a trial began or ended only once storage has it.

Tune writes its state every few seconds. A search whose process is killed in between would take up a trial that ended
since as a running one, and would give the point of one that began since to a new trial of another name. Here the
state is written whenever a trial begins or ends, and before anybody hears of the end. Tables are `tuning_table`'s;
that a state is never torn, `tuning_snapshots` sees to.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler

from quadriga.platform import storage, tuning_table
from quadriga.platform.tuning_snapshots import TUNE, Snapshots
from quadriga.platform.tuning_table import Display

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

logger = logging.getLogger("quadriga")

controller: TuneController | None = None
"""Of the search that this process runs. Tune shows it to schedulers, not to callbacks."""


class Watched(TrialScheduler):
    """Mixed into every scheduler: notes the controller, and takes up no trial of a resumed search that has ended.

    A HyperBand bracket would wait for ever for the next result of such a one.
    """

    def choose_trial_to_run(self, tune_controller: TuneController, **options: Any) -> Trial | None:
        global controller
        controller = tune_controller
        return super().choose_trial_to_run(tune_controller, **options)

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        if not trial.is_finished():
            super().on_trial_add(tune_controller, trial)


class Feed(Callback):
    """Feeds a display; a copy that Tune unpickles for a resumed search feeds the display that is `current` then."""

    def __init__(self, display: Display) -> None:
        self._begin(display)

    def _begin(self, display: Display | None) -> None:
        self._display = display
        self._known: set[str] = set()
        self._unsaid: list[tuple[Trial, str]] = []
        self._unsaved = False
        self._snapshots: Snapshots | None = None
        self._kept = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(tuning_table.current)

    def _say(self, trial: Trial, state: str, result: Mapping[str, Any] | None = None) -> None:
        if self._display is not None:
            self._display.update(str(trial), trial.config, state, result)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._unsaved = self._unsaved or trial.trial_id not in self._known
        self._known.add(trial.trial_id)
        self._say(trial, "running")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._say(trial, "running", result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._unsaid.append((trial, "done"))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        logger.warning("%s: its process or node died; it goes on from its last checkpoint", trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._unsaid.append((trial, "failed"))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if controller is None:
            return
        if self._unsaved or self._unsaid:
            for trial, _ in self._unsaid:
                controller._mark_trial_to_checkpoint(trial)  # Tune forgets this of a trial that ends while it is paused
            controller.checkpoint(force=True)
            self._unsaved = False
        self._keep(Path(controller.experiment_state_path))
        for trial, state in self._unsaid:
            self._say(trial, state, trial.last_result)
        self._unsaid.clear()

    def _keep(self, state: Path) -> None:
        """Archives what Tune has written since the last time."""
        written = state.stat().st_mtime_ns if state.exists() else 0
        if written != self._kept and self._display is not None:
            self._snapshots = self._snapshots or Snapshots(storage.join(self._display.path, TUNE))
            self._snapshots.keep(state.parent)
            self._kept = written
