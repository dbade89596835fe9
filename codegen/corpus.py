"""A corpus of Python: packages in, two Parquet files and a report of what was dropped out.

    packages --(in parallel: read, filter, licence, signature)--> parts/ --(in order: duplicates)--> files, functions

A part holds what became of one package. It takes its name when it is whole, so a build that was
killed goes on with the packages that have none. Duplicates are looked for in the order of the
packages' names, so the result does not depend on who was first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quadriga.codegen import filters as rules
from quadriga.codegen.filters import Contamination, Filters
from quadriga.codegen.functions import Function, functions
from quadriga.codegen.near_duplicates import Index, signature
from quadriga.codegen.problems import Problem, parse_object, problems
from quadriga.codegen.source_files import Package, SourceFile, licence, packages, read
from quadriga.platform.errors import UserError, one_line

SETTINGS, REPORT, PARTS = "corpus.json", "report.json", "parts"
FILES, FUNCTIONS = "files.parquet", "functions.parquet"
UNREADABLE = "unreadable"
REASONS = {**rules.REASONS, UNREADABLE: "a damaged or encrypted archive, or a file without the right to read it"}
PART = pa.schema(
    [
        ("path", pa.string()),
        ("licence", pa.string()),
        ("bytes", pa.int64()),
        ("reason", pa.string()),
        ("text", pa.string()),
        ("exact", pa.string()),
        ("signature", pa.binary()),
    ]
)
FILE = pa.schema([("package", pa.string()), ("path", pa.string()), ("licence", pa.string()), ("text", pa.string())])
FUNCTION = pa.schema([(name, pa.string()) for name in ("package", "path", "licence", *Function._fields)])
ROW_GROUP = 1000


@dataclass(frozen=True)
class Settings:
    """What is kept of the sources.

    Attributes:
        sources: folders, wheels, sdists.
        filters: of single files.
        licences: words of the names that are allowed, e.g. `("MIT", "BSD", "Apache")`; empty allows all.
        near: similarity from which files are near duplicates; above 1: never.
        against: problem sets that the corpus must not hold.
    """

    sources: tuple[str, ...]
    filters: Filters = field(default_factory=Filters)
    licences: tuple[str, ...] = ()
    near: float = 0.85
    against: tuple[str, ...] = ("builtin",)

    def __post_init__(self) -> None:
        if not 0 < self.near <= 2:
            raise UserError(f"near: expected a similarity above 0, got {self.near!r}")
        if not all(self.licences):
            raise UserError(f"licences: expected names such as MIT,BSD,Apache, got {','.join(self.licences)!r}")

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass
class Report:
    """What became of all files.

    Attributes:
        packages: how many were read.
        resumed: of them by an earlier run.
        files: kept.
        functions: kept, with docstrings.
        left_out: other functions of the kept files: the same as an earlier one, or of the name of an evaluated one.
        bytes: of the kept files.
        seen: files looked at.
        dropped: how many for each reason.
        licences: kept files by licence.
    """

    packages: int = 0
    resumed: int = 0
    files: int = 0
    functions: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    seen: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """Plain data; the same for every way to the same corpus."""
        fields = {name: getattr(self, name) for name in ("packages", "seen", "files", "functions", "bytes")}
        dropped = {reason: self.dropped[reason] for reason in REASONS if self.dropped[reason]}
        left_out, licences = (dict(sorted(each.items())) for each in (self.left_out, self.licences))
        return {**fields, "left_out": left_out, "dropped": dropped, "licences": licences}


Map = Callable[[Callable[[Package], None], list[Package]], Iterator[None]]


def build(
    settings: Settings,
    out: Path,
    run: Map | None = None,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> Report:
    """Builds the corpus in the folder `out`, or goes on with it.

    Args:
        settings: what is kept.
        out: the folder.
        run: runs a function for each package, e.g. on Ray; by default one after the other.
        progress: is told how many packages are done, of how many.

    Raises:
        UserError: a source is missing, `out` holds another corpus or a damaged file, nothing is left, or it cannot be
            written.
    """
    found = packages([Path(source) for source in settings.sources])
    _prepare(out, settings)
    parts = {package.name: out / PARTS / _part_name(package.name) for package in found}
    left = [package for package in found if not parts[package.name].exists()]
    report = Report(len(found), len(found) - len(left))
    progress(report.resumed, len(found))
    work = PartWriter(settings, str(out / PARTS))
    for done, _ in enumerate((run or _one_by_one)(work, left), 1):
        progress(report.resumed + done, len(found))
    _merge([(package.name, parts[package.name]) for package in found], settings, out, report)
    _write(out / REPORT, report.as_json())
    if not report.files:
        why = ", ".join(f"{reason} {count:,}" for reason, count in report.dropped.most_common(3))
        raise UserError(f"{out}: the corpus is empty; of {report.seen:,} files all were dropped ({why})")
    return report


class PartWriter:
    """Looks at one package and writes its part; can be sent to another process."""

    def __init__(self, settings: Settings, folder: str) -> None:
        self._settings, self._folder = settings, folder
        self._contamination: Contamination | None = None

    def __call__(self, package: Package) -> None:
        if self._contamination is None:
            self._contamination = Contamination(_evaluated(self._settings))
        said = UNREADABLE
        try:
            said = licence(package)
            files = read(package, self._settings.filters.max_bytes)
            rows = [_row(file, said, self._settings, self._contamination) for file in files]
        except UserError:
            rows = [dict.fromkeys(PART.names) | {"path": "", "licence": said, "bytes": 0, "reason": UNREADABLE}]
        target = Path(self._folder) / _part_name(package.name)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            pq.write_table(pa.Table.from_pylist(rows, PART), temporary, compression="zstd")
            temporary.replace(target)
        except OSError as error:
            raise UserError(f"{target}: cannot be written: {error.strerror or one_line(error)}") from error


def _evaluated(settings: Settings) -> list[Problem]:
    return [each for source in settings.against for each in problems(source).values()]


def _row(file: SourceFile, said: str, settings: Settings, contamination: Contamination) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(PART.names) | {"path": file.path, "licence": said, "bytes": len(file.data)}
    reason, text = rules.why_not(file.data, settings.filters)
    if reason is None and settings.licences and not any(rules.names_licence(said, name) for name in settings.licences):
        reason = "licence"
    if reason is None and contamination.found(text):
        reason = "contaminated"
    if reason is not None:
        return {**row, "reason": reason}
    shape = np.frombuffer(signature(text), np.uint32).tobytes()
    return {**row, "text": text, "exact": rules.exact_key(text), "signature": shape}


def _merge(parts: Sequence[tuple[str, Path]], settings: Settings, out: Path, report: Report) -> None:
    exact: set[str] = set()
    near = Index(settings.near)
    evaluated = {name for each in _evaluated(settings) for name in each.names}
    bodies: set[str] = set()
    files, kept_functions = _Table(out / FILES, FILE), _Table(out / FUNCTIONS, FUNCTION)
    with files, kept_functions:
        for package, path in parts:
            for row in _read_part(path):
                report.seen += row["reason"] != UNREADABLE
                reason = row["reason"]
                if reason is None and row["exact"] in exact:
                    reason = "duplicate"
                elif reason is None:
                    exact.add(row["exact"])
                    if settings.near <= 1 and near.seen(np.frombuffer(row["signature"], np.uint32)):
                        reason = "near-duplicate"
                if reason is not None:
                    report.dropped[reason] += 1
                    continue
                where = {"package": package, "path": row["path"], "licence": row["licence"]}
                files.add({**where, "text": row["text"]})
                report.files += 1
                report.bytes += row["bytes"]
                report.licences[row["licence"]] += 1
                tree = rules.parse(row["text"])
                assert tree is not None
                for function in functions(row["text"], tree):
                    key = rules.exact_key(function.body)
                    if function.name in evaluated:
                        report.left_out["evaluated-name"] += 1
                    elif key in bodies:
                        report.left_out["duplicate"] += 1
                    else:
                        bodies.add(key)
                        kept_functions.add({**where, **function._asdict()})
                        report.functions += 1


class _Table:
    """A Parquet file that takes its name when it is whole."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema, self._rows = path, schema, []  # type: ignore[var-annotated]
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> None:
        self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self._flush()
        self._writer.close()
        if error is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def require(path: Path, columns: Sequence[str]) -> None:
    """Looks at the end of a Parquet file of a corpus, where it says what it holds.

    Raises:
        UserError: it is missing, damaged, empty, or has other columns.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it: quadriga code corpus build")
    with _readable(path):
        metadata = pq.read_metadata(path)
    there = metadata.schema.names
    missing = [name for name in columns if name not in there]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]!r}; make the corpus again: quadriga code corpus build")
    if not metadata.num_rows:
        raise UserError(f"{path}: the corpus is empty")


def table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a Parquet file of a corpus.

    Raises:
        UserError: as `require`.
    """
    require(path, columns)
    with _readable(path):
        return pq.read_table(path, columns=list(columns))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path}: damaged, or no file of a corpus: {one_line(error)[:200]}") from error


