"""The filter says about every system call what its tables say; run here by an interpreter of BPF."""

import errno
import os
import re
import struct
from pathlib import Path

import pytest

from quadriga.codegen.sandbox import seccomp

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
REFUSED = seccomp.ERRNO | errno.EPERM


def verdict(program: bytes, number: int, *arguments: int, architecture: int) -> int:
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = place = 0
    while True:
        code, yes, no, constant = instructions[place]
        place += 1
        if code == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == seccomp.RETURN:
            return constant
        else:
            true = {seccomp.JEQ: accumulator == constant, seccomp.JGE: accumulator >= constant}
            true[seccomp.JSET] = bool(accumulator & constant)
            place += yes if true[code] else no


@pytest.fixture(params=sorted(seccomp.MACHINES))
def machine(request):
    return request.param


def test_every_number_is_allowed_if_and_only_if_a_table_has_it(machine):
    architecture, column = seccomp.MACHINES[machine]
    special = {
        numbers[column]
        for numbers in (seccomp.CLONE, seccomp.CLONE3, seccomp.FCNTL, seccomp.IOCTL, seccomp.PRCTL, seccomp.PRLIMIT)
    }
    for private in (False, True):
        program = seccomp.build(machine, private_files=private)
        tables = [seccomp.ALWAYS, *([seccomp.PRIVATE_FILES] if private else [])]
        allowed = {numbers[column] for table in tables for numbers in table.values()}
        for number in set(range(600)) - special:
            expected = seccomp.ALLOW if number in allowed else REFUSED
            assert verdict(program, number, architecture=architecture) == expected, number


def test_another_architecture_and_the_x32_calls_end_the_process(machine):
    architecture, _ = seccomp.MACHINES[machine]
    program = seccomp.build(machine, private_files=True)
    assert verdict(program, 0, architecture=0x40000003) == seccomp.KILL
    assert verdict(program, seccomp.X32 | 1, architecture=architecture) == seccomp.KILL


def test_calls_that_depend_on_their_arguments(machine):
    architecture, column = seccomp.MACHINES[machine]
    program = seccomp.build(machine, private_files=True)

    def ask(numbers, *arguments):
        return verdict(program, numbers[column], *arguments, architecture=architecture)

    assert ask(seccomp.CLONE, 0x3D0F00) == seccomp.ALLOW  # a thread, as glibc makes it
    assert ask(seccomp.CLONE, 17) == ask(seccomp.CLONE, 0x10000000) == REFUSED
    assert ask(seccomp.CLONE3, 0) == seccomp.ERRNO | errno.ENOSYS
    assert ask(seccomp.IOCTL, 0, 0x5401) == seccomp.ALLOW
    assert ask(seccomp.IOCTL, 0, 0x5412) == seccomp.ERRNO | errno.ENOTTY  # TIOCSTI types into a terminal
    assert ask(seccomp.FCNTL, 3, 4, 0x800) == seccomp.ALLOW
    assert {ask(seccomp.FCNTL, 3, command) for command in (8, 10, 15, 1024, 1026, 1031)} == {REFUSED}  # F_SETOWN, ...
    assert ask(seccomp.PRCTL, seccomp.PR_SET_NAME) == seccomp.ALLOW
    assert ask(seccomp.PRCTL, 4) == REFUSED
    assert ask(seccomp.PRLIMIT, 0, 7, 0) == seccomp.ALLOW
    assert (
        ask(seccomp.PRLIMIT, 1, 7, 0) == ask(seccomp.PRLIMIT, 0, 7, 1 << 32) == ask(seccomp.PRLIMIT, 0, 7, 1) == REFUSED
    )


def test_metadata_of_files_cannot_be_changed_where_the_machine_s_files_are_in_sight(machine):
    architecture, column = seccomp.MACHINES[machine]
    program = seccomp.build(machine, private_files=False)
    for name in ("fchmod", "fchmodat", "utimensat", "truncate", "unlinkat"):
        assert verdict(program, seccomp.PRIVATE_FILES[name][column], architecture=architecture) == REFUSED


def test_no_file_can_be_emptied_by_opening_it_where_landlock_does_not_see_that(machine):
    architecture, column = seccomp.MACHINES[machine]
    for truncation in (False, True):
        program = seccomp.build_zygote(machine, private_files=False, truncation=truncation)
        for numbers, place in ((seccomp.OPEN, 1), (seccomp.OPENAT, 2)):
            for flags in (os.O_RDONLY, os.O_ACCMODE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC):
                if numbers[column] is not None:
                    said = [
                        verdict(program, numbers[column], *[0] * place, each, architecture=architecture)
                        for each in (flags, flags | os.O_TRUNC)
                    ]
                    assert said == [seccomp.ALLOW, seccomp.ALLOW if truncation else REFUSED]


@pytest.mark.parametrize(("machine_name", "header"), HEADERS.items())
def test_numbers_are_those_of_the_kernel_s_headers(machine_name, header):
    if not header.is_file():
        pytest.skip(f"no {header} here")
    text = header.read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    column = seccomp.MACHINES[machine_name][1]
    special = {
        "clone": seccomp.CLONE,
        "clone3": seccomp.CLONE3,
        "ioctl": seccomp.IOCTL,
        "fcntl": seccomp.FCNTL,
        "prctl": seccomp.PRCTL,
    }
    tables = {**seccomp.ALWAYS, **seccomp.PRIVATE_FILES, **seccomp.CHECKER, **special, "prlimit64": seccomp.PRLIMIT}
    aliases = {"newfstatat": "fstatat", "fadvise64": "fadvise64"} if machine_name == "aarch64" else {}
    wrong = {
        name: (numbers[column], known.get(aliases.get(name, name)))
        for name, numbers in tables.items()
        if numbers[column] is not None
        and aliases.get(name, name) in known
        and known[aliases.get(name, name)] != numbers[column]
    }
    assert wrong == {}


def test_the_program_fits_the_kernel_s_bounds(machine):
    program = seccomp.build(machine, private_files=True, checker=True)
    assert len(program) // 8 <= 4096


@pytest.mark.parametrize("checker", [False, True])
@pytest.mark.parametrize("private", [False, True])
def test_the_inherited_filter_and_the_rest_are_the_whole_one(machine, private, checker):
    architecture, _ = seccomp.MACHINES[machine]
    whole = seccomp.build(machine, private_files=private, checker=checker)
    parts = seccomp.build_zygote(machine, private_files=private), seccomp.build_rest(machine, checker=checker)
    for number in [*range(600), seccomp.X32, seccomp.X32 | 1]:
        for arguments in ((0, 0, 0), (0x3D0F00, 0x5401, 0), (17, 0x5412, 1), (15, 0, 0), (0, 7, 1 << 32)):
            said = [verdict(part, number, *arguments, architecture=architecture) for part in parts]
            expected = verdict(whole, number, *arguments, architecture=architecture)
            stricter = min(said, key=lambda each: (each != seccomp.KILL, each & 0x7FFF0000))
            assert stricter == expected, (number, arguments)
