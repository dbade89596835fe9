"""Checkpoints that are whole or not there: the latest few and the best of a run.

A checkpoint is a folder `<step>` with whatever the trainer wrote and a `MANIFEST.json` with the
size and SHA-256 of every file. It takes its name (locally: by a rename; remotely: by the arrival
of its manifest) only when all of it is stored, so a save that is cut off leaves the ones before.
What is in the files, and what a score means, is the trainer's business. One process writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from quadriga.platform import storage
from quadriga.platform.errors import StorageFailed, UserError

MANIFEST = "MANIFEST.json"
SAVING = ".saving-"
# A step that is saved again gets a new name, so that the old one stands until the new one does.
NAME = re.compile(r"(\d+)(?:-(\d+))?")

logger = logging.getLogger("quadriga")

Score = tuple[float, ...]


class _DamagedError(Exception):
    """A checkpoint that is not what its manifest says; the text says why."""

    KIND = "is damaged"


class _UnreadableError(_DamagedError):
    """A checkpoint that could not be read just now, and may be whole; the text says why."""

    KIND = "cannot be read"


@dataclass(frozen=True)
class Checkpoint:
    """A stored checkpoint.

    Attributes:
        step: the run's progress when it was saved.
        score: larger is better, compared in order; `None` if nothing was known.
        path: its folder, inside its filesystem.
    """

    step: int
    score: Score | None
    path: str
    _filesystem: fs.FileSystem = field(repr=False, compare=False)
    _files: Mapping[str, Mapping[str, Any]] = field(repr=False, compare=False)

    @contextlib.contextmanager
    def local(self) -> Iterator[Path]:
        """The checkpoint as a folder on this machine, to be read only; a download lasts as long as the context.

        Raises:
            UserError: it cannot be downloaded.
        """
        here = storage.local_path(self._filesystem, self.path)
        if here is not None:
            yield here
            return
        with tempfile.TemporaryDirectory(prefix="quadriga-checkpoint-") as folder:
            try:
                for name in [*self._files, MANIFEST]:
                    target = Path(folder, name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    fs.copy_files(f"{self.path}/{name}", str(target), self._filesystem, fs.LocalFileSystem())
            except OSError as error:
                raise UserError(f"cannot download the checkpoint {self.path!r}: {storage.reason(error)}") from error
            yield Path(folder)

    def _verify(self) -> None:
        for name, expected in self._files.items():
            try:
                with self._filesystem.open_input_stream(f"{self.path}/{name}", compression=None) as stream:
                    found = hashlib.file_digest(stream, "sha256").hexdigest()
            except FileNotFoundError as error:
                raise _DamagedError(f"no {name}") from error
            except OSError as error:
                raise _UnreadableError(f"{name}: {storage.reason(error)}") from error
            if found != expected["sha256"]:
                raise _DamagedError(f"{name} does not match its checksum")


class CheckpointStore:
    """The checkpoints of one run.

    Attributes:
        keep: how many of the latest stay when a new one is saved; the best always stays.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, keep: int) -> None:
        self.keep = keep
        self._filesystem = filesystem
        self._root = root

    def save(self, step: int, writer: Callable[[Path], None], *, score: Score | None = None) -> str:
        """Stores what `writer` puts into the empty folder it is given; replaces a checkpoint of the same step.

        Args:
            step: the run's progress.
            writer: fills a local folder, sub-folders allowed.
            score: larger is better; one with a NaN in it counts as unknown.

        Returns:
            The checkpoint's path inside the filesystem.

        Raises:
            StorageFailed: it cannot be stored (disk full, storage gone); nothing of it is left, the ones before stand.
        """
        known = score is not None and not any(math.isnan(part) for part in score)
        description = {"step": int(step), "score": [float(part) for part in score] if score and known else None}
        here = storage.local_path(self._filesystem, self._root)
        parent: Path | None = None
        try:
            if here is not None:
                here.mkdir(parents=True, exist_ok=True)
                for stale in here.glob(f"{SAVING}*"):
                    shutil.rmtree(stale, ignore_errors=True)
            parent = Path(tempfile.mkdtemp(prefix=SAVING, dir=here))
            folder = parent / "checkpoint"  # not mkdtemp's own folder, whose mode shuts others out
            folder.mkdir()
            writer(folder)
            _write_manifest(folder, description)
            path = f"{self._root}/{self._free_name(step)}"
            if here is None:
                self._upload(folder, path)
            else:
                os.rename(folder, path)
                storage.sync_folder(here)
        except Exception as error:
            # Writers report a full disk in their own ways: torch.save raises a RuntimeError.
            full = parent is not None and storage.disk_is_full(parent)
            if not full and (isinstance(error, UserError) or not isinstance(error, OSError)):
                raise
            why = "No space left on device" if full else storage.reason(error)
            raise StorageFailed(f"cannot save the checkpoint of step {step} in {self._root!r}: {why}") from error
        finally:
            if parent is not None:
                shutil.rmtree(parent, ignore_errors=True)
        self._prune(path)
        return path

    def list(self) -> Sequence[Checkpoint]:
        """All checkpoints whose files are there in their right sizes, oldest first; contents are not read.

        Raises:
            UserError: storage does not say what there is.
        """
        return [found for name in self._names() if isinstance(found := self._look(name), Checkpoint)]

    def latest(self, verify: bool = True) -> Checkpoint | None:
        """The newest one that is whole, `None` if there is none; torn ones are skipped with a warning.

        Args:
            verify: compare every file's checksum; without it, only sizes.

        Raises:
            UserError: storage does not say what there is, or there are some and none can be read.
        """
        unread: _UnreadableError | None = None
        for name in reversed(self._names()):
            found = self._look(name)
            try:
                if isinstance(found, _DamagedError):
                    raise found
                if verify:
                    found._verify()
                return found
            except _DamagedError as torn:
                unread = torn if isinstance(torn, _UnreadableError) else unread
                logger.warning("checkpoint %s %s and skipped: %s", f"{self._root}/{name}", torn.KIND, torn)
        if unread is not None:
            raise UserError(f"cannot read the checkpoints in {self._root!r}: {unread}")
        return None

    def best(self, verify: bool = True) -> Checkpoint | None:
        """The whole one of the highest score, the newest of equals; `None` if none has a score.

        Args:
            verify: as of `latest`.

        Raises:
            UserError: storage does not say what there is.
        """
        scored = [(found.score, found.step, found) for found in self.list() if found.score is not None]
        for _, _, found in sorted(scored, key=lambda entry: entry[:2], reverse=True):
            try:
                if verify:
                    found._verify()
                return found
            except _DamagedError as torn:
                logger.warning("checkpoint %s %s and skipped: %s", found.path, torn.KIND, torn)
        return None

    def _names(self) -> Sequence[str]:
        """The folders that are named as checkpoints, oldest first."""
        try:
            names = storage.folders(self._filesystem, self._root)
        except OSError as error:
            raise UserError(f"cannot read the checkpoints in {self._root!r}: {storage.reason(error)}") from error
        return sorted((name for name in names if NAME.fullmatch(name)), key=_order)

    def _look(self, name: str) -> Checkpoint | _DamagedError:
        path = f"{self._root}/{name}"
        try:
            manifest = json.loads(storage.read(self._filesystem, f"{path}/{MANIFEST}"))
            files = {
                str(file): {"size": int(of["size"]), "sha256": str(of["sha256"])}
                for file, of in manifest["files"].items()
            }
            score = None if manifest["score"] is None else tuple(float(part) for part in manifest["score"])
            if manifest["step"] != _order(name)[0]:
                return _DamagedError(f"its manifest says step {manifest['step']}")
            if any(PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts for file in files):
                return _DamagedError("its manifest names files outside the checkpoint")
        except FileNotFoundError:
            return _DamagedError(f"no {MANIFEST}")
        except OSError as error:
            return _UnreadableError(f"{MANIFEST}: {storage.reason(error)}")
        except (ValueError, KeyError, TypeError, AttributeError):
            return _DamagedError(f"{MANIFEST} is not readable")
        try:
            infos = self._filesystem.get_file_info([f"{path}/{file}" for file in files])
        except OSError as error:
            return _UnreadableError(storage.reason(error))
        for info, (file, expected) in zip(infos, files.items(), strict=True):
            if info.type != fs.FileType.File or info.size != expected["size"]:
                size = info.size if info.type == fs.FileType.File else "no"
                return _DamagedError(f"{file} has {size} bytes of {expected['size']}")
        return Checkpoint(_order(name)[0], score, path, self._filesystem, files)

    def _free_name(self, step: int) -> str:
        generations = [_order(name)[1] for name in self._names() if _order(name)[0] == step]
        return f"{step:012d}" if not generations else f"{step:012d}-{max(generations) + 1}"

    def _upload(self, folder: Path, path: str) -> None:
        files = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        try:
            for name in [*(name for name in files if name != MANIFEST), MANIFEST]:
                self._filesystem.create_dir(f"{path}/{name}".rpartition("/")[0], recursive=True)
                fs.copy_files(str(folder / name), f"{path}/{name}", fs.LocalFileSystem(), self._filesystem)
        except BaseException:
            self._delete(path)
            raise

    def _prune(self, saved: str) -> None:
        """Deletes all but the `keep` latest steps and the best, torn and replaced ones too; unreadable ones stay."""
        try:
            looked = {name: self._look(name) for name in self._names()}
        except UserError as error:
            logger.warning("%s", error)  # the next save sees to it
            return
        whole = {_order(name): found for name, found in looked.items() if isinstance(found, Checkpoint)}
        newest_of_step = {step: found for (step, _), found in sorted(whole.items(), key=lambda entry: entry[0])}
        kept = {found.path for _, found in sorted(newest_of_step.items())[-self.keep :]} | {saved}
        scored = [(found.score, step, found.path) for step, found in newest_of_step.items() if found.score is not None]
        if scored:
            kept.add(max(scored)[2])
        kept |= {f"{self._root}/{name}" for name, found in looked.items() if isinstance(found, _UnreadableError)}
        for name in looked:
            if f"{self._root}/{name}" not in kept:
                self._delete(f"{self._root}/{name}")

    def _delete(self, path: str) -> None:
        try:
            self._filesystem.delete_dir(path)
        except OSError as error:
            logger.warning("cannot delete the checkpoint %s: %s", path, storage.reason(error))


def _order(name: str) -> tuple[int, int]:
    """Step and generation of a checkpoint's folder name."""
    match = NAME.fullmatch(name)
    assert match is not None, name
    return int(match[1]), int(match[2] or 1)


def _write_manifest(folder: Path, description: dict[str, Any]) -> None:
    """Describes every file of `folder` in its manifest, and makes all of them durable."""
    files: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_dir():
            storage.sync_folder(file)
            continue
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        files[file.relative_to(folder).as_posix()] = {"size": file.stat().st_size, "sha256": digest}
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump({**description, "files": files}, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    storage.sync_folder(folder)
