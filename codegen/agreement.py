"""Whether samples agree: their outputs on inputs that nobody wrote tests for, computed in the sandbox.

Inputs are the examples in the problem's prompt and small changes of them, or values of its
annotated types. The hidden tests are not looked at. Right samples give the same outputs, wrong
ones are wrong in many ways.
"""

from __future__ import annotations

import ast
import dataclasses
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quadriga.codegen.pool import Pool
from quadriga.codegen.problems import Problem
from quadriga.codegen.prompts import nothing
from quadriga.codegen.sandbox.limits import Limits
from quadriga.codegen.sandbox.supervisor import Job

INPUTS = 16
ATTEMPTS = 40
DEPTH = 3
WORDS = ("", "a", "abc", "Hello world", "aab", "(()())", "1 2 3", "racecar")
PROBE = """
import zlib
INPUTS = {inputs!r}

def check(candidate):
    seen = []
    for arguments in INPUTS:
        try:
            shown = repr(candidate(*arguments))
        except Exception as error:
            shown = type(error).__name__
        seen.append(format(zlib.crc32(shown.encode("utf-8", "backslashreplace")), "08x"))
    raise AssertionError("{token} " + " ".join(seen))
"""


def inputs(problem: Problem, seed: int = 0, count: int = INPUTS) -> list[tuple[Any, ...]]:
    """Arguments for the problem's function: examples first, then changed ones; the same for the same seed.

    Empty if the prompt has neither an example nor a signature.
    """
    rng = random.Random(f"{seed} {problem.task_id}")
    found = list(_examples(problem))[:count]
    kinds = _annotations(problem)
    if not found and kinds is None:
        return []
    seen = {repr(each) for each in found}
    for _ in range(ATTEMPTS * count):
        if len(found) >= count:
            break
        if found and (kinds is None or rng.random() < 0.7):
            old = rng.choice(found)
            new = tuple(_changed(each, rng) if rng.random() < 0.7 else each for each in old)
        else:
            new = tuple(_value(kind, rng, 0) for kind in kinds or ())
        if repr(new) not in seen:
            seen.add(repr(new))
            found.append(new)
    return found


def outputs(
    pool: Pool, samples: Sequence[tuple[Problem, str, bool]], limits: Limits, seed: int = 0
) -> list[list[str] | None]:
    """What each sample gives for its problem's inputs, one hash each; `None` if it did not come to an end.

    They are told from what a sample raises by a token, other each time, that only the tests hold.

    Args:
        pool: of sandboxes in `split` mode, so that a sample cannot invent outputs of others.
        samples: problem, code, and whether the code is a whole program.
        limits: of a sample.
        seed: of the inputs.
    """
    token = secrets.token_hex(8)
    probes: dict[str, Problem | None] = {}
    counts: dict[str, int] = {}
    for problem, _, _ in samples:
        if problem.task_id not in probes:
            made = inputs(problem, seed)
            counts[problem.task_id] = len(made)
            probes[problem.task_id] = probe(problem, made, token) if made else None
    jobs = (
        Job(place, asked, code, limits, whole)
        for place, (problem, code, whole) in enumerate(samples)
        if (asked := probes[problem.task_id]) is not None
    )
    found: list[list[str] | None] = [None] * len(samples)
    for place, verdict in pool.run(jobs):
        head, _, shown = verdict.detail.partition(f"{token} ")
        count = counts[samples[place][0].task_id]
        outcomes = shown.split()[:count]  # behind them may be a remark on what is no plain data
        if verdict.kind == "failed" and head == "AssertionError: " and len(outcomes) == count:
            found[place] = outcomes
    return found


def probe(problem: Problem, made: Sequence[tuple[Any, ...]], token: str) -> Problem:
    """The problem with tests that report the outputs for `made` behind `token` in the verdict's detail."""
    tests = PROBE.format(inputs=list(made), token=token)
    return dataclasses.replace(problem, tests=tests, final=f"check({problem.entry_point})", setup="")


