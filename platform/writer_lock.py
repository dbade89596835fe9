"""One process at a time writes a local folder: a lock that ends with its holder, whatever ends that.

The lock is on a file in the folder (`flock`), whose text says who holds it. The file goes when the holder is done; what
a killed one or a copy of the folder leaves of it locks nothing. Storage that is no local folder, and filesystems
without locks, take every writer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from quadriga.platform.errors import UserError

LOCK = ".writer"
POLL_S = 0.2
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class FolderTaken(UserError):
    """Another process writes the folder."""


@contextlib.contextmanager
def writing(folder: Path | None, what: str, *, wait: float = 0.0, lock: str = LOCK) -> Iterator[None]:
    """Holds a lock of a folder, which must exist.

    Args:
        folder: the local folder; `None` if it is in other storage, which has no lock.
        what: is being done, for the error, e.g. `"run 'runs/a' is being trained"`.
        wait: seconds to wait for a writer that may be about to end.
        lock: name of the lock's file; by default that of who writes the whole folder.

    Raises:
        FolderTaken: another process holds the lock; names it.
        UserError: the lock's file cannot be written.
    """
    path = None if folder is None else folder / lock
    descriptor = None if path is None else _locked(path, what, wait)
    try:
        yield
    finally:
        if path is not None and descriptor is not None:
            with contextlib.suppress(OSError):
                if _is_current(descriptor, path):  # and still locked: who waits for it sees that it goes
                    path.unlink()
            os.close(descriptor)


def _locked(path: Path, what: str, wait: float) -> int | None:
    """The descriptor that holds the lock; `None` where the filesystem has no locks."""
    until = time.monotonic() + wait
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in TAKEN:
                return None
            if time.monotonic() >= until:
                raise FolderTaken(f"{what} by {_holder(path)}") from None
            time.sleep(POLL_S)
            continue
        if _is_current(descriptor, path):
            with contextlib.suppress(OSError):  # a full disk: locked all the same
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _myself(), 0)
            return descriptor
        os.close(descriptor)  # its holder has removed it meanwhile


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _myself() -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "machine": socket.gethostname(), "since": since}).encode()


def _holder(path: Path) -> str:
    """Who wrote the lock's file, in words."""
    try:
        held = json.loads(path.read_text())
        where = "" if held["machine"] == socket.gethostname() else f" on {held['machine']}"
        return f"process {held['pid']}{where} since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
