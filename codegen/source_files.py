"""Python files in folders, sdists and wheels, one after the other, with the licence that their package names.

Reads; what is kept is decided elsewhere (`quadriga.codegen.filters`). Nothing is unpacked to disk,
and nothing of a package is run.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import functools
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from quadriga.platform.errors import UserError, one_line

LARGEST = 1 << 20
UNKNOWN = "unknown"
SKIPPED_FOLDERS = {"__pycache__", ".git", ".venv", "node_modules", "site-packages"}
ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
METADATA = ("METADATA", "PKG-INFO")
LICENCE_NAMES = 60
# RuntimeError: an encrypted archive, an unknown compression; ValueError: places outside of the file.
DAMAGED = (
    OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, struct.error, tarfile.TarError,
    zipfile.BadZipFile,
)  # fmt: skip


class Package(NamedTuple):
    """What is read as one: a folder below the one that was given, or an archive.

    Attributes:
        name: of the folder or file, unique within a corpus.
        path: where it is.
    """

    name: str
    path: Path


class SourceFile(NamedTuple):
    """A file that is not looked at yet; of one that is too large `data` has one byte more than was asked for."""

    path: str
    data: bytes


def packages(sources: list[Path]) -> list[Package]:
    """What is to be read, in order of the names: each archive, and each entry at the top of each folder.

    Raises:
        UserError: a source is not there, or nothing is found.
    """
    found: dict[str, Package] = {}
    for source in sources:
        if source.is_file() and source.name.endswith(ARCHIVES):
            entries = [source]
        elif source.is_dir():
            with _readable(source):
                entries = [each for each in source.iterdir() if _is_source(each)]
        else:
            raise UserError(f"{source}: expected a folder, a wheel or an sdist ({', '.join(ARCHIVES)})")
        for entry in entries:
            name = f"{source.name}/{entry.name}" if entry != source else source.name
            if name in found and found[name].path != entry:
                raise UserError(f"{source}: {name} is there from {found[name].path.parent} already; rename one of them")
            found[name] = Package(name, entry)
    if not found:
        raise UserError(f"no Python files in {', '.join(map(str, sources))}")
    return [found[name] for name in sorted(found)]


def _is_source(entry: Path) -> bool:
    if entry.is_dir():
        return entry.name not in SKIPPED_FOLDERS and not entry.name.endswith((".dist-info", ".egg-info"))
    return entry.suffix == ".py" or entry.name.endswith(ARCHIVES)


def read(package: Package, largest: int = LARGEST) -> Iterator[SourceFile]:
    """Its Python files, in order of their paths within it.

    Args:
        package: from `packages`.
        largest: bytes of a file that are wanted; no more than one more are read.

    Raises:
        UserError: a file that cannot be read, or an archive that is damaged or encrypted.
    """
    path = package.path
    with _readable(path):
        if path.is_dir():
            for file in sorted(path.rglob("*.py")):
                inside = file.relative_to(path)
                if file.is_file() and not file.is_symlink() and not SKIPPED_FOLDERS & set(inside.parts):
                    yield SourceFile(inside.as_posix(), _head(file, largest + 1))
        elif path.suffix == ".py":
            yield SourceFile(path.name, _head(path, largest + 1))
        else:
            yield from _archive(path, (".py",), largest + 1)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(size)


def licence(package: Package) -> str:
    """What the package's metadata says: `License-Expression`, `License`, or its classifiers; `unknown` without.

    Of an installed package that is the `.dist-info` folder beside it.

    Raises:
        UserError: as `read`.
    """
    for text in _metadata(package):
        head = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(text, headersonly=True)
        classifiers = [
            value.split(" :: ")[-1] for value in head.get_all("Classifier", []) if value.startswith("License")
        ]
        said = head.get("License-Expression") or head.get("License") or ""
        first = str(said).strip().splitlines()[0] if str(said).strip() else ""
        if len(first) > LICENCE_NAMES or not first:
            first = ", ".join(classifiers)
        if first and first.upper() != "UNKNOWN":
            return first
    return UNKNOWN


def _metadata(package: Package) -> Iterator[bytes]:
    path = package.path
    with _readable(path):
        if path.is_dir() or path.suffix == ".py":
            if path.name in (installed := _installed(path.parent)):
                yield _head(installed[path.name], LARGEST)
            if path.is_dir() and (path / "PKG-INFO").is_file():
                yield _head(path / "PKG-INFO", LARGEST)
        else:
            found = _archive(path, METADATA, LARGEST)
            yield from (each.data for each in found if PurePosixPath(each.path).name in METADATA)


@functools.lru_cache(maxsize=8)
def _installed(folder: Path) -> dict[str, Path]:
    """The metadata of each package and module in `folder`, by the name of its folder or file."""
    found: dict[str, Path] = {}
    for distribution in sorted(folder.glob("*.dist-info")):
        record, metadata = distribution / "RECORD", distribution / "METADATA"
        if metadata.is_file() and record.is_file():
            try:
                lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue  # whose files these are is not known then
            for line in lines:
                found.setdefault(line.split(",")[0].split("/")[0], metadata)
    return found


def _archive(path: Path, wanted: tuple[str, ...], size: int) -> Iterator[SourceFile]:
    """The files whose names end so, with at most `size` bytes of each."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(wanted):
                    with archive.open(name) as stream:
                        yield SourceFile(name, stream.read(size))
    else:
        with tarfile.open(path) as tar:
            members = [member for member in tar.getmembers() if member.isfile() and member.name.endswith(wanted)]
            for member in sorted(members, key=lambda member: member.name):
                inside = tar.extractfile(member)
                assert inside is not None
                yield SourceFile(member.name, inside.read(size))
