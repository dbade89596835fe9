"""The system calls that a sample may make: a seccomp filter as raw BPF, no library needed.

An allow list: a call that nobody thought of is refused. Refused are new processes and programs,
sockets, signals to anybody, tracing, namespaces and mounts, System V and POSIX shared memory,
keys, BPF, io_uring and the like. The filter is a binary search over the call's number, so that it
costs the kernel some eight steps where a list of rules would cost a hundred. Most of it is put on
the zygote once and inherited; a sample adds the short rest, and the kernel obeys the stricter of
the two. Numbers are those of the kernel's tables for x86-64 and of asm-generic for arm64.

Knows nothing of namespaces and files; `landlock.py` and `namespaces.py` do.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

Instruction = tuple[int, int, int, int]

LOAD, JEQ, JGE, JSET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
X32 = 0x40000000
PR_SET_SECCOMP, MODE_FILTER = 22, 2
PR_SET_NAME, PR_GET_NAME = 15, 16
# Copies, flags and locks. Others name a process that the kernel then sends a signal of choice to (F_SETOWN, F_SETSIG).
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
CLONE_THREAD = 0x00010000
TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x5421, 0x541B, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONBIO, FIONREAD, FIO*CLEX

# machine: (AUDIT_ARCH, column in the tables)
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# name: (x86-64, arm64); None where an architecture has no such call.
ALWAYS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "access": (21, None), "pipe": (22, None), "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216),
    "msync": (26, 227), "mincore": (27, 232), "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None),
    "pause": (34, None), "nanosleep": (35, 101), "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103),
    "getpid": (39, 172), "sendfile": (40, 71), "exit": (60, 93), "wait4": (61, 260), "uname": (63, 160),
    "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46),
    "getdents": (78, None), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "readlink": (89, None),
    "umask": (95, 166), "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165),
    "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175),
    "getegid": (108, 177), "getppid": (110, 173), "getpgrp": (111, None), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "getpgid": (121, 155), "getsid": (124, 156),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "statfs": (137, 43), "fstatfs": (138, 44), "getpriority": (140, 141),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "arch_prctl": (158, None), "gettid": (186, 178),
    "readahead": (187, 213), "time": (201, None), "futex": (202, 98), "sched_getaffinity": (204, 123),
    "epoll_create": (213, None), "getdents64": (217, 61), "set_tid_address": (218, 96), "restart_syscall": (219, 128),
    "fadvise64": (221, 223), "timer_create": (222, 107), "timer_settime": (223, 110), "timer_gettime": (224, 108),
    "timer_getoverrun": (225, 109), "timer_delete": (226, 111), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94), "epoll_wait": (232, None),
    "epoll_ctl": (233, 21), "waitid": (247, 95), "openat": (257, 56), "newfstatat": (262, 79),
    "readlinkat": (267, 78), "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73),
    "set_robust_list": (273, 99), "epoll_pwait": (281, 22), "eventfd": (284, None), "fallocate": (285, 47),
    "eventfd2": (290, 19), "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59), "preadv": (295, 69),
    "pwritev": (296, 70), "getcpu": (309, 168), "getrandom": (318, 278), "membarrier": (324, 283),
    "copy_file_range": (326, 285), "preadv2": (327, 286), "pwritev2": (328, 287), "statx": (332, 291),
    "rseq": (334, 293), "close_range": (436, 436), "faccessat2": (439, 439),
}  # fmt: skip

# Names and metadata of files. Landlock does not restrict chmod, chown and their like, so they are
# only for a sample that sees no file of the machine's that it could write.
PRIVATE_FILES: dict[str, tuple[int | None, int | None]] = {
    "truncate": (76, 45), "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None),
    "link": (86, None), "unlink": (87, None), "symlink": (88, None), "chmod": (90, None), "fchmod": (91, 52),
    "utime": (132, None), "utimes": (235, None), "mkdirat": (258, 34), "unlinkat": (263, 35), "renameat": (264, 38),
    "linkat": (265, 37), "symlinkat": (266, 36), "fchmodat": (268, 53), "utimensat": (280, 88), "renameat2": (316, 276),
    "fchmodat2": (452, 452),
}  # fmt: skip

# What the checker needs besides: it is handed a channel for each sample.
CHECKER: dict[str, tuple[int | None, int | None]] = {"recvmsg": (47, 212)}

# What only the zygote needs, to fork samples and checkers, hand them channels and end them.
ZYGOTE: dict[str, tuple[int | None, int | None]] = {
    "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212), "socketpair": (53, 199),
    "fork": (57, None), "vfork": (58, None), "kill": (62, 129), "setrlimit": (160, 164), "seccomp": (317, 277),
    "getsockname": (51, 204), "getsockopt": (55, 209), "pidfd_open": (434, 434),
    "sched_setaffinity": (203, 122),
}  # fmt: skip

CLONE, CLONE3, IOCTL, PRCTL, PRLIMIT = (56, 220), (435, 435), (16, 29), (157, 167), (302, 261)
FCNTL = (72, 25)
OPEN, OPENAT = (2, None), (257, 56)


def build(machine: str, *, private_files: bool, checker: bool = False) -> bytes:
    """The whole filter's instructions for `machine` (`os.uname().machine`), as the kernel takes them.

    Raises:
        KeyError: no table for this machine.
    """
    column = MACHINES[machine][1]
    allowed = [ALWAYS, *([PRIVATE_FILES] if private_files else []), *([CHECKER] if checker else [])]
    return _program(machine, {**_tabled(allowed, column, [_give(ALLOW)]), **_conditional(column)}, _REFUSED)


def build_zygote(machine: str, *, private_files: bool, truncation: bool = True) -> bytes:
    """The zygote's filter, which its children inherit: what they may do, and what the zygote needs besides.

    Args:
        machine: `os.uname().machine`.
        private_files: no file of the machine's is in sight that could be written.
        truncation: opening a file may empty it; if not, `O_TRUNC` is refused.
    """
    column = MACHINES[machine][1]
    allowed = [ALWAYS, *([PRIVATE_FILES] if private_files else []), ZYGOTE]
    verdicts = {**_tabled(allowed, column, [_give(ALLOW)]), **_conditional(column)}
    verdicts.update({numbers[column]: [_give(ALLOW)] for numbers in (CLONE, PRCTL, PRLIMIT)})
    if not truncation:
        verdicts.update(_without_truncation(column))
    return _program(machine, verdicts, _REFUSED)


def build_rest(machine: str, *, checker: bool = False) -> bytes:
    """What makes the zygote's filter the whole one: short, for it is installed for every sample."""
    column = MACHINES[machine][1]
    verdicts = _tabled([ZYGOTE], column, _REFUSED)
    conditional = _conditional(column)
    verdicts.update({numbers[column]: conditional[numbers[column]] for numbers in (CLONE, PRCTL, PRLIMIT)})
    if checker:
        verdicts.update(_tabled([CHECKER], column, [_give(ALLOW)]))
    return _program(machine, verdicts, [_give(ALLOW)])


