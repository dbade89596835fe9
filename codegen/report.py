"""Sections of `quadriga report` about judged code: pass@k against k, what became of samples, each problem.

Reads files of results as `quadriga code execute` leaves them. Several of them, of several models or temperatures, stand
beside each other under their file names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quadriga.codegen.estimators import estimate
from quadriga.codegen.problems import parse_object
from quadriga.codegen.sandbox.limits import KINDS
from quadriga.platform.errors import UserError
from quadriga.platform.report import Reporter
from quadriga.platform.report_parts import Cell, Figure, Quantity, Section, Table, layout, line_trace, numbers
from quadriga.platform.report_parts import band_trace as area

UNJUDGED = "infrastructure_error"
MOST_KS = 24
USUAL_KS = (1, 10, 100)


@dataclass
class Results:
    """The rows of one file, added up.

    Attributes:
        name: of the file, without its endings.
        conditions: under which its samples were judged, in words.
        verdicts: samples by verdict.
        problems: verdicts by task, in the order of the file.
        seconds: wall seconds of every judged sample.
        partial: some problems have no sample.
    """

    name: str
    conditions: str = ""
    verdicts: Counter[str] = field(default_factory=Counter)
    problems: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    partial: bool = False

    @property
    def counts(self) -> list[tuple[int, int]]:
        """`(n, c)` of each problem: samples that were judged, and those of them that passed."""
        judged = (sum(tally.values()) - tally[UNJUDGED] for tally in self.problems.values())
        pairs = zip(judged, self.problems.values(), strict=True)
        return [(n, tally["passed"]) for n, tally in pairs if n]


def accepts(path: Path) -> bool:
    """Whether a file is one of results: its first line is an object with a task, a verdict and conditions."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and {"task_id", "verdict", "conditions"} <= set(first)


def read(path: Path) -> Results:
    """All of a file.

    Raises:
        UserError: a line is no result.
    """
    found = Results(path.name.removesuffix(".jsonl").removesuffix(".results"))
    for where, row in _rows(path):
        try:
            task, verdict, found.conditions = row["task_id"], row["verdict"], row["conditions"]
        except KeyError as error:
            raise UserError(f"{where}: no result: {error} is missing") from None
        if verdict not in KINDS:
            raise UserError(f"{where}: verdict: expected one of {', '.join(KINDS)}, got {verdict!r}")
        found.verdicts[verdict] += 1
        found.problems.setdefault(task, Counter())[verdict] += 1
        found.seconds.append(float(row.get("seconds") or 0.0))
        found.partial |= bool(row.get("partial"))
    return found


def sections(paths: Sequence[Path]) -> list[Section]:
    """The sections about these files.

    Raises:
        UserError: a line of one is no result, or none of its samples was judged.
    """
    found = [read(path) for path in paths]
    for path, each in zip(paths, found, strict=True):
        if not each.counts:
            raise UserError(f"{path}: no sample was judged")
    names = [each.name for each in found]
    note = "Unbiased estimates (Chen et al. 2021, eq. 1) with 95% bootstrap intervals over problems."
    return [
        Section("pass@k", [_curve(found), _estimates(found)], note, names),
        Section("What became of the samples", [_tally(found), _verdicts(found)], legend=names),
        Section("Problems", [_problems(each, named=len(found) > 1) for each in found], folded=len(found) > 1),
    ]


def title(paths: Sequence[Path]) -> str:
    """Of a report about these files."""
    names = [read(path).name for path in paths]
    return f"Generated code: {', '.join(names) if len(names) <= 4 else f'{len(names)} files'}"


def _ks(counts: Sequence[tuple[int, int]]) -> list[int]:
    """1 to the fewest samples of a problem; of many, some that are even on a logarithmic axis, and the usual ones."""
    most = min(n for n, _ in counts)
    if most <= MOST_KS:
        return list(range(1, most + 1))
    spread = np.unique(np.round(np.geomspace(1, most, MOST_KS)).astype(int)).tolist()
    return sorted({*spread, *(k for k in USUAL_KS if k <= most)})


