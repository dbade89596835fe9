"""Docstrings for the solutions of problems, and problems whose docstrings a model wrote: pure functions on texts.

Chen et al. 2021, section 5, grade docstrings by hand. Here they are graded by translating back: solutions are
written from signature and generated docstring, and pass the problem's tests or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from quadriga.codegen import docstrings
from quadriga.codegen.problems import Problem
from quadriga.platform.errors import UserError

STOPS = ('"""',)
PROMPTING = "docstring"


def to_describe(problems: Mapping[str, Problem]) -> dict[str, Problem]:
    """Problems whose prompt is the solution of each of `problems`, without its docstring.

    Raises:
        UserError: one has no solution, or no prompt that its docstring could be put into.
    """
    found = {}
    for task, problem in problems.items():
        if not problem.prompt or not problem.canonical:
            raise UserError(f"problem {task!r} has no solution behind a prompt, so there is nothing to describe")
        try:
            _, code = docstrings.split(problem.program(problem.canonical), problem.entry_point)
        except (SyntaxError, KeyError) as error:
            raise UserError(f"problem {task!r}: its solution is no function {problem.entry_point}") from error
        found[task] = replace(problem, prompt=docstrings.prompt(code))
    return found


def described(problems: Mapping[str, Problem], samples: Iterable[tuple[str, int, str]]) -> Iterator[dict[str, Any]]:
    """Problems in HumanEval's format, one for each docstring, that ask for the same by other words.

    A docstring with which the prompt is not Python any more is left empty, and its problem stays.

    Args:
        problems: those that were described.
        samples: task id, number and docstring of each sample.
    """
    for task, number, text in samples:
        problem = problems[task]
        try:
            prompt = docstrings.replaced(problem.prompt, problem.entry_point, text)
        except SyntaxError:
            prompt = docstrings.replaced(problem.prompt, problem.entry_point, "")
        tests = "\n".join(part for part in (problem.setup, problem.tests) if part)
        yield {
            "task_id": f"{task}/{number}",
            "prompt": prompt,
            "entry_point": problem.entry_point,
            "canonical_solution": problem.canonical,
            "test": tests,
        }
