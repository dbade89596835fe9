"""Where runs are kept: a local folder or any storage that pyarrow or fsspec knows by URI.

Knows paths, bytes and how storage fails; knows nothing of what a run folder holds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pyarrow import ArrowInvalid, fs

from quadriga.platform.errors import UserError

FULL_DISK_BYTES = 1 << 20


def is_uri(location: str) -> bool:
    """Whether `location` has a scheme (`s3://`, `gs://`, `file://`, ...) and is no plain path."""
    return "://" in location


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a local folder or URI, and the path inside it (absolute when local).

    Raises:
        UserError: no filesystem for the URI, or it does not answer.
    """
    if not is_uri(location):
        return fs.LocalFileSystem(), str(Path(location).expanduser().absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except ArrowInvalid:
        filesystem, path = _from_fsspec(location)
    except OSError as error:
        raise UserError(f"storage {location!r} does not answer: {reason(error)}") from error
    return filesystem, path.rstrip("/")


def _from_fsspec(location: str) -> tuple[fs.FileSystem, str]:
    try:
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise UserError(f"storage {location!r} is not known: {reason(error)}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def join(location: str, name: str) -> str:
    """`name` inside the folder or URI `location`."""
    return f"{location.rstrip('/')}/{name}"


def local_path(filesystem: fs.FileSystem, path: str) -> Path | None:
    """`path` on this machine's disk; `None` if it is elsewhere."""
    return Path(path) if isinstance(filesystem, fs.LocalFileSystem) else None


def exists(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether a file or folder is there."""
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def folders(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The names of the folders in the folder `path`, sorted; none if it does not exist."""
    return _entries(filesystem, path, fs.FileType.Directory)


def files(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The names of the files in the folder `path`, sorted; none if it does not exist."""
    return _entries(filesystem, path, fs.FileType.File)


def _entries(filesystem: fs.FileSystem, path: str, kind: fs.FileType) -> list[str]:
    selector = fs.FileSelector(path, allow_not_found=True)
    return sorted(info.base_name for info in filesystem.get_file_info(selector) if info.type == kind)


def read(filesystem: fs.FileSystem, path: str) -> bytes:
    """The whole file.

    Raises:
        OSError: it cannot be read.
    """
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def write(filesystem: fs.FileSystem, path: str, data: bytes, *, durable: bool = True) -> None:
    """Writes a file that readers see whole or not at all; its folder is made if absent.

    On a local disk: a temporary name, then a rename. Object stores show an object when its last byte is in.

    Args:
        durable: on a local disk, wait until the bytes would survive a loss of power.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    target = local_path(filesystem, path)
    if target is None:
        parent = path.rpartition("/")[0]
        if parent:
            filesystem.create_dir(parent, recursive=True)
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a local folder survive a loss of power, where the filesystem can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network filesystems know no fsync of a folder
    finally:
        os.close(descriptor)


def disk_is_full(path: Path) -> bool:
    """Whether the local disk that holds `path` has no room for a small file."""
    return shutil.disk_usage(path).free < FULL_DISK_BYTES


def reason(error: BaseException) -> str:
    """Why storage failed, in the system's words and on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _umask() -> int:
    # Read once at import: the only way to read the mask is to set it, and threads share it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


_UMASK = _umask()
