"""One trial of a search: any line's trainer under Ray Tune.

A trial keeps a run folder of its own (experiment, provenance, metrics), so it is drawn and read as any
run is; its checkpoints are Tune's, which hands them on where a scheduler wants that. What varies,
and what is good, `search` knows.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quadriga.platform import provenance, run_folder, search
from quadriga.platform.errors import StorageFailed, UserError, WorkersLost, one_line
from quadriga.platform.lines import Trainer, line_of
from quadriga.platform.metrics import MetricsSink
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.search import SearchSettings
from quadriga.platform.writer_lock import FolderTaken

logger = logging.getLogger("quadriga")

OBJECTIVE, STEP, STOPPED, POINT = "objective", "step", "stopped", "point"
LENGTHS = "lengths"
"""How far a trial under HyperBand is, in units of the shortest trial."""

STATE, TRAINER = "trial.json", "trainer"
ENDING_S = 10.0
"""How long a trial waits for the process of its earlier attempt to end."""


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a search share.

    Attributes:
        fields: the experiment that points change.
        search: what varies and what is good.
        trials_dir: folder or URI of the trials' run folders.
    """

    fields: Mapping[str, Any]
    search: SearchSettings
    trials_dir: str


def point_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The search point in what Tune hands to a trial."""
    return dict(config.get(POINT, config))


def run_trial(config: Mapping[str, Any], settings: TrialSettings) -> None:
    """Trains the experiment of a point from its beginning, or from the checkpoint that Tune gives, to its end.

    What a user could put right (a NaN, an environment that fails) ends the trial with the objective
    `UNKNOWN`; anything else is raised, workers that are lost for good and storage that fails too, and Tune
    tries again.
    """
    from ray import tune

    name = tune.get_context().get_trial_name()
    trial = _Trial(settings, point_of(config), str(name))
    with _after_its_predecessor(trial.folder):
        try:
            trial.run()
        except (WorkersLost, StorageFailed):
            raise
        except UserError as error:
            tune.report({**trial.report(), OBJECTIVE: search.UNKNOWN, STOPPED: one_line(error)})
        finally:
            trial.close()


@contextlib.contextmanager
def _after_its_predecessor(folder: RunFolder) -> Iterator[None]:
    """Holds the run. Tune runs a trial once at a time: who holds it for long is on a node that was lost, and frozen."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder.writing(wait=ENDING_S))
        except FolderTaken as error:
            logger.warning("%s and does not end; the trial goes on without it", error)
        yield


class _Trial:
    def __init__(self, settings: TrialSettings, point: Mapping[str, Any], name: str) -> None:
        self._search = settings.search
        fields = {**settings.fields, "name": name}
        self._experiment = search.experiment_at(fields, point)
        self._line = line_of(self._experiment)
        self.folder = RunFolder.claim(settings.trials_dir, name)
        self._rows: list[dict[str, float]] = []
        self._iteration, self._step, self._wall_time_s = 0, 0, 0.0
        self._trainer: Trainer | None = None
        self._sink: MetricsSink | None = None

    def run(self) -> None:
        from ray import tune

        self.folder.write_text(run_folder.EXPERIMENT, self._experiment.to_yaml())
        self.folder.write_text(
            run_folder.PROVENANCE, json.dumps(provenance.collect(self._experiment.seed, ["quadriga", "tune"]), indent=2)
        )
        self._trainer = self._line.make_trainer(self._experiment)
        checkpoint = tune.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                self._restore(Path(folder))
        self.folder.metrics.truncate(self._line.step_metric, self._step)
        self._sink = MetricsSink(self.folder, self._line.step_metric)
        if self._step >= self._experiment.steps:  # its last report was lost with the process that made it
            self._report()
        began = time.monotonic() - self._wall_time_s
        while self._step < self._experiment.steps:
            metrics = self._trainer.train_iteration()
            self._iteration += 1
            self._step = int(metrics[self._line.step_metric])
            self._wall_time_s = time.monotonic() - began
            row = {"iteration": self._iteration, **metrics, "wall_time_s": self._wall_time_s}
            self._rows = self._search.objective.needed([*self._rows, row])
            self._sink.log(row)
            self._report()

    def report(self) -> dict[str, Any]:
        """What Tune is told of the trial now."""
        means = {name: mean for name, mean in self._search.objective.means(self._rows).items() if not math.isnan(mean)}
        told = {STEP: self._step, OBJECTIVE: self._search.objective.value(self._rows), **means}
        if self._search.scheduler.kind == "hyperband":
            steps = self._experiment.steps
            told[LENGTHS] = self._step * self._search.scheduler.lengths(steps) / steps
        return told

    def close(self) -> None:
        """Ends the trial's processes and writes what is not written yet."""
        if self._trainer is not None:
            self._trainer.stop()
        if self._sink is not None:
            self._sink.close()

    def _report(self) -> None:
        from ray import tune

        every = 1 if self._search.scheduler.kind in search.PAUSING else self._experiment.checkpoint.every_iterations
        if self._iteration % every and self._step < self._experiment.steps:
            tune.report(self.report())
            return
        assert self._sink is not None
        self._sink.flush()
        with tempfile.TemporaryDirectory(prefix="quadriga-trial-") as folder:
            self._save(Path(folder))
            tune.report(self.report(), checkpoint=tune.Checkpoint.from_directory(folder))

    def _save(self, folder: Path) -> None:
        assert self._trainer is not None
        (folder / TRAINER).mkdir()
        self._trainer.save(folder / TRAINER)
        state = {
            "iteration": self._iteration,
            "step": self._step,
            "wall_time_s": self._wall_time_s,
            "rows": self._rows,
        }
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")

    def _restore(self, folder: Path) -> None:
        assert self._trainer is not None
        self._trainer.restore(folder / TRAINER)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self._iteration, self._step = state["iteration"], state["step"]
        self._wall_time_s, self._rows = state["wall_time_s"], state["rows"]
