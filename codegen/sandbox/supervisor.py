"""Starts zygotes, hands them samples and takes verdicts; starts another one when one dies.

The zygote's side is `zygote.py` and what it imports; it is sent to a bare interpreter as source,
so that the sandbox needs to read nothing of this package. What is run where, on how many
processes and machines, is the business of `quadriga.codegen.pool`.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import NamedTuple

from quadriga.codegen.problems import Problem
from quadriga.codegen.sandbox.limits import KINDS, MODES, Isolation, Limits, Mode, Tier, Verdict, printable
from quadriga.platform.errors import UserError, one_line

INSIDE = (
    "system", "seccomp", "landlock", "namespaces", "wire", "sample", "checker", "confinement", "placement", "warm_up",
    "zygote",
)  # fmt: skip
PACKAGE = "quadriga.codegen.sandbox"
NOBODY = 65534
WINDOW = 4
KEPT_TESTS = 64
ATTEMPTS = 3
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 5.0
LARGEST_PROGRAM = 4 << 20

# An interpreter without site packages and with this environment alone: the sets of a solution
# have the same order in every run.
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
FLAGS = ("-s", "-S", "-B", "-X", "utf8")
BOOT = """
import json, os, sys, types
register, os.register_at_fork = os.register_at_fork, lambda **hooks: None
import random  # or every fork would draw it a new seed
os.register_at_fork = register
with open(int(sys.argv[2])) as file:
    bundle = json.load(file)
def module(name, source):
    made = sys.modules[name] = types.ModuleType(name)
    made.__path__ = []
    above, _, own = name.rpartition(".")
    if above:
        setattr(sys.modules[above], own, made)
    exec(compile(source, name, "exec"), made.__dict__)
for name, source in bundle["modules"]:
    module(name, source)
