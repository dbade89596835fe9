"""Problems made of functions that show how they are called: the examples of a docstring become tests.

Chen et al. 2021, section 4.2, make training problems of functions whose inputs and outputs are known; here they are
those that the author wrote down. Pure functions, but for `verified`, which runs them in a pool of sandboxes.
"""

from __future__ import annotations

import ast
import doctest
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from quadriga.codegen.pool import Pool
from quadriga.codegen.problems import Problem, parse_problem
from quadriga.codegen.prompts import nothing
from quadriga.codegen.sandbox.limits import Limits
from quadriga.codegen.sandbox.supervisor import Job
from quadriga.codegen.self_contained import BUILTINS, free_names

CANDIDATE = "candidate"
RUNS = 2


def problems(rows: Iterable[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    """Problems in HumanEval's format, one for each self-contained function with an example that can be a test.

    An example can if it is one expression of the function and of builtins, and what it gives is a literal.

    Args:
        rows: functions of a corpus.
    """
    taken: set[str] = set()
    for row in rows:
        name = row["name"]
        if "." in name or row["outside"]:
            continue
        tests = list(_tests(row["docstring"], name))
        if not tests:
            continue
        task = f"{row['package']}/{name}"
        while task in taken:
            task += "'"
        taken.add(task)
        yield {
            "task_id": task,
            "prompt": whole_prompt(row),
            "entry_point": name,
            "canonical_solution": row["body"],
            "test": "\n".join([f"def check({CANDIDATE}):", *(f"    {line}" for line in tests)]) + "\n",
        }


def whole_prompt(row: Mapping[str, str]) -> str:
    """A function's prompt as that of a problem: what it imports, two empty lines, signature and docstring."""
    return f"{row['imports']}\n\n{row['prompt']}" if row["imports"] else row["prompt"]


def verified(rows: Iterable[dict[str, Any]], pool: Pool, limits: Limits) -> Iterator[dict[str, Any]]:
    """Those of the problems whose solution passes each time, while a function that does nothing fails.

    Args:
        rows: from `problems`.
        pool: runs them.
        limits: of a run.
    """
    known = list(rows)
    parsed = [parse_problem(row, row["task_id"]) for row in known]
    passed = dict(pool.run(Job(token, problem, code, limits) for token, (problem, code) in enumerate(_runs(parsed))))
    each = RUNS + 1
    for number, row in enumerate(known):
        *right, nothing = (passed[number * each + run].passed for run in range(each))
        if all(right) and not nothing:
            yield row


def _runs(parsed: list[Problem]) -> Iterator[tuple[Problem, str]]:
    for problem in parsed:
        yield from [(problem, problem.canonical)] * RUNS
        yield problem, nothing(problem.prompt)


def _tests(docstring: str, name: str) -> Iterator[str]:
    try:
        examples = doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return
    for example in examples:
        try:
            expression = ast.parse(example.source.strip(), mode="eval")
            wanted = ast.literal_eval(example.want.strip())
            names = free_names(example.source)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        if name in names and names <= BUILTINS | {name}:
            for node in ast.walk(expression):
                if isinstance(node, ast.Name) and node.id == name:
                    node.id = CANDIDATE
            yield f"assert {ast.unparse(expression)} == {wanted!r}"
