"""What a search found: every trial's result, the best experiment, and a picture of both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quadriga.platform import experiment as experiments
from quadriga.platform import search, storage
from quadriga.platform.errors import UserError
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.search import SearchSettings

if TYPE_CHECKING:
    from quadriga.platform.lines import Line

RESULTS, BEST, PICTURE = "trials.json", "best.yaml", "search.png"


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Attributes:
        name: its run folder's.
        point: what it tried; of population-based training what it ended with.
        step: how far it came, in the line's step metric.
        steps: how far it was to come; an iteration may end beyond.
        objective: `Objective.value` at its end.
        means: the metrics behind the objective.
        stopped: why it could not go on, e.g. a NaN.
        error: what its process died of, when the retries were used up.
        ended: whether nothing of it is left to do.
        folder: its run folder.
    """

    name: str
    point: Mapping[str, Any]
    step: int
    steps: int
    objective: float
    means: Mapping[str, float]
    stopped: str | None
    error: str | None
    ended: bool
    folder: str

    @property
    def usable(self) -> bool:
        """Whether its objective says something."""
        return self.error is None and self.stopped is None and self.objective > search.UNKNOWN


@dataclass(frozen=True)
class Outcome:
    """A search's end, or how far it came.

    Attributes:
        folder: of the search.
        settings: what was searched.
        line: of work.
        trials: in the order in which they were begun.
    """

    folder: RunFolder
    settings: SearchSettings
    line: Line
    trials: Sequence[TrialResult]

    def ranking(self) -> list[TrialResult]:
        """Usable trials, best first; those that went furthest before those that ended early."""
        usable = [trial for trial in self.trials if trial.usable]
        return sorted(usable, key=lambda trial: (min(trial.step, trial.steps), trial.objective), reverse=True)

    def best(self) -> TrialResult | None:
        """The best trial; `None` if none is usable."""
        return next(iter(self.ranking()), None)

    @property
    def failed(self) -> int:
        """How many trials could not go on or lost their processes too often."""
        return sum(trial.error is not None or trial.stopped is not None for trial in self.trials)

    def write(self) -> None:
        """Writes `trials.json` and, once a trial is usable, `best.yaml` and `search.png` into the search's folder.

        Raises:
            UserError: they cannot be written.
        """
        rows = [
            {
                "trial": each.name,
                "point": dict(each.point),
                "step": each.step,
                "objective": each.objective,
                **each.means,
                "stopped": each.stopped,
                "error": each.error,
                "ended": each.ended,
            }
            for each in self.trials
        ]
        self.folder.write_text(RESULTS, json.dumps(rows, indent=2) + "\n")
        best = self.best()
        if best is None:
            return
        experiment = RunFolder.open(best.folder).experiment()
        fields = experiment.model_dump(mode="json") | {"name": None}
        head = f"# The best of {len(self.trials)} trials of the search {self.folder.name}: {self._said(best)}.\n"
        head += f"#   quadriga train {storage.join(self.folder.path, BEST)}\n\n"
        self.folder.write_text(BEST, head + experiments.dump_yaml(fields))
        picture = self.folder.local_path(PICTURE)
        if picture is not None:
            self.draw(picture)

    def draw(self, target: Path) -> None:
        """Draws parallel coordinates of all usable trials, and their learning curves.

        Raises:
            UserError: no trial is usable, or the file cannot be written.
        """
        from quadriga.platform import search_picture

        curves = {each.name: _curve(each, self.settings, self.line.step_metric) for each in self.ranking()}
        if not curves:
            raise UserError(f"search {self.folder.name!r}: no trial has a result to draw")
        search_picture.draw(self.settings, self.ranking(), curves, target)

    def _said(self, trial: TrialResult) -> str:
        from quadriga.platform.progress import number, words

        return ", ".join(f"{words(name)} {number(mean)}" for name, mean in trial.means.items())


def _curve(trial: TrialResult, settings: SearchSettings, step_metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of the objective's metric."""
    try:
        rows = RunFolder.open(trial.folder).metrics.read().to_pydict()
    except UserError:
        return [], []
    pairs = zip(rows.get(step_metric, []), rows.get(settings.objective.metric, []), strict=False)
    kept = [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]
