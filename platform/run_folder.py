"""The run folder: everything that a run leaves behind, in one place that it can be continued and drawn from.

    runs/<name>/experiment.yaml    complete and resolved
                provenance.json    what ran, on what
                metrics.parquet    one row an iteration
                tensorboard/       (local folders only)
                checkpoints/       the latest few and the best

Knows where these are; what is in them belongs to `metrics`, `checkpoints`, `provenance` and the
training driver.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs

from quadriga.platform import experiment as experiments
from quadriga.platform import storage
from quadriga.platform.checkpoints import CheckpointStore
from quadriga.platform.errors import StorageFailed, UserError, nearest
from quadriga.platform.metrics import MetricsTable
from quadriga.platform.writer_lock import writing

if TYPE_CHECKING:
    from quadriga.platform.experiment import Experiment

EXPERIMENT = "experiment.yaml"
PROVENANCE = "provenance.json"
METRICS = "metrics.parquet"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
PROBE_BYTES = 1 << 20


class RunFolder:
    """The folder of one run, on the local disk or in remote storage.

    Attributes:
        path: folder or URI, as it was given; `RunFolder.open(path)` finds it again.
        name: the last part of `path`.
    """

    def __init__(self, path: str, filesystem: fs.FileSystem, root: str) -> None:
        """`root` is the folder's path inside `filesystem`; `create` and `open` find both."""
        self.path = path
        self.name = root.rstrip("/").rpartition("/")[2]
        self._filesystem = filesystem
        self._root = root

    def __repr__(self) -> str:
        return f"RunFolder({self.path!r})"

    @classmethod
    def create(cls, runs_dir: str, name: str) -> RunFolder:
        """A new folder in `runs_dir` (a folder or URI); if `name` is taken: `name-2`, `name-3`, ...

        Raises:
            UserError: `name` is no folder name, or the folder cannot be written (tried with a real file).
        """
        if not experiments.RUN_NAME.fullmatch(name):
            raise UserError(
                f"run name {name!r}: allowed: letters, digits and . _ + -, beginning with a letter or digit"
            )
        filesystem, parent = storage.resolve(runs_dir)
        try:
            taken = _take_name(filesystem, parent, name)
        except OSError as error:
            raise UserError(f"cannot make a run folder in {runs_dir!r}: {storage.reason(error)}") from error
        run = cls(storage.join(runs_dir, taken), filesystem, storage.join(parent, taken))
        try:
            run._try_writing()
        except OSError as error:
            local = run.local_path("")
            if local is not None:
                shutil.rmtree(local, ignore_errors=True)
            raise UserError(f"cannot write to the run folder {run.path!r}: {storage.reason(error)}") from error
        return run

    @classmethod
    def claim(cls, runs_dir: str, name: str) -> RunFolder:
        """The folder `name` itself, made if it is not there; what it holds already stays.

        For trials, which are found again by their names.

        Raises:
            UserError: it cannot be made.
        """
        filesystem, parent = storage.resolve(runs_dir)
        run = cls(storage.join(runs_dir, name), filesystem, storage.join(parent, name))
        try:
            if (local := run.local_path("")) is not None:
                local.mkdir(parents=True, exist_ok=True)
            else:
                filesystem.create_dir(storage.join(parent, name), recursive=True)
        except OSError as error:
            raise StorageFailed(f"cannot make the run folder {run.path!r}: {storage.reason(error)}") from error
        return run

    @classmethod
    def open(cls, run: str, runs_dir: str = "runs") -> RunFolder:
        """An existing run: its name in `runs_dir`, or its path or URI.

        Raises:
            UserError: no such run; names the nearest.
        """
        run = run.rstrip("/") or run
        is_name = not storage.is_uri(run) and "/" not in run
        for location in [storage.join(runs_dir, run), run] if is_name else [run]:
            filesystem, root = storage.resolve(location)
            found = cls(location, filesystem, root)
            if found.exists(EXPERIMENT):
                return found
        if is_name:
            known = list_runs(runs_dir)
            raise UserError(f"no run {run!r} in {runs_dir!r}{nearest(run, known) or _listed(known)}")
        if storage.exists(filesystem, root):
            raise UserError(f"{run!r} is not a run folder: it holds no {EXPERIMENT}")
        parent, _, name = run.rpartition("/")
        known = []
        with contextlib.suppress(UserError):  # a folder with others in it that are not ours to read
            known = list_runs(parent or "/")
        raise UserError(f"no run folder {run!r}{nearest(name, known)}")

    def writing(self, *, wait: float = 0.0) -> contextlib.AbstractContextManager[None]:
        """Keeps other processes from training the run meanwhile, if it is in a local folder; see `writer_lock`.

        Raises:
            FolderTaken: one does, and has not ended within `wait` seconds.
        """
        return writing(self.local_path(""), f"run {self.path!r} is being trained", wait=wait)

    def exists(self, name: str) -> bool:
        """Whether the run holds a file or folder `name`."""
        try:
            return storage.exists(self._filesystem, storage.join(self._root, name))
        except OSError as error:
            raise UserError(f"cannot read {self.path!r}: {storage.reason(error)}") from error

    def write_text(self, name: str, text: str) -> None:
        """Writes the UTF-8 file `name`, whole or not at all.

        Raises:
            StorageFailed: it cannot be written.
        """
        try:
            storage.write(self._filesystem, storage.join(self._root, name), text.encode())
        except OSError as error:
            raise StorageFailed(f"cannot write {storage.join(self.path, name)!r}: {storage.reason(error)}") from error

    def read_text(self, name: str) -> str:
        """The UTF-8 file `name`.

        Raises:
            UserError: it is not there or cannot be read.
        """
        try:
            return storage.read(self._filesystem, storage.join(self._root, name)).decode()
        except FileNotFoundError:
            raise UserError(f"run {self.path!r} holds no {name}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {storage.join(self.path, name)!r}: {storage.reason(error)}") from error

    def local_path(self, name: str) -> Path | None:
        """Where `name` is on this machine's disk (absolute); `None` if the run is in remote storage."""
        return storage.local_path(self._filesystem, f"{self._root}/{name}" if name else self._root)

    def experiment(self) -> Experiment:
        """The experiment that the run was started with.

        Raises:
            UserError: `experiment.yaml` is missing or no longer valid.
        """
        where = storage.join(self.path, EXPERIMENT)
        document = experiments.parse_yaml(self.read_text(EXPERIMENT), where=where)
        if not isinstance(document, dict):
            raise UserError(f"{where}: expected a mapping of experiment fields, got {type(document).__name__}")
        return experiments.build(document, where=where)

    @cached_property
    def metrics(self) -> MetricsTable:
        """One row an iteration."""
        return MetricsTable(self._filesystem, f"{self._root}/{METRICS}")

    @cached_property
    def checkpoints(self) -> CheckpointStore:
        """The latest and the best; how many are kept says the experiment, once it is written."""
        settings = self.experiment().checkpoint if self.exists(EXPERIMENT) else experiments.CheckpointSettings()
        return CheckpointStore(self._filesystem, f"{self._root}/{CHECKPOINTS}", settings.keep)

    def remove(self) -> None:
        """Deletes the run with everything in it.

        Raises:
            UserError: it cannot be deleted.
        """
        try:
            self._filesystem.delete_dir(self._root)
        except FileNotFoundError:
            pass  # object stores keep no empty folders
        except OSError as error:
            raise UserError(f"cannot delete the run {self.path!r}: {storage.reason(error)}") from error

    def _try_writing(self) -> None:
        path = f"{self._root}/.probe"
        storage.write(self._filesystem, path, bytes(PROBE_BYTES))
        self._filesystem.delete_file(path)


