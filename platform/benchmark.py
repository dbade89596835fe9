"""A benchmark's trials on Ray: as many at once as the cluster's CPUs hold, each an ordinary run folder.

    runs/<name>/trials/<variant>-<task>-seed<n>/   run folders, to resume, plot and evaluate like any other
                trials.json                        what was tried how often, and what went wrong

Trials are Ray tasks, each in a placement group of the CPUs that its run occupies (driver, runners,
learners), so that a trial that starts can finish. Not Tune's trials: a run keeps its own checkpoints
and metrics, and Tune would keep them once more, in an experiment that takes no further seeds
or algorithms afterwards. Here a second call, for the same grid or a larger one, goes on from what lies in the
folder: finished trials stay, others continue from their newest checkpoint.

Declarations are in `suites`, tables and pictures in `benchmark_report`.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quadriga.platform import experiment as experiments
from quadriga.platform import lines, storage, training
from quadriga.platform.errors import TrainingInterrupted, UserError, one_line, unknown
from quadriga.platform.experiment import Experiment
from quadriga.platform.interrupts import Interrupts
from quadriga.platform.lines import Line
from quadriga.platform.run_folder import RunFolder, list_runs
from quadriga.platform.runtime import ensure_ray
from quadriga.platform.suites import Benchmark, Suite

TRIALS = "trials"
RECORDS = "trials.json"
POLL_S = 1.0


@dataclass(frozen=True)
class Trial:
    """A variant on a task with a seed, and the experiment that this makes."""

    variant: str
    task: str
    experiment: Experiment

    @property
    def name(self) -> str:
        """Of its run folder."""
        return trial_name(self.variant, self.task, self.experiment.seed)


@dataclass
class Record:
    """What became of a trial so far; `error` and `traceback` are the last attempt's, empty if it went well."""

    variant: str
    task: str
    seed: int
    attempts: int = 0
    error: str = ""
    traceback: str = ""


def trial_name(variant: str, task: str, seed: int) -> str:
    """The name of a trial's run folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{variant}-{task}-seed{seed}").lstrip("._+-")


def find_benchmark(name: str) -> tuple[Line, Benchmark]:
    """The benchmark `name` and its line of work.

    Raises:
        UserError: no line has it; names the nearest.
    """
    for line in lines.all_lines().values():
        if name in line.benchmarks:
            return line, line.benchmarks[name]
    choices = [name for line in lines.all_lines().values() for name in line.benchmarks]
    raise unknown("benchmark", name, choices, listing="quadriga list benchmarks")


def choose_variants(line: Line, suite: Suite, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The variants of `names`: the suite's, presets of the line, or experiment files; all of the suite's for none.

    Raises:
        UserError: a name is none of these, or a file is no mapping of fields.
    """
    chosen: dict[str, Mapping[str, Any]] = {}
    for name in names or suite.variants:
        if name in suite.variants:
            chosen[name] = suite.variants[name]
        elif name.endswith((".yaml", ".yml")):
            fields = experiments.load(name).model_dump(mode="json", exclude={"name", "seed", "steps"})
            chosen[Path(name).stem] = fields
        elif name in line.presets:
            chosen[name] = {"preset": name}
        else:
            raise unknown("algorithm of the benchmark", name, [*suite.variants, *line.presets])
    return chosen


def grid(
    line: Line,
    benchmark: Benchmark,
    variants: Mapping[str, Mapping[str, Any]],
    tasks: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    overrides: Mapping[str, Any] | None = None,
) -> list[Trial]:
    """Every variant on every task with every seed, seed by seed, so that an unfinished grid compares what it has.

    Raises:
        UserError: an experiment is not valid, or its line refuses it (an unknown environment, a missing package).
    """
    trials = []
    for seed in seeds:
        for task in tasks:
            for label, variant in variants.items():
                fields = line.normalise(line.normalise(benchmark.fields(task), variant), overrides or {})
                name = trial_name(label, task, seed)
                experiment = experiments.build(fields | {"name": name, "seed": seed, "steps": steps}, where=label)
                if seed == seeds[0]:
                    line.check(experiment)
                if getattr(getattr(experiment, "learner", None), "gpus_per_learner", 0):
                    raise UserError(f"{label}: learner.gpus_per_learner: expected 0, since trials share CPUs only")
                trials.append(Trial(label, task, experiment))
    return trials


