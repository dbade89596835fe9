"""Judges a file of samples: streams them through a pool, writes results in order, adds up pass@k.

Knows files and order; how a sample is run is the pool's business, how a result is shown the
command's. Memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quadriga.codegen import estimators, results
from quadriga.codegen.pool import Pool, calibrated
from quadriga.codegen.problems import Problem
from quadriga.codegen.results import Conditions, ResultsFile
from quadriga.codegen.samples import Sample, count_samples, read_samples
from quadriga.codegen.sandbox.limits import KINDS, Isolation, Limits, Mode, Verdict
from quadriga.codegen.sandbox.supervisor import Job, oversized
from quadriga.platform.errors import UserError

REMEMBERED = 100_000
MOST_OPEN = 10_000


@dataclass(frozen=True)
class Plan:
    """A run that has been looked at and can begin.

    Attributes:
        samples: file or folder.
        problems: by task id.
        counts: samples by task.
        ks: for pass@k.
        left_out: those of them that are larger than the samples of some problem.
        missing: problems without a sample.
    """

    samples: Path
    problems: Mapping[str, Problem]
    counts: Mapping[str, int]
    ks: tuple[int, ...]
    left_out: tuple[int, ...]
    missing: int

    @property
    def total(self) -> int:
        """Samples."""
        return sum(self.counts.values())


@dataclass
class Summary:
    """What came out.

    Attributes:
        pass_at_k: by k.
        verdicts: samples by verdict.
        samples: how many.
        problems: how many have one.
        missing: how many have none; more than none is a partial run.
        resumed: samples that were judged by an earlier run.
        repeated: samples that equal another one and were not run again.
        isolation: of the sandbox.
        conditions: of the run, in words.
    """

    isolation: Isolation
    conditions: str
    missing: int
    samples: int = 0
    resumed: int = 0
    repeated: int = 0
    problems: int = 0
    pass_at_k: dict[int, estimators.PassAtK] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)

    def left_out(self, ks: Sequence[int]) -> str:
        """Which of `ks` have no estimate, and why, for a warning; empty if none."""
        missing = ", ".join(str(k) for k in ks if k not in self.pass_at_k)
        return f"k = {missing} left out: more than the judged samples of some problem" if missing else ""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "pass_at_k": {str(k): value.estimate for k, value in self.pass_at_k.items()},
            "intervals": {str(k): [value.low, value.high] for k, value in self.pass_at_k.items()},
            "verdicts": {kind: self.verdicts[kind] for kind in KINDS},
            "samples": self.samples,
            "problems": self.problems,
            "partial": self.missing > 0,
            "resumed": self.resumed,
            "repeated": self.repeated,
            "tier": self.isolation.tier,
            "isolation": str(self.isolation),
            "conditions": self.conditions,
        }


def plan(samples: Path, problems: Mapping[str, Problem], ks: Sequence[int], *, partial: bool) -> Plan:
    """Reads all samples once, so that what is wrong with them is said before anything is run.

    Raises:
        UserError: something is wrong with a line, a `k` is below 1, or problems lack samples without `partial`.
    """
    for k in ks:
        if k < 1:
            raise UserError(f"--k: expected 1 or more, got {k}")
    counts = count_samples(samples, problems)
    missing = [task for task in problems if task not in counts]
    if missing and not partial:
        raise UserError(
            f"{samples}: {len(missing):,} of {len(problems):,} problems have no sample, {missing[0]!r} the first; "
            "--partial judges the others and says so in the result"
        )
    fewest = min(counts.values())
    kept = tuple(sorted({k for k in ks if k <= fewest}))
    return Plan(samples, problems, counts, kept, tuple(sorted({k for k in ks if k > fewest})), len(missing))


def execute(
    work: Plan,
    pool: Pool,
    out: Path,
    *,
    mode: Mode,
    limits: Limits,
    calibrate: float | None = None,
    progress: Callable[[int, Counter[str]], None] = lambda done, verdicts: None,
) -> Summary:
    """Judges all samples and appends what is not there yet to `out`.

    Args:
        work: from `plan`.
        pool: runs them, with this `mode` and these `limits`.
        out: the file of results.
        mode: where tests run.
        limits: of a sample.
        calibrate: at least this many times what the canonical solution takes here, as wall limit.
        progress: is told how many samples are done, and their verdicts.

    Raises:
        UserError: `out` holds results of other samples or conditions, or cannot be written.
    """
    conditions = Conditions.of(pool.isolation, mode, limits, calibrate)
    summary = Summary(pool.isolation, str(conditions), work.missing)
    correct: Counter[str] = Counter()
    judged: Counter[str] = Counter()

    def count(task_id: str, verdict: Verdict) -> None:
        summary.samples += 1
        summary.verdicts[verdict.kind] += 1
        if verdict.kind != "infrastructure_error":
            judged[task_id] += 1
            correct[task_id] += verdict.passed

    file = ResultsFile(out)
    try:
        stream = read_samples(work.samples, work.problems)
        for sample, verdict in _resumed(stream, file, work, summary.conditions):
            count(sample.task_id, verdict)
            summary.resumed += 1
        progress(summary.samples, summary.verdicts)
        ahead = iter(read_samples(work.samples, work.problems))
        for _ in range(summary.resumed):
            next(ahead)
        own = None
        if calibrate is not None and summary.samples < work.total:
            asked = [work.problems[task] for task in work.counts]
            own = calibrated(pool, asked, limits, calibrate)
        for batch in _Ordered(pool, work, ahead, conditions, limits, own, summary).run():
            for sample, verdict, _ in batch:
                count(sample.task_id, verdict)
            file.append(
                results.row(sample, verdict, key, conditions, summary.conditions, work.missing)
                for sample, verdict, key in batch
            )
            progress(summary.samples, summary.verdicts)
    finally:
        file.close()
    summary.problems = len(work.counts)
    counts = [(judged[task], correct[task]) for task in work.counts if judged[task]]
    fewest = min((n for n, _ in counts), default=0)
    summary.pass_at_k = {k: estimators.estimate(counts, k) for k in work.ks if k <= fewest}
    return summary


def _resumed(
    stream: Iterator[Sample], file: ResultsFile, work: Plan, conditions: str
) -> Iterator[tuple[Sample, Verdict]]:
    """The samples that `file` has the verdicts of.

    Raises:
        UserError: it holds other samples, or verdicts under other conditions.
    """
    for number, (found, verdict, known) in enumerate(file.rows(), 1):
        where = f"{file.path}, line {number}"
        sample = next(stream, None)
        if known != conditions:
            raise UserError(
                f"{where}: judged under other conditions ({known}; now {conditions}): give another --out to keep both"
            )
        if sample is None:
            raise UserError(f"{where}: more results than there are samples in {work.samples}: give another --out")
        if found != results.key(work.problems[sample.task_id], sample, conditions):
            raise UserError(
                f"{where}: the result of another sample than the one there in {work.samples}; give another --out"
            )
        yield sample, verdict


class _Ordered:
    """Runs samples in any order, equal ones once, and gives their verdicts in the order of the file."""

    def __init__(
        self,
        pool: Pool,
        work: Plan,
        ahead: Iterator[Sample],
        conditions: Conditions,
        limits: Limits,
        own: Mapping[str, Limits] | None,
        summary: Summary,
    ) -> None:
        self._pool, self._work, self._ahead, self._summary = pool, work, ahead, summary
        self._shown, self._limits, self._own = str(conditions), limits, own
        self._open: OrderedDict[int, tuple[Sample, str, Verdict | None]] = OrderedDict()
        self._running: dict[str, list[int]] = {}
        self._known: OrderedDict[str, Verdict] = OrderedDict()
        self._keys: dict[int, str] = {}
        self._drawn = False

    def run(self) -> Iterator[list[tuple[Sample, Verdict, str]]]:
        jobs = self._jobs()
        while not self._drawn:
            for token, verdict in self._pool.run(jobs):
                self._learn(self._keys.pop(token), verdict)
                if done := self._done():
                    yield done
            if done := self._done():
                yield done

    def _jobs(self) -> Iterator[Job | None]:
        """Samples whose verdict is not known and not on its way; `None`: none before others are written."""
        for sample in self._ahead:
            while len(self._open) >= MOST_OPEN:
                yield None
            problem = self._work.problems[sample.task_id]
            key = results.key(problem, sample, self._shown)
            verdict = self._known.get(key) or oversized(sample.code)
            kept = Sample(sample.position, sample.task_id, "", sample.whole, {})  # the code is with the job
            self._open[sample.position] = kept, key, verdict
            if verdict is not None:
                self._summary.repeated += key in self._known
            elif key in self._running:
                self._running[key].append(sample.position)
                self._summary.repeated += 1
            else:
                self._running[key] = [sample.position]
                self._keys[sample.position] = key
                limits = self._limits if self._own is None else self._own.get(sample.task_id, self._limits)
                yield Job(sample.position, problem, sample.code, limits, sample.whole)
        self._drawn = True

    def _learn(self, key: str, verdict: Verdict) -> None:
        for index in self._running.pop(key):
            sample, _, _ = self._open[index]
            self._open[index] = sample, key, verdict
        if verdict.kind != "infrastructure_error":
            self._known[key] = verdict
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def _done(self) -> list[tuple[Sample, Verdict, str]]:
        """What can be written: everything up to the first sample that still runs."""
        done = []
        while self._open:
            sample, key, verdict = next(iter(self._open.values()))
            if verdict is None:
                break
            self._open.popitem(last=False)
            done.append((sample, verdict, key))
        return done