def list_runs(runs_dir: str = "runs") -> list[str]:
    """The names of the runs in a folder or URI, sorted; none if it does not exist.

    Raises:
        UserError: it cannot be read.
    """
    filesystem, parent = storage.resolve(runs_dir)
    try:
        names = storage.folders(filesystem, parent)
        return [name for name in names if storage.exists(filesystem, f"{parent}/{name}/{EXPERIMENT}")]
    except OSError as error:
        raise UserError(f"cannot list the runs in {runs_dir!r}: {storage.reason(error)}") from error


def numbered(name: str) -> Iterator[str]:
    """The names of whatever would be called `name`, in the order of preference: `name`, `name-2`, `name-3`, ..."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _take_name(filesystem: fs.FileSystem, parent: str, name: str) -> str:
    """Makes the first free folder of `name`, `name-2`, ... and returns its name."""
    local = storage.local_path(filesystem, parent)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)

    def make(each: str) -> bool:
        if local is None:
            path = f"{parent}/{each}"
            free = not storage.exists(filesystem, path)
            if free:
                filesystem.create_dir(path, recursive=True)
            return free
        try:
            (local / each).mkdir()  # two runs that start at once cannot both succeed
        except FileExistsError:
            return False
        return True

    return next(filter(make, numbered(name)))


def _listed(names: list[str], most: int = 8) -> str:
    if not names:
        return "; there are no runs in it"
    return f"; runs: {', '.join(names[:most])}{', ...' if len(names) > most else ''}"
