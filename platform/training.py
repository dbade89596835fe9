"""The training driver: runs a line's trainer from the first iteration to the last, whatever happens in between.

It keeps the run folder (experiment, provenance, metrics, checkpoints), shows progress, stops
cleanly on a signal and continues a run where its newest whole checkpoint stands. What an iteration
does is the trainer's business.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quadriga.platform import experiment as experiments
from quadriga.platform import provenance, run_folder, storage
from quadriga.platform.errors import TrainingInterrupted, TrainingStopped, UserError, one_line
from quadriga.platform.experiment import Experiment
from quadriga.platform.interrupts import Interrupts
from quadriga.platform.lines import Line, Trainer, line_of
from quadriga.platform.metrics import MetricsSink
from quadriga.platform.placement import warn_if_full
from quadriga.platform.progress import Progress, RunInfo, make_progress, words
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.runtime import ensure_ray

if TYPE_CHECKING:
    from quadriga.platform.checkpoints import Checkpoint

DRIVER_STATE = "driver.json"


def train(
    experiment: Experiment,
    *,
    runs_dir: str = "runs",
    folder: RunFolder | None = None,
    progress: str = "auto",
    address: str | None = None,
    dashboard: bool = False,
    worker_output: bool = False,
) -> RunFolder:
    """Trains `experiment` in a new run folder.

    Args:
        experiment: what to train.
        runs_dir: folder or URI that gets the run folder.
        folder: one to train in, which holds no run yet, instead of a new one of `runs_dir`.
        progress: `auto`, `live`, `plain`, `json` or `quiet`.
        address: the Ray cluster to join; by default that of `RAY_ADDRESS`, else a local Ray is started.
        dashboard: a local Ray serves its dashboard.
        worker_output: shows what Ray and its workers print.

    Raises:
        UserError: something that the user can put right; if nothing was trained yet, no run folder is left.
        TrainingStopped: training could not go on; the last checkpoint stands.
        TrainingInterrupted: SIGINT or SIGTERM; a checkpoint was saved, unless a second signal came.
    """
    display = make_progress(progress)
    line_of(experiment).check(experiment)
    run = folder or RunFolder.create(runs_dir, experiment.name or run_name(experiment))
    with run.writing():
        try:
            run.write_text(run_folder.EXPERIMENT, experiment.to_yaml())
            run.write_text(run_folder.PROVENANCE, _json(provenance.collect(experiment.seed, sys.argv)))
            session = _Session(experiment, run, handle(run), display)
            session.run(None, address, dashboard=dashboard, worker_output=worker_output)
        except BaseException:
            # A run that never began (unknown environment, no Ray) leaves nothing that looks like one.
            with contextlib.suppress(UserError):
                if not run.exists(run_folder.METRICS) and not run.exists(run_folder.CHECKPOINTS):
                    run.remove()
            raise
    return run


def resume(
    run: str,
    *,
    steps: int | None = None,
    runs_dir: str = "runs",
    progress: str = "auto",
    address: str | None = None,
    dashboard: bool = False,
    worker_output: bool = False,
) -> RunFolder:
    """Continues a run from its newest whole checkpoint, as if it had never stopped.

    Metrics that were logged after that checkpoint are dropped, for they are made again.

    Args:
        run: name in `runs_dir`, path or URI of the run.
        steps: new length of the whole run; by default what its experiment says.
        runs_dir: folder or URI that holds the run.
        progress: as in `train`, like all that follow.
        address: the Ray cluster to join.
        dashboard: a local Ray serves its dashboard.
        worker_output: shows what Ray and its workers print.

    Raises:
        UserError: no such run, no checkpoint in it, nothing left to do, or another process trains it.
        TrainingStopped: as `train`.
        TrainingInterrupted: as `train`.
    """
    display = make_progress(progress)
    opened = RunFolder.open(run, runs_dir)
    with opened.writing():
        checkpoint, experiment = _where_it_stands(opened, steps)
        session = _Session(experiment, opened, handle(opened), display)
        session.run(checkpoint, address, dashboard=dashboard, worker_output=worker_output)
    return opened


def _where_it_stands(run: RunFolder, steps: int | None) -> tuple[Checkpoint, Experiment]:
    """The checkpoint that a run goes on from, and its experiment, `steps` long if that is given."""
    experiment = run.experiment()
    if steps is not None:
        experiment = experiments.build({**experiment.model_dump(mode="json"), "steps": steps})
    checkpoint = run.checkpoints.latest()
    if checkpoint is None:
        raise UserError(f"run {run.path!r} has no whole checkpoint to resume from; train it anew")
    unit = words(line_of(experiment).step_metric)
    if checkpoint.step >= experiment.steps:
        raise UserError(
            f"run {run.path!r} has done {checkpoint.step:,} of {experiment.steps:,} {unit}; to go on, give a larger "
            f"total: quadriga train --resume {handle(run)} --steps {_further(checkpoint.step, experiment)}"
        )
    return checkpoint, experiment


def run_name(experiment: Experiment) -> str:
    """The name of a run that was given none: algorithm, task and seed."""
    name = f"{experiment.preset}-{line_of(experiment).task(experiment)}-seed{experiment.seed}"
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).lstrip("._+-")


def handle(run: RunFolder) -> str:
    """The run as a command takes it: by name in the default folder, else by path."""
    return shlex.quote(run.name if run.path == storage.join("runs", run.name) else run.path)


class _Session:
    """One process's part of a run: from a fresh start or a checkpoint to the end or a signal."""

    def __init__(self, experiment: Experiment, run: RunFolder, name: str, progress: Progress) -> None:
        self._experiment, self._run, self._name, self._progress = experiment, run, name, progress
        self._line: Line = line_of(experiment)
        self._step = 0
        self._iteration = 0
        self._wall_time_before = 0.0
        self._saved: int | None = None

    def run(self, checkpoint: Checkpoint | None, address: str | None, *, dashboard: bool, worker_output: bool) -> None:
        """Trains from the checkpoint, or the beginning, to the experiment's last step."""
        if checkpoint is not None:
            self._step = self._saved = checkpoint.step
        trainer: Trainer | None = None
        with Interrupts() as interrupts:
            try:
                self._progress.start(self._info())
                if slots := self._line.cpus(self._experiment):
                    cluster = ensure_ray(address, slots, dashboard=dashboard, worker_output=worker_output)
                    self._progress.note(f"  runs on     {cluster}")
                    if not cluster.started:
                        warn_if_full(self._line.actor_slots(self._experiment))
                interrupts.install()  # Ray has put its own handler of SIGTERM in place
                trainer = self._line.make_trainer(self._experiment)
                if checkpoint is not None:
                    self._restore(trainer, checkpoint)
                interrupts.install()
                self._train(trainer, interrupts)
            except KeyboardInterrupt:
                raise self._interrupted(interrupts.received or signal.SIGINT, at_once=True) from None
            except SystemExit as ended:
                if ended.code != signal.SIGTERM:
                    raise
                raise self._interrupted(signal.SIGTERM, at_once=True) from None  # Ray's handler, while it starts
            finally:
                self._progress.close()
                if trainer is not None:
                    trainer.stop()

    def _train(self, trainer: Trainer, interrupts: Interrupts) -> None:
        sink = MetricsSink(self._run, self._line.step_metric)
        row: Mapping[str, Any] = {}
        began = time.monotonic()
        self._progress.begin()
        try:
            with interrupts.deferred():
                while self._step < self._experiment.steps:
                    row = self._iterate(trainer, began)
                    sink.log(row)
                    self._progress.iteration(row)
                    last = self._step >= self._experiment.steps
                    stop = interrupts.received is not None
                    if last or stop or self._iteration % self._experiment.checkpoint.every_iterations == 0:
                        sink.flush()
                        self._save(trainer, row)
                    if stop and not last:
                        raise self._interrupted(interrupts.received or signal.SIGINT, at_once=False)
        finally:
            sink.close()
        self._progress.finish(row, float(row["wall_time_s"]), self._commands())

    def _iterate(self, trainer: Trainer, began: float) -> dict[str, Any]:
        try:
            metrics = trainer.train_iteration()
        except UserError as error:
            raise self._stopped(error) from error
        self._iteration += 1
        self._step = int(metrics[self._line.step_metric])
        wall_time_s = self._wall_time_before + time.monotonic() - began
        return {"iteration": self._iteration, **metrics, "wall_time_s": wall_time_s}

    def _save(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        def write(folder: Path) -> None:
            trainer.save(folder)
            state = {"iteration": self._iteration, "wall_time_s": row["wall_time_s"]}
            (folder / DRIVER_STATE).write_text(_json(state), encoding="utf-8")

        self._run.checkpoints.save(self._step, write, score=trainer.score(row))
        self._saved = self._step

    def _restore(self, trainer: Trainer, checkpoint: Checkpoint) -> None:
        with checkpoint.local() as folder:
            trainer.restore(folder)
            state = json.loads((folder / DRIVER_STATE).read_text(encoding="utf-8"))
        self._iteration, self._wall_time_before = state["iteration"], state["wall_time_s"]
        self._run.metrics.truncate(self._line.step_metric, checkpoint.step)
        self._run.write_text(run_folder.EXPERIMENT, self._experiment.to_yaml())
        history = json.loads(self._run.read_text(run_folder.PROVENANCE))
        session = {"step": checkpoint.step, **provenance.collect(self._experiment.seed, sys.argv)}
        history["resumed"] = [*history.get("resumed", []), session]
        self._run.write_text(run_folder.PROVENANCE, _json(history))

    def _info(self) -> RunInfo:
        return RunInfo(
            version=provenance.package_version("quadriga") or "",
            preset=self._experiment.preset,
            task=self._line.task(self._experiment),
            seed=self._experiment.seed,
            path=self._run.path,
            start=self._step,
            total=self._experiment.steps,
            unit=self._line.step_metric,
            headline=self._line.headline,
        )

    def _commands(self) -> list[str]:
        return [
            f"quadriga plot {self._name}",
            f"quadriga evaluate {self._name}",
            *(each.format(run=self._name, name=self._run.name) for each in self._line.afterwards),
            f"quadriga train --resume {self._name} --steps {_further(self._step, self._experiment)}",
        ]

    def _stopped(self, error: UserError) -> TrainingStopped:
        unit = words(self._line.step_metric)
        stands = "no checkpoint was saved before"
        if self._saved is not None:
            stands = f"the last good checkpoint is that of step {self._saved:,} in {self._run.path}"
        return TrainingStopped(f"training stopped after {self._step:,} {unit}: {one_line(error)}; {stands}")

    def _interrupted(self, signum: int, *, at_once: bool) -> TrainingInterrupted:
        how = signal.Signals(signum).name
        if self._saved is None:
            return TrainingInterrupted(signum, f"stopped by {how} before the first checkpoint; nothing to resume")
        unit = words(self._line.step_metric)
        what = f"the last checkpoint is that of step {self._saved:,}" if at_once else "a checkpoint is saved"
        return TrainingInterrupted(
            signum,
            f"stopped by {how} after {self._step:,} of {self._experiment.steps:,} {unit}; {what}; "
            f"resume: quadriga train --resume {self._name}",
        )


def _further(done: int, experiment: Experiment) -> int:
    """A round length to suggest for going on: twice the one asked for, if that is not done already."""
    return 2 * (experiment.steps if 2 * experiment.steps > done else done)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
