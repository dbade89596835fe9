"""A benchmark's trials on Ray: as many at once as the cluster's CPUs hold, each an ordinary run folder.

    runs/<name>/trials/<variant>-<task>-seed<n>/   run folders, to resume, plot and evaluate like any other
                trials.json                        what was tried how often, and what went wrong

Trials are Ray tasks (`benchmark_trial`), not Tune's trials: a run keeps its own checkpoints
and metrics, and Tune would keep them once more, in an experiment that takes no further seeds
or algorithms afterwards. Here a second call, for the same grid or a larger one, goes on from what lies in the
folder: finished trials stay, others continue from their newest checkpoint.

Declarations are in `suites`, tables and pictures in `benchmark_report`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quadriga.platform import experiment as experiments
from quadriga.platform import lines, occupancy, storage
from quadriga.platform.benchmark_trial import Trial, is_finished, outcome, require_same, start, trial_name
from quadriga.platform.errors import TrainingInterrupted, UserError, one_line, unknown
from quadriga.platform.interrupts import Interrupts
from quadriga.platform.lines import Line
from quadriga.platform.run_folder import RunFolder, list_runs
from quadriga.platform.runtime import ensure_ray
from quadriga.platform.suites import Benchmark, Suite
from quadriga.platform.writer_lock import writing

TRIALS = "trials"
RECORDS = "trials.json"
OF_A_TRIAL = ("name", "seed", "steps")
"""Fields of an experiment file that the grid gives."""
POLL_S = 1.0


@dataclass
class Record:
    """What became of a trial so far; `error` and `traceback` are the last attempt's, empty if it went well."""

    variant: str
    task: str
    seed: int
    attempts: int = 0
    error: str = ""
    traceback: str = ""


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
            fields = experiments.read_experiment(name)
            chosen[Path(name).stem] = {key: value for key, value in fields.items() if key not in OF_A_TRIAL}
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

    A variant changes no field by which `benchmark` makes an experiment one of a task; `overrides` may.

    Raises:
        UserError: an experiment is not valid, or its line refuses it (an unknown environment, a missing package).
    """
    trials = []
    for seed in seeds:
        for task in tasks:
            for label, variant in variants.items():
                fields = line.normalise(benchmark.fields(task), variant)
                fields = line.normalise(fields, benchmark.fields(task))  # a file has an environment of its own
                fields = line.normalise(fields, overrides or {})
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
                require_same(run, trial.experiment)
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
            UserError: the cluster cannot be joined or holds no trial, or another process runs the benchmark.
            TrainingInterrupted: SIGINT or SIGTERM; the trials under way have saved a checkpoint.
        """
        with self._alone():
            self._write_records()
            if not self.open:
                return []
            return self._run_on_ray(address, concurrent, retries, worker_output)

    def _alone(self) -> AbstractContextManager[None]:
        """Keeps others from running the same benchmark meanwhile, if it is in a local folder."""
        parent, _, name = self.folder.rpartition("/")
        folder = RunFolder.claim(parent or "/", name)
        return writing(folder.local_path(""), f"benchmark {self.folder!r} is being run")

    def _run_on_ray(
        self, address: str | None, concurrent: int | None, retries: int, worker_output: bool
    ) -> list[Trial]:
        slots = max(trial.slots for trial in self.open)
        with Interrupts() as interrupts:
            cluster = ensure_ray(address, slots * (concurrent or 1), worker_output=worker_output)
            interrupts.install()  # Ray has put its own handler of SIGTERM in place
            self._require_room()
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
                    reference, group = start(trial, self.runs_dir)
                    running[reference] = trial, group
                done, _ = ray.wait(list(running), timeout=POLL_S)
                for reference in done:
                    trial, group = running.pop(reference)
                    problem = outcome(reference)
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

    def _require_room(self) -> None:
        """A group that the nodes can never hold would wait for ever."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for trial in self.open:
            if not occupancy.may_fit(occupancy.bundles(trial.experiment), nodes):
                cpus = ", ".join(f"{node.get('CPU', 0):g}" for node in nodes)
                raise UserError(
                    f"{trial.name} occupies {trial.slots} CPU slots at once (driver, runners, learners), for which the "
                    f"cluster has no room; its nodes have {cpus}"
                )

    def _interrupted(self, interrupts: Interrupts) -> TrainingInterrupted:
        left = sum(not self._is_finished(trial) for trial in self.open)
        return TrainingInterrupted(
            interrupts.received or 2, f"stopped; {left} trials are left: the same command goes on with them"
        )

    def _is_finished(self, trial: Trial) -> bool:
        run = storage.join(self.runs_dir, trial.name)
        return trial.name in list_runs(self.runs_dir) and is_finished(RunFolder.open(run), trial.experiment.steps)