def _read_part(path: Path) -> Iterator[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, schema=PART).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged; delete it, and the same command goes on: {one_line(error)[:200]}") from error
    yield from rows


def _part_name(package: str) -> str:
    return hashlib.blake2b(package.encode(), digest_size=12).hexdigest() + ".parquet"


def _prepare(out: Path, settings: Settings) -> None:
    path, wanted = out / SETTINGS, settings.as_json()
    try:
        (out / PARTS).mkdir(parents=True, exist_ok=True)
        if path.exists():
            found = parse_object(path.read_bytes(), str(path))
            for name, value in wanted.items():
                if found.get(name) != value:
                    raise UserError(
                        f"{out}: holds a corpus with {name} = {found.get(name)!r}, now it is {value!r}; "
                        "give another --out to keep both"
                    )
        else:
            _write(path, wanted)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error


def _write(path: Path, fields: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(fields, indent=1, sort_keys=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _one_by_one(work: Callable[[Package], None], left: list[Package]) -> Iterator[None]:
    for package in left:
        work(package)
        yield


def on_ray(work: Callable[[Package], None], left: list[Package]) -> Iterator[None]:
    """Runs `work` on the Ray that this process is connected to, a task a package; a killed one runs again.

    Raises:
        UserError: what a task raised.
    """
    import ray

    stored = ray.put(work)
    task = ray.remote(num_cpus=1, max_retries=3)(lambda kept, package: kept(package))
    flying = [task.remote(stored, package) for package in left]
    while flying:
        (done, *_), flying = ray.wait(flying, num_returns=1)
        try:
            ray.get(done)
        except ray.exceptions.RayError as error:
            raise UserError(f"a package could not be read: {one_line(error)}") from error
        yield
