"""The system calls that Python has no name for, through libc: namespaces, mounts, capabilities, Landlock.

Thin: each function is one call and raises `OSError` with the call's name. What is done with them is
said in `namespaces.py` and `landlock.py`.
"""

from __future__ import annotations

import ctypes
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
SYS_MOUNT_SETATTR, SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 442, 444, 445, 446
CAPABILITY_VERSION_3 = 0x20080522


def check(result: int, what: str) -> int:
    """`result` of a call of libc.

    Raises:
        OSError: it is negative; says `what` failed and why.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Leaves the namespaces named by `CLONE_*` flags."""
    check(LIBC.unshare(ctypes.c_int(flags)), "unshare")


def prctl(option: int, value: int) -> None:
    """Sets a property of this process."""
    check(LIBC.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl")


def current_processor() -> int:
    """Number of the processor that this runs on."""
    return check(LIBC.sched_getcpu(), "sched_getcpu")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    done = LIBC.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    check(done, f"mount {target}")


def unmount(target: str) -> None:
    """Detaches a mount, whatever still uses it."""
    check(LIBC.umount2(target.encode(), MNT_DETACH), f"unmount {target}")


def pivot_root(new: str, old: str) -> None:
    """Makes `new` the root and puts the old one at `old`."""
    number = SYS_PIVOT_ROOT[os.uname().machine]
    check(LIBC.syscall(ctypes.c_long(number), new.encode(), old.encode()), "pivot_root")


def make_read_only(target: str) -> None:
    """Makes a bind mount and the mounts below it read-only, without devices and set-uid programs."""
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    done = LIBC.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(AT_FDCWD),
        target.encode(),
        ctypes.c_uint(AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    if done < 0:  # before Linux 5.12: this mount alone, and its locked flags must be repeated
        flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
        mount("none", target, flags=flags | kept_flags(target))


def kept_flags(target: str) -> int:
    """A mount's flags that a user namespace may not take away, and so has to repeat."""
    have = os.statvfs(target).f_flag
    return have & (MS_NOEXEC | MS_NOATIME | MS_NODIRATIME) | (MS_RELATIME if have & 4096 else 0)


def drop_capabilities() -> None:
    """Gives up every capability for good."""
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    number = SYS_CAPSET[os.uname().machine]
    check(LIBC.syscall(ctypes.c_long(number), header, bytes(24)), "capset")