def _curve(found: Sequence[Results]) -> Figure:
    data: list[dict[str, Any]] = []
    for series, each in enumerate(found):
        ks = _ks(each.counts)
        values = [estimate(each.counts, k) for k in ks]
        low, high = [value.low for value in values], [value.high for value in values]
        mean = [value.estimate for value in values]
        if len(ks) > 1 and len(each.counts) > 1:
            data.append(area(ks, low, high, series=series, name=each.name))
            data.append(line_trace(ks, mean, series=series, name=each.name))
        else:
            data.append(line_trace(ks, mean, series=series, name=each.name, low_high=(low, high)))
    most = max(max(_ks(each.counts)) for each in found)
    axes = {"yaxis": {"tickformat": ".0%", "rangemode": "tozero"}}
    drawn = layout("k, samples that may be tried", None, **axes)
    drawn["xaxis"] = {"title": drawn["xaxis"]["title"], **({"type": "log", "dtick": 1} if most > 10 else {"dtick": 1})}
    return Figure("pass_at_k", "pass@k", data, drawn)


def _estimates(found: Sequence[Results]) -> Table:
    fewest = [min(n for n, _ in each.counts) for each in found]
    ks = sorted({k for k in USUAL_KS if k <= max(fewest)} | set(fewest))
    rows: list[list[Cell]] = []
    for each, most in zip(found, fewest, strict=True):
        row: list[Cell] = [each.name + (" (partial)" if each.partial else "")]
        row += [Quantity(len(each.problems)), Quantity(sum(each.verdicts.values()))]
        for k in ks:
            value = estimate(each.counts, k) if k <= most else None
            row.append(
                Quantity(None) if value is None else Quantity(value.estimate, (value.low, value.high), percent=True)
            )
        rows.append([*row, each.conditions])
    headers = ["results", "problems", "samples", *(f"pass@{k}" for k in ks), "conditions"]
    return Table("", headers, rows, "Samples that were not judged (infrastructure_error) are in no estimate.")


def _tally(found: Sequence[Results]) -> Figure:
    kinds = [kind for kind in KINDS if any(each.verdicts[kind] for each in found)]
    data = [
        {
            "type": "bar",
            "x": numbers([each.verdicts[kind] for kind in kinds]),
            "y": [kind.replace("_", " ") for kind in kinds],
            "orientation": "h",
            "name": each.name,
            "meta": {"series": series, "role": "mean"},
        }
        for series, each in enumerate(found)
    ]
    axes = {"yaxis": {"type": "category", "autorange": "reversed"}, "hovermode": "closest"}
    return Figure("verdicts", "Samples by verdict", data, layout("samples", None, **axes))


def _verdicts(found: Sequence[Results]) -> Table:
    kinds = [kind for kind in KINDS if any(each.verdicts[kind] for each in found)]
    rows: list[list[Cell]] = [
        [each.name, *(Quantity(each.verdicts[kind]) for kind in kinds), Quantity(float(np.median(each.seconds)))]
        for each in found
    ]
    return Table("", ["results", *(kind.replace("_", " ") for kind in kinds), "median seconds"], rows)


def _problems(found: Results, *, named: bool) -> Table:
    kinds = [kind for kind in KINDS if kind != "passed" and found.verdicts[kind]]
    rows: list[list[Cell]] = []
    for task, tally in found.problems.items():
        judged = sum(tally.values()) - tally[UNJUDGED]
        rate = Quantity(tally["passed"] / judged if judged else None, percent=True)
        counted = [Quantity(tally[kind]) for kind in kinds]
        rows.append([task, Quantity(sum(tally.values())), Quantity(tally["passed"]), rate, *counted])
    headers = ["problem", "samples", "passed", "pass rate", *(kind.replace("_", " ") for kind in kinds)]
    return Table(found.name if named else "", headers, rows)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}, line {number}"
                yield where, parse_object(line, where)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


REPORT = Reporter("results of quadriga code execute (.results.jsonl)", accepts, sections, title)