def _examples(problem: Problem) -> Iterator[tuple[Any, ...]]:
    """The arguments of the calls in the prompt's text that are literals."""
    text, name = problem.prompt, problem.entry_point + "("
    start, seen = text.find(name), set()
    while start >= 0:
        end = text.find(")", start)
        while end >= 0:
            try:
                call = ast.parse(text[start : end + 1], mode="eval").body
                assert isinstance(call, ast.Call) and not call.keywords
                arguments = tuple(ast.literal_eval(each) for each in call.args)
            except (SyntaxError, ValueError, AssertionError, TypeError, MemoryError, RecursionError):
                end = text.find(")", end + 1)
                if end - start > 400:
                    break
                continue
            if arguments and repr(arguments) not in seen:
                seen.add(repr(arguments))
                yield arguments
            break
        start = text.find(name, start + 1)


def _annotations(problem: Problem) -> list[str] | None:
    """The annotated types of the function's arguments, `""` for one without; `None` if there is no signature."""
    try:
        tree = ast.parse(problem.prompt.rstrip() + nothing(problem.prompt))
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point:
            taken = node.args.posonlyargs + node.args.args
            return [ast.unparse(each.annotation) if each.annotation else "" for each in taken]
    return None


def _value(kind: str, rng: random.Random, depth: int) -> Any:
    """A small value of an annotated type; of an unknown one some integer or word."""
    base, _, inner = kind.removeprefix("typing.").partition("[")
    inner = inner.removesuffix("]")
    name = base.lower()
    if name in ("list", "sequence", "iterable", "set") and depth < DEPTH:
        return [_value(inner or "int", rng, depth + 1) for _ in range(rng.randint(0, 6))]
    if name == "tuple" and depth < DEPTH:
        parts = _parts(inner) if inner else ["int", "int"]
        return tuple(_value(part, rng, depth + 1) for part in parts if part != "...")
    if name in ("dict", "mapping") and depth < DEPTH:
        key, value = [*_parts(inner), "int", "int"][:2] if inner else ("str", "int")
        return {_value(key, rng, DEPTH): _value(value, rng, depth + 1) for _ in range(rng.randint(0, 4))}
    if name == "optional":
        return None if rng.random() < 0.2 else _value(inner, rng, depth)
    simple: Mapping[str, Any] = {
        "int": rng.randint(-10, 30),
        "float": round(rng.uniform(-10, 10), 2),
        "bool": rng.random() < 0.5,
        "str": rng.choice(WORDS),
    }
    return simple.get(name, simple[rng.choice(("int", "str"))])


def _parts(text: str) -> list[str]:
    """`int, dict[str, int]` at its outer commas."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _changed(value: Any, rng: random.Random) -> Any:
    """Something like `value`, of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, 2 * value, 0, 1, value // 2))
    if isinstance(value, float):
        return rng.choice((value + 1, -value, value / 2, 0.0, float(round(value))))
    if isinstance(value, (str, list)):
        return _changed_sequence(value, rng)
    if isinstance(value, tuple):  # its places have meanings: none is moved or left out
        at = rng.randrange(len(value)) if value else 0
        return tuple(_changed(each, rng) if place == at else each for place, each in enumerate(value))
    if isinstance(value, dict):
        items = list(value.items())
        if items and rng.random() < 0.5:
            items.pop(rng.randrange(len(items)))
        return {key: _changed(each, rng) if rng.random() < 0.5 else each for key, each in items}
    return value


def _changed_sequence(value: Any, rng: random.Random) -> Any:
    """A text or list, shorter, longer, reversed, or with one part changed."""
    if not value:
        return rng.choice(WORDS) if isinstance(value, str) else value
    at = rng.randrange(len(value))
    one = value[at : at + 1]
    kind = rng.randrange(6)
    if kind == 0:
        return value[:at] + value[at + 1 :]
    if kind == 1:
        return value[:at] + one + value[at:]
    if kind == 2:
        return value[::-1]
    if kind == 3:
        return value[:at]
    if kind == 4 and isinstance(value, list):
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    other = rng.randrange(len(value))
    return value[:at] + value[other : other + 1] + value[at + 1 :]