import socket
from quadriga.codegen.sandbox import zygote
zygote.start(socket.socket(fileno=int(sys.argv[1])), bundle["settings"])
"""


class Plan(NamedTuple):
    """One way to isolate: a tier, an interpreter, and the user that root becomes (`None`: stays)."""

    tier: Tier
    interpreter: str
    user: int | None


class Job(NamedTuple):
    """A sample to run; `token` comes back with its verdict, `whole`: `code` is no continuation of the prompt."""

    token: int
    problem: Problem
    code: str
    limits: Limits
    whole: bool = False


class ZygoteDied(Exception):
    """The zygote ended; the jobs that it had are with its owner."""


def plans(tier: Tier | None, *, unsafe: bool) -> list[Plan]:
    """What to try on this machine, best first.

    Args:
        tier: this one only; `None`: any.
        unsafe: at the very end, no isolation at all.
    """
    own = getattr(sys, "_base_executable", None) or sys.executable
    found = [Plan("namespaces", own, NOBODY if os.geteuid() == 0 else None)]
    if os.geteuid() == 0:
        found.append(Plan("namespaces", own, None))  # root of a container that maps no other user
        # Without namespaces nothing can be shown to a user who may not read it: a Python that anybody can read.
        found += [Plan("landlock", python, NOBODY) for python in [own, *_system_pythons()] if _is_public(python)]
    found.append(Plan("landlock", own, None))
    found = [plan for plan in found if tier in (None, plan.tier)]
    if unsafe and tier in (None, "none"):
        found.append(Plan("none", own, None))
    return found


def _system_pythons() -> list[str]:
    names = [f"python3.{sys.version_info.minor}", "python3"]
    places = [shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") for name in names]
    return [os.path.realpath(place) for place in places if place]


def _is_public(program: str) -> bool:
    """Whether everybody may pass through all folders above the program."""
    path = os.path.realpath(program)
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o001:
            return False
    return True


class Zygote:
    """One zygote, from outside.

    Attributes:
        isolation: what it reported of itself.
    """

    def __init__(self, plan: Plan, limits: Limits, mode: Mode) -> None:
        """Starts it and waits until it is ready.

        Raises:
            OSError: this plan does not work here; says why.
        """
        settings = {"tier": plan.tier, "mode": mode, "user": plan.user, **limits.as_json()}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._problems: dict[str, int] = {}
        bundle = _in_memory(json.dumps({"modules": _modules(), "settings": settings}).encode("ascii"))
        with tempfile.TemporaryFile() as complaints, theirs:
            try:
                self.process = subprocess.Popen(
                    [plan.interpreter, *FLAGS, "-c", BOOT, str(theirs.fileno()), str(bundle)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    env=ENVIRONMENT,
                    cwd="/",
                    pass_fds=(theirs.fileno(), bundle),
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
            finally:
                os.close(bundle)
            theirs.close()
            self.socket = ours
            ours.settimeout(START_TIMEOUT_S)
            try:
                said = json.loads(ours.recv(1 << 16) or b'{"error": ""}')
            except OSError as error:
                said = {"error": f"no answer: {error}"}
            if "ready" not in said:
                self.close()
                complaints.seek(0)
                lines = complaints.read().decode(errors="replace").strip().splitlines()
                raise OSError(said["error"] or (lines[-1] if lines else "the interpreter ended without a word"))
        ours.settimeout(None)
        report = said["ready"]
        self.isolation = Isolation(
            report["tier"], report["python"], plan.interpreter, report["library"], report["landlock"], report["user"]
        )
        self._mode = mode

    def fileno(self) -> int:
        """Readable when a verdict or the zygote's end can be received."""
        return self.socket.fileno()

    def submit(self, job: Job) -> None:
        """Hands over a job; several may be under way.

        Raises:
            ZygoteDied: it has ended.
        """
        problem, split = job.problem, self._mode == "split"
        program = problem.program(job.code, whole=job.whole) if split else problem.with_tests(job.code, whole=job.whole)
        text = program.encode("utf-8", "surrogatepass")
        message = {"id": job.token, "problem": problem.digest, "wall_s": job.limits.wall_s, "size": len(text)}
        message |= {"cpu_s": job.limits.cpu_seconds, "names": problem.names, "tests_size": len(problem.for_checker)}
        descriptor = _in_memory(text)
        try:
            files = array.array("i", [descriptor, self._tests(problem)] if split else [descriptor])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
            self.socket.sendmsg([json.dumps(message).encode("ascii")], ancillary)
        except OSError as error:
            raise ZygoteDied from error
        finally:
            os.close(descriptor)

    def _tests(self, problem: Problem) -> int:
        """A file of the problem's tests, which is kept for its next sample."""
        descriptor = self._problems.get(problem.digest)
        if descriptor is None:
            if len(self._problems) >= KEPT_TESTS:
                os.close(self._problems.pop(next(iter(self._problems))))
            descriptor = self._problems[problem.digest] = _in_memory(problem.for_checker)
        return descriptor

    def receive(self) -> tuple[int, Verdict]:
        """The next verdict and its job's token; waits for it.

        Raises:
            ZygoteDied: it has ended.
        """
        try:
            message = self.socket.recv(1 << 16)
        except OSError:
            message = b""
        if not message:
            raise ZygoteDied
        head, _, detail = message.partition(b"\n")
        token, kind, seconds, cpu_s = json.loads(head)
        if kind not in KINDS:
            raise ZygoteDied
        return token, Verdict(kind, printable(detail.decode("utf-8", "replace")), round(seconds, 6), round(cpu_s, 6))

    def close(self) -> None:
        """Ends the zygote and everything inside. May be called twice."""
        self.socket.close()
        while self._problems:
            os.close(self._problems.popitem()[1])
        try:
            self.process.wait(END_TIMEOUT_S)  # it sees the closed socket and ends by itself
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Sandbox:
    """A zygote that is replaced when it dies: runs samples one at a time, in order.

    Attributes:
        isolation: how samples are kept in.
        limits: the default limits of a sample.
        mode: `split`: tests in a process of their own, a pass cannot be forged; `inproc`: tests in the
            sample's process, as other harnesses do it.
    """

    def __init__(
        self, limits: Limits | None = None, mode: Mode = "split", *, tier: Tier | None = None, unsafe: bool = False
    ) -> None:
        """Starts the first zygote.

        Args:
            limits: of every sample, unless a run says otherwise.
            mode: where tests run.
            tier: insists on one; by default the best that works here.
            unsafe: accepts no isolation at all where none is to be had.

        Raises:
            UserError: no isolation works here; says what was tried and why it failed.
        """
        if mode not in MODES:
            raise UserError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if not sys.platform.startswith("linux"):
            raise UserError(f"the sandbox needs Linux; this is {sys.platform}")
        self.limits, self.mode = limits or Limits(), mode
        failures = []
        for plan in plans(tier, unsafe=unsafe):
            try:
                self._zygote = Zygote(plan, self.limits, mode)
            except OSError as error:
                failures.append(f"{plan.tier}: {one_line(error)}")
                continue
            self._plan = plan
            break
        else:
            hint = "" if tier == "none" else "; --unsafe runs samples without isolation, with all that this user may do"
            raise UserError(f"no isolation works here ({'; '.join(failures) or 'no such tier'}){hint}")
        self.isolation = self._zygote.isolation
        self._waiting: deque[tuple[Job, int]] = deque()

    def fileno(self) -> int:
        """Readable when `collect` has something to do."""
        return self._zygote.fileno()

    @property
    def free(self) -> int:
        """Jobs that can be submitted before a verdict must be collected."""
        return WINDOW - len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether no verdict is to come."""
        return not self._waiting

    def submit(self, job: Job) -> None:
        """Hands over a job; at most `free` at a time."""
        self._waiting.append((job, 1))
        with contextlib.suppress(ZygoteDied):  # found again, and put right, when its verdict is collected
            self._zygote.submit(job)

    def collect(self) -> tuple[int, Verdict]:
        """Waits for the oldest job's verdict, with its token; a dead zygote's jobs run again in a new one."""
        while True:
            try:
                token, verdict = self._zygote.receive()
            except ZygoteDied:
                given_up = self._start_again()
                if given_up is not None:
                    return given_up
                continue
            job, _ = self._waiting.popleft()
            assert job.token == token
            return token, verdict

    def _start_again(self) -> tuple[int, Verdict] | None:
        """A new zygote with the jobs of the old one; the first of them is given up if it keeps dying."""
        self._zygote.close()
        (first, attempts), *others = self._waiting
        given_up = None
        if attempts >= ATTEMPTS:
            self._waiting.popleft()
            given_up = first.token, Verdict("infrastructure_error", f"its zygote died {attempts} times")
        else:
            self._waiting = deque([(first, attempts + 1), *others])
        try:
            self._zygote = Zygote(self._plan, self.limits, self.mode)
        except OSError as error:
            raise UserError(f"the sandbox worked and does no longer: {one_line(error)}") from error
        with contextlib.suppress(ZygoteDied):
            for job, _ in self._waiting:
                self._zygote.submit(job)
        return given_up

    def run(self, problem: Problem, completion: str, limits: Limits | None = None, *, whole: bool = False) -> Verdict:
        """Runs one sample.

        Args:
            problem: what it is a solution of.
            completion: what follows the problem's prompt.
            limits: `wall_s` and `cpu_s` of this sample; the others are the sandbox's.
            whole: `completion` is a program that stands by itself.
        """
        verdict = oversized(completion)
        if verdict is not None:
            return verdict
        self.submit(Job(0, problem, completion, limits or self.limits, whole))
        return self.collect()[1]

    def close(self) -> None:
        """Ends the zygote. May be called twice."""
        self._zygote.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def oversized(completion: str) -> Verdict | None:
    """The verdict of a completion that is too long to be run."""
    if len(completion) <= LARGEST_PROGRAM:
        return None
    return Verdict("failed", f"{len(completion):,} characters where {LARGEST_PROGRAM:,} are allowed")


def _modules() -> list[tuple[str, str]]:
    parts = PACKAGE.split(".")
    empty = [(".".join(parts[: n + 1]), "") for n in range(len(parts))]
    folder = Path(__file__).parent
    return empty + [(f"{PACKAGE}.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")) for name in INSIDE]


def _in_memory(content: bytes) -> int:
    """The descriptor, at its start, of a file in memory that holds `content`."""
    descriptor = os.memfd_create("quadriga")
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:] if written else content, written)
    return descriptor
