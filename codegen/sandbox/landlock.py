"""Landlock: which files a process and all that come after it may touch, without any privilege.

Reading what Python needs and writing to one folder, nothing else; no TCP, no signals and no
abstract sockets to processes outside, as far as the kernel's version knows them. It does not
restrict chmod, chown and stat: `seccomp.py` takes the first two away where it matters. Nor does it
see before `TRUNCATE_VERSION` (Linux 6.2) that a file is emptied when it is opened; that is `seccomp.py`'s then.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from quadriga.codegen.sandbox import system

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
FIRST_VERSION = (1 << 13) - 1
REFER = 1 << 13
TCP, SCOPES = 0b11, 0b11
TRUNCATE_VERSION = 3


def version() -> int:
    """The kernel's version of Landlock; 0 without it."""
    found = system.LIBC.syscall(
        ctypes.c_long(system.SYS_LANDLOCK_CREATE), ctypes.c_void_p(), ctypes.c_size_t(0), ctypes.c_uint(1)
    )
    return max(0, int(found))


def restrict(read: Iterable[str], listing: Iterable[str], devices: Iterable[str], write: Iterable[str]) -> int:
    """Restricts this process for good and returns the version of Landlock that does it.

    Args:
        read: files and folders whose whole content may be read.
        listing: folders that may be listed, with all below them, though not read.
        devices: files that may be read and written.
        write: folders in which anything may be made.

    Raises:
        OSError: no Landlock here, or the kernel refuses.
    """
    known = version()
    files = FIRST_VERSION | (REFER if known >= 2 else 0) | (TRUNCATE if known >= TRUNCATE_VERSION else 0)
    files |= IOCTL if known >= 5 else 0
    fields = [files, *([TCP] if known >= 4 else []), *([SCOPES] if known >= 6 else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = system.check(
        system.LIBC.syscall(
            ctypes.c_long(system.SYS_LANDLOCK_CREATE), attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)
        ),
        "Landlock",
    )
    try:
        for paths, folder, file in (
            (read, READ_FILE | READ_DIR | EXECUTE, READ_FILE | EXECUTE),
            (listing, READ_DIR, 0),
            (devices, 0, READ_FILE | WRITE_FILE),
            (write, files & ~EXECUTE, 0),
        ):
            for path in paths:
                _allow(ruleset, path, folder & files, file & files)
        system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
        done = system.LIBC.syscall(ctypes.c_long(system.SYS_LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0))
        system.check(done, "Landlock")
    finally:
        os.close(ruleset)
    return known


def _allow(ruleset: int, path: str, folder: int, file: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no permission
    try:
        access = folder if os.path.isdir(path) else file
        if access:
            rule = struct.pack("=Qi", access, descriptor)
            done = system.LIBC.syscall(
                ctypes.c_long(system.SYS_LANDLOCK_ADD),
                ctypes.c_int(ruleset),
                ctypes.c_int(1),
                rule,
                ctypes.c_uint(0),
            )
            system.check(done, f"Landlock rule for {path}")
    finally:
        os.close(descriptor)