def _tabled(
    tables: Sequence[dict[str, tuple[int | None, int | None]]], column: int, verdict: list[Instruction]
) -> dict[int, list[Instruction]]:
    numbers = (entry[column] for table in tables for entry in table.values())
    return {number: verdict for number in numbers if number is not None}


def _conditional(column: int) -> dict[int, list[Instruction]]:
    """The calls that depend on their arguments."""
    return {
        CLONE[column]: [_load(ARGUMENTS), (JSET, 0, 1, CLONE_THREAD), _give(ALLOW), *_REFUSED],
        CLONE3[column]: [_give(ERRNO | errno.ENOSYS)],  # glibc then falls back to clone
        FCNTL[column]: _one_of(1, FCNTL_COMMANDS, ERRNO | errno.EPERM),
        IOCTL[column]: _one_of(1, TERMINAL_QUESTIONS, ERRNO | errno.ENOTTY),
        PRCTL[column]: _one_of(0, (PR_SET_NAME, PR_GET_NAME), ERRNO | errno.EPERM),
        PRLIMIT[column]: _asks_own_limits(_REFUSED),
    }


def _without_truncation(column: int) -> dict[int, list[Instruction]]:
    """The calls that open a file, refused where they would empty it."""
    places = ((OPEN[column], 1), (OPENAT[column], 2))
    return {
        number: [_load(ARGUMENTS + 8 * argument), (JSET, 0, 1, os.O_TRUNC), *_REFUSED, _give(ALLOW)]
        for number, argument in places
        if number is not None
    }


def _program(machine: str, verdicts: dict[int, list[Instruction]], otherwise: list[Instruction]) -> bytes:
    steps: list[tuple[int, list[Instruction]]] = [(0, verdicts.get(0, otherwise))]
    for number in range(1, max(verdicts) + 2):
        verdict = verdicts.get(number, otherwise)
        if verdict != steps[-1][1]:
            steps.append((number, verdict))
    steps.append((X32, [_give(KILL)]))
    head = [_load(ARCHITECTURE), (JEQ, 1, 0, MACHINES[machine][0]), _give(KILL), _load(NUMBER)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in head + _search(steps))


class Filter:
    """A filter's program, laid out in memory so that a fresh process has one call to make."""

    def __init__(self, program: bytes) -> None:
        self._program = ctypes.create_string_buffer(program, len(program))
        self._header = ctypes.create_string_buffer(
            struct.pack("@HP", len(program) // 8, ctypes.addressof(self._program))
        )
        self._address = ctypes.addressof(self._header)

    def install(self) -> None:
        """Puts the filter on this process for good; `no_new_privs` must be set.

        Raises:
            OSError: the kernel refuses.
        """
        if _PRCTL(PR_SET_SECCOMP, MODE_FILTER, self._address, 0, 0):
            code = ctypes.get_errno()
            raise OSError(code, f"seccomp: {os.strerror(code)}")


def _load(offset: int) -> Instruction:
    return (LOAD, 0, 0, offset)


def _give(verdict: int) -> Instruction:
    return (RETURN, 0, 0, verdict)


def _one_of(argument: int, values: tuple[int, ...], otherwise: int) -> list[Instruction]:
    """Allows the call if the low word of an argument is one of `values`."""
    tests = [(JEQ, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_load(ARGUMENTS + 8 * argument), *tests, _give(otherwise), _give(ALLOW)]


def _asks_own_limits(refused: list[Instruction]) -> list[Instruction]:
    """`prlimit64(0, which, NULL, ...)`: reading one's own limits."""
    words = (ARGUMENTS, ARGUMENTS + 4, ARGUMENTS + 16, ARGUMENTS + 20)
    tests: list[Instruction] = []
    for index, word in enumerate(words):
        tests += [_load(word), (JEQ, 0, 2 * (len(words) - index) - 1, 0)]
    return [*tests, _give(ALLOW), *refused]


_REFUSED: list[Instruction] = [(RETURN, 0, 0, ERRNO | errno.EPERM)]


def _search(steps: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Binary search: `steps` are the first number of each stretch of equal verdicts, ascending."""
    if len(steps) == 1:
        return steps[0][1]
    middle = len(steps) // 2
    low, high = _search(steps[:middle]), _search(steps[middle:])
    return [(JGE, len(low), 0, steps[middle][0]), *low, *high]


_PRCTL = ctypes.CDLL(None, use_errno=True).prctl
_PRCTL.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
