"""Samples with their verdicts, read from the two files that `quadriga code sample` and `execute` write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quadriga.codegen.problems import Problem, parse_object
from quadriga.codegen.ranking import Candidates
from quadriga.codegen.results import key
from quadriga.codegen.samples import Sample, read_samples
from quadriga.platform.errors import UserError


class Judged(NamedTuple):
    """A sample and whether it passes."""

    sample: Sample
    passed: bool


def read(samples: Path, results: Path, problems: Mapping[str, Problem]) -> dict[str, list[Judged]]:
    """Judged samples by task; those that could not be judged are left out.

    Raises:
        UserError: a file is missing or damaged, or the results are those of other samples.
    """
    if not results.is_file():
        raise UserError(f"{results}: no such file of results; make it: quadriga code execute {samples}")
    found: dict[str, list[Judged]] = {}
    with results.open("rb") as file:
        for sample in read_samples(samples, problems):
            line = file.readline()
            if not line.strip():
                raise UserError(f"{results}: ends before {samples} does; go on: quadriga code execute {samples}")
            row = parse_object(line, f"{results}, line {sample.position + 1}")
            if row.get("key") != key(problems[sample.task_id], sample, str(row.get("conditions"))):
                raise UserError(
                    f"{results}, line {sample.position + 1}: the result of another sample than the one in {samples}"
                )
            if row.get("verdict") != "infrastructure_error":
                found.setdefault(sample.task_id, []).append(Judged(sample, bool(row.get("passed"))))
    if not found:
        raise UserError(f"{samples}: holds no sample that was judged")
    return found


def candidates(judged: list[Judged], where: Path) -> Candidates:
    """The samples of one problem with the scores that their own rows hold.

    Raises:
        UserError: a row has no log-probability.
    """
    rows = [each.sample.row for each in judged]
    for row in rows:
        if not isinstance(row.get("logprob"), (int, float)) or not row.get("tokens"):
            raise UserError(f"{where}: samples without `logprob` and `tokens` cannot be ranked")
    total = np.array([row["logprob"] for row in rows], float)
    tokens = np.array([row["tokens"] for row in rows], float)
    scores = {"sum-logprob": total, "mean-logprob": total / tokens}
    return Candidates(np.array([each.passed for each in judged]), scores)