def read_records(folder: str) -> dict[str, Record]:
    """What `trials.json` in a benchmark's folder (or URI) says, by trial; nothing if there is none.

    Raises:
        UserError: it is damaged or cannot be read.
    """
    filesystem, root = storage.resolve(folder)
    try:
        data = json.loads(storage.read(filesystem, storage.join(root, RECORDS)))
        return {name: Record(**fields) for name, fields in data.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{storage.join(folder, RECORDS)} is damaged: {one_line(error)}; move it away") from None
    except OSError as error:
        raise UserError(f"cannot read {storage.join(folder, RECORDS)}: {storage.reason(error)}") from error


def is_finished(run: RunFolder, steps: int) -> bool:
    """Whether the run's newest checkpoint stands at its end."""
    checkpoint = run.checkpoints.latest()
    return checkpoint is not None and checkpoint.step >= steps


class Session:
    """One call's part of a benchmark.

    Args:
        folder: the benchmark's folder or URI; made if it is not there.
        trials: of the grid; those whose run is finished already are left alone.
        say: takes a line of progress.

    Raises:
        UserError: a trial's run folder holds another experiment.
    """

    def __init__(self, folder: str, trials: Sequence[Trial], say: Callable[[str], None] = print) -> None:
        self.folder = folder if storage.is_uri(folder) else str(Path(folder).expanduser().absolute())
        self.runs_dir = storage.join(self.folder, TRIALS)
        self.trials, self._say = list(trials), say
        self.records = read_records(self.folder)
        begun = {name: RunFolder.open(storage.join(self.runs_dir, name)) for name in list_runs(self.runs_dir)}
        self.open: list[Trial] = []
        for trial in self.trials:
            run = begun.get(trial.name)
            if run is not None:
                _require_same(run, trial.experiment)
            if run is None or not is_finished(run, trial.experiment.steps):
                self.open.append(trial)
            self.records.setdefault(trial.name, Record(trial.variant, trial.task, trial.experiment.seed))

    def run(
        self,
        *,
        address: str | None = None,
        concurrent: int | None = None,
        retries: int = 1,
        worker_output: bool = False,
    ) -> list[Trial]:
        """Runs what is open; returns the trials that failed for good.

        Args:
            address: the Ray cluster to join; by default that of `RAY_ADDRESS`, else a local Ray is started.
            concurrent: trials at once at most; by default as many as the cluster's CPUs hold.
            retries: further attempts of a trial that fails, each from its newest checkpoint.
            worker_output: shows what Ray and its workers print.

        Raises:
            UserError: the cluster cannot be joined, or no node of it holds a trial.
            TrainingInterrupted: SIGINT or SIGTERM; the trials under way have saved a checkpoint.
        """
        self._write_records()
        if not self.open:
            return []
        slots = max(_slots(trial) for trial in self.open)
        with Interrupts() as interrupts:
            cluster = ensure_ray(address, slots * (concurrent or 1), worker_output=worker_output)
            interrupts.install()  # Ray has put its own handler of SIGTERM in place
            self._require_room(slots, concurrent)
            limit = concurrent or max(1, int(cluster.cpus // slots))
            self._say(f"{len(self.open)} of {len(self.trials)} trials to run, up to {limit} at once, on {cluster}")
            try:
                with interrupts.deferred():
                    failed = self._run(limit, retries, interrupts)
            except KeyboardInterrupt:
                raise self._interrupted(interrupts) from None
        return failed

    def _run(self, limit: int, retries: int, interrupts: Interrupts) -> list[Trial]:
        import ray

        waiting, failed = deque(self.open), []
        attempts = dict.fromkeys((trial.name for trial in self.open), 0)
        running: dict[Any, tuple[Trial, Any]] = {}
        cancelled = False
        try:
            while running or (waiting and not cancelled):
                while waiting and len(running) < limit and not cancelled:
                    trial = waiting.popleft()
                    attempts[trial.name] += 1
                    reference, group = _start(trial, self.runs_dir)
                    running[reference] = trial, group
                done, _ = ray.wait(list(running), timeout=POLL_S)
                for reference in done:
                    trial, group = running.pop(reference)
                    problem = _result(reference)
                    ray.util.remove_placement_group(group)
                    if cancelled:
                        continue
                    self._note(trial, problem)
                    if problem is not None and attempts[trial.name] <= retries:
                        waiting.append(trial)
                    elif problem is not None:
                        failed.append(trial)
                if interrupts.received is not None and not cancelled:
                    cancelled = True
                    for reference in running:
                        ray.cancel(reference)
        finally:
            for _, group in running.values():
                ray.util.remove_placement_group(group)
        if cancelled:
            raise self._interrupted(interrupts)
        return failed

    def _note(self, trial: Trial, problem: tuple[str, str] | None) -> None:
        record = self.records[trial.name]
        record.attempts += 1
        record.error, record.traceback = problem or ("", "")
        self._write_records()
        self._say(f"  {trial.name}: " + (f"failed: {record.error}" if problem else "finished"))

    def _write_records(self) -> None:
        filesystem, root = storage.resolve(self.folder)
        text = json.dumps({name: vars(record) for name, record in self.records.items()}, indent=1) + "\n"
        try:
            storage.write(filesystem, storage.join(root, RECORDS), text.encode())
        except OSError as error:
            raise UserError(f"cannot write {storage.join(self.folder, RECORDS)}: {storage.reason(error)}") from error

    def _require_room(self, slots: int, concurrent: int | None) -> None:
        """A group that no node can ever hold would wait for ever."""
        import ray

        largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        if slots > largest:
            raise UserError(
                f"a trial occupies {slots} CPU slots (driver, runners, learners), and the largest node has {largest:g}"
            )

    def _interrupted(self, interrupts: Interrupts) -> TrainingInterrupted:
        left = sum(not self._is_finished(trial) for trial in self.open)
        return TrainingInterrupted(
            interrupts.received or 2, f"stopped; {left} trials are left: the same command goes on with them"
        )

    def _is_finished(self, trial: Trial) -> bool:
        run = storage.join(self.runs_dir, trial.name)
        return trial.name in list_runs(self.runs_dir) and is_finished(RunFolder.open(run), trial.experiment.steps)


def _slots(trial: Trial) -> int:
    return max(1, lines.line_of(trial.experiment).cpus(trial.experiment))


def _require_same(run: RunFolder, experiment: Experiment) -> None:
    """A trial goes on as it was begun; only longer."""
    known = run.experiment()
    before, now = (
        each.model_dump(mode="json", exclude={"name", "steps", "checkpoint"}) for each in (known, experiment)
    )
    if before != now:
        flat, other = experiments.flattened(before), experiments.flattened(now)
        differing = [key for key in {**flat, **other} if flat.get(key) != other.get(key)]
        said = ", ".join(f"{key}: {flat.get(key)} there, {other.get(key)} now" for key in sorted(differing)[:3])
        raise UserError(f"{run.path} was begun with other settings ({said}); give another --name")
    if known.steps > experiment.steps:
        raise UserError(
            f"{run.path} was begun with {known.steps:,} steps, more than {experiment.steps:,}; ask for as many, "
            "or give another --name"
        )


def _start(trial: Trial, runs_dir: str) -> tuple[Any, Any]:
    """The reference of the trial's task and its placement group; Ray begins it when the group has its CPUs."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"CPU": _slots(trial)}])
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    # A process of its own for each trial: nothing of one is left for the next.
    task = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(train_or_continue)
    fields = trial.experiment.model_dump(mode="json")
    return task.options(scheduling_strategy=strategy, name=trial.name).remote(fields, runs_dir, sys.argv), group


def _result(reference: Any) -> tuple[str, str] | None:
    import ray

    try:
        problem: tuple[str, str] | None = ray.get(reference)
        return problem
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {one_line(error).split('. ')[0]}", traceback.format_exc()


def train_or_continue(fields: Mapping[str, Any], runs_dir: str, argv: Sequence[str]) -> tuple[str, str] | None:
    """Trains the experiment of `fields` in `runs_dir`, from its newest checkpoint if it has one.

    Args:
        fields: of the experiment, its name among them.
        runs_dir: folder or URI of the trials.
        argv: the command, for the run's provenance.

    Returns:
        `None` if it reached its end, else one line that says why not, and a traceback (empty for an error of the user).
    """
    sys.argv = list(argv)
    try:
        experiment = experiments.build(fields)
        assert experiment.name is not None
        if experiment.name in list_runs(runs_dir):
            run = RunFolder.open(storage.join(runs_dir, experiment.name))
            if is_finished(run, experiment.steps):
                return None
            if run.checkpoints.latest() is not None:
                training.resume(experiment.name, steps=experiment.steps, runs_dir=runs_dir, progress="quiet")
                return None
            run.remove()  # it ended before its first checkpoint
        training.train(experiment, runs_dir=runs_dir, progress="quiet")
    except (UserError, TrainingInterrupted) as error:
        return one_line(error), ""
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)}", traceback.format_exc()
    return None
