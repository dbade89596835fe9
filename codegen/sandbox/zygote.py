"""The zygote: a small warm interpreter inside the sandbox that forks a process for every sample.

Standard library only; it is run by whatever Python 3.9 or newer the sandbox can show, without
site packages and with an empty environment. It keeps the wall clock from outside the sample and
ends it with SIGKILL. It sees neither solutions nor tests: those are in files that it passes on
unread, so that no sample finds another one's code, or the tests, in memory that it inherited.

Processes, with namespaces: the launcher waits; the first process inside (`confinement.py`) keeps the right
to mount and replaces the scratch; the zygote has no right left, and under it are the sample and a
checker for each of the last few problems.
"""

from __future__ import annotations

import array
import collections
import contextlib
import gc
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from quadriga.codegen.sandbox import (
    checker,
    confinement,
    landlock,
    namespaces,
    placement,
    sample,
    seccomp,
    system,
    warm_up,
    wire,
)

# Few, for a fork costs by what is in memory: what most solutions import.
PREIMPORTED = (
    "math", "re", "typing", "collections", "collections.abc", "itertools", "functools", "operator", "heapq", "bisect",
    "string", "copy", "random", "json", "time",
)  # fmt: skip
CHECKERS = 16
CHANNEL = 3
LONGEST_REPORT = 1 << 14
POLL_END_S = 1.0


class Zygote:
    """Serves jobs: `control` brings them, one message each, and takes their verdicts."""

    def __init__(self, control: socket.socket, settings: Mapping[str, Any], ruler: tuple[int, int] | None) -> None:
        self._control, self._settings, self._ruler = control, settings, ruler
        self._split = settings["mode"] == "split"
        self._limit: int = settings["output_bytes"]
        self._checkers: collections.OrderedDict[str, tuple[int, socket.socket]] = collections.OrderedDict()
        machine = os.uname().machine
        self._process = os.getpid()
        self._report = bytearray(LONGEST_REPORT)
        self._placement = placement.Placement()
        self._filters: dict[bool, seccomp.Filter] = {}
        if settings["tier"] != "none" and machine in seccomp.MACHINES:
            inside = settings["tier"] == "namespaces"
            truncation = inside or settings["landlock"] >= landlock.TRUNCATE_VERSION
            seccomp.Filter(seccomp.build_zygote(machine, private_files=inside, truncation=truncation)).install()
            for trusted in (False, True):
                self._filters[trusted] = seccomp.Filter(seccomp.build_rest(machine, checker=trusted))
        self._untouched = self._scratch_state()

    def serve(self) -> None:
        """Runs jobs until the supervisor is gone."""
        while True:
            message, ancillary, _, _ = self._control.recvmsg(1 << 16, 64)
            if not message:
                return
            descriptors = array.array("i", ancillary[0][2])
            job = json.loads(message)
            kind, detail, began, usage = self._run(job, descriptors)
            seconds = time.monotonic() - began
            for descriptor in descriptors:
                os.close(descriptor)
            cpu = usage.ru_utime + usage.ru_stime if usage is not None else 0.0
            self._renew_scratch()
            head = json.dumps([job["id"], kind, seconds, cpu]).encode("ascii")
            self._control.sendmsg([head, b"\n", detail if isinstance(detail, memoryview) else detail.encode()])
            if detail:
                self._report[:] = bytes(LONGEST_REPORT)  # or the next sample would find a line of the tests there

    def _run(self, job: Mapping[str, Any], descriptors: array.array[int]) -> tuple[str, str | memoryview, float, Any]:
        detail: str | memoryview
        for attempt in (1, 2):
            try:
                helper = self._checker(job, descriptors[1]) if self._split else None
                ours, theirs = socket.socketpair(type=socket.SOCK_STREAM if self._split else socket.SOCK_SEQPACKET)
                began = time.monotonic()
                beside = [self._checkers[job["problem"]][0]] if self._split else []
                for process in beside:
                    self._placement.gather(process)
                child = os.fork()
            except OSError as error:
                return "infrastructure_error", f"no new process: {error}", time.monotonic(), None
            if child == 0:
                self._be_sample(theirs.fileno(), descriptors[0], job)
            self._placement.release([0])
            theirs.close()
            try:
                kind, detail, usage = self._follow(job, helper, ours, began, [child, *beside])
            except Exception as error:  # the sample ran: were it left without a verdict, no estimate would count it
                with contextlib.suppress(OSError):
                    self._end(child, wait=False)
                self._drop(job["problem"])
                return "crashed", f"ended in an unforeseen way: {type(error).__name__}", began, None
            if kind != "checker died":
                break
            self._drop(job["problem"])
            if attempt == 2:
                kind, detail = "crashed", "the tests' own process died on what the solution returned"
        return kind, detail, began, usage

    def _follow(
        self, job: Mapping[str, Any], helper: socket.socket | None, ours: socket.socket, began: float, run: list[int]
    ) -> tuple[str, str | memoryview, Any]:
        """Verdict, detail and usage of a sample, and its end; or `checker died` as the verdict.

        `run` are its process and, in `split` mode, its checker's.
        """
        detail: str | memoryview
        with ours:
            kind, detail = self._wait(helper, ours, began + job["wall_s"], run)
            by_itself, status, usage = self._end(run[0], wait=kind == "gone")
        if kind == "gone":
            gone = "closed its channel before its tests had ended"
            kind, detail = explain_end(status, usage, job["cpu_s"]) if by_itself else ("crashed", gone)
        if kind == "timeout" and not detail:
            self._drop(job["problem"])
            detail = f"more than {job['wall_s']:g} s"
        return kind, detail, usage

    def _wait(
        self, helper: socket.socket | None, ours: socket.socket, deadline: float, processes: list[int]
    ) -> tuple[str, str | memoryview]:
        """Verdict and detail; or `gone`, `timeout` or `checker died`, without one.

        The processes share a processor only for as long as most samples take.
        """
        source = ours if helper is None else helper
        poller = select.poll()
        poller.register(source, select.POLLIN)
        poller.register(self._control, 0)
        if helper is not None:
            try:
                helper.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours.fileno()]))])
            except OSError:
                return "checker died", ""
            ours.close()
        patience = placement.SHORT_S
        while True:
            left = deadline - time.monotonic()
            events = dict(poller.poll(min(left, patience) * 1000)) if left > 0 else {}
            if events.get(self._control.fileno(), 0) & (select.POLLHUP | select.POLLERR):
                os._exit(1)  # nobody waits for the verdict, and nothing may outlive the supervisor
            if not events:
                if left <= patience:
                    return "timeout", ""
                self._placement.release(processes)
                patience = float("inf")
            if source.fileno() in events:
                break
        try:
            length = source.recv_into(self._report)
        except OSError:
            length = 0
        if not length:
            return "gone" if helper is None else "checker died", ""
        end = self._report.find(b"\n", 0, length)
        kind = self._report[: max(end, 0)].decode("ascii", "replace")
        if helper is None and kind not in ("passed", "failed", "oom"):  # `inproc`: what the sample says of itself
            return "failed", "no verdict"
        return kind, memoryview(self._report)[end + 1 : length] if kind != "passed" else ""

    def _end(self, child: int, *, wait: bool) -> tuple[bool, int, Any]:
        """Ends the sample; with `wait` it has closed its channel, so its own end is given a moment.

        Returns:
            Whether it ended by itself in that moment, its status and usage.
        """
        by_itself = False
        if wait:
            descriptor = os.pidfd_open(child)
            by_itself = bool(select.select([descriptor], [], [], POLL_END_S)[0])
            os.close(descriptor)
        os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        return by_itself, status, usage

    def _checker(self, job: Mapping[str, Any], descriptor: int) -> socket.socket:
        problem = job["problem"]
        if problem in self._checkers:
            self._checkers.move_to_end(problem)
            return self._checkers[problem][1]
        while len(self._checkers) >= CHECKERS:
            self._drop(next(iter(self._checkers)))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            self._be_checker(theirs.fileno(), descriptor, job["tests_size"])
        theirs.close()
        self._checkers[problem] = (child, ours)
        return ours

    def _drop(self, problem: str) -> None:
        child, control = self._checkers.pop(problem, (0, None))
        if control is not None:
            control.close()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _be_sample(self, channel: int, descriptor: int, job: Mapping[str, Any]) -> None:
        try:
            program = sample.read_file(descriptor, job["size"])
            self._confine(channel, job["cpu_s"], trusted=False)
            if self._split:
                sample.serve(CHANNEL, program, job["names"], self._limit)
            else:
                sample.check_here(CHANNEL, program)
        finally:
            os._exit(0)

    def _be_checker(self, control: int, descriptor: int, size: int) -> None:
        try:
            problem = wire.unpack(sample.read_file(descriptor, size))
            kept = socket.socket(fileno=_keep(control))  # asks for its name, which the filter refuses
            self._confine(CHANNEL, None, trusted=True)
            checker.work(kept, problem, self._limit)
        finally:
            os._exit(0)

    def _confine(self, channel: int, cpu_s: float | None, *, trusted: bool) -> None:
        """Keeps one descriptor, as `CHANNEL`, and takes the last rights away."""
        _keep(channel)
        os.closerange(CHANNEL + 1, confinement.DESCRIPTORS)
        if self._settings["tier"] != "namespaces":
            system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._process:
                os._exit(0)  # the zygote ended before it was asked for
        else:
            os.chdir(namespaces.SCRATCH if not trusted else "/")
        if cpu_s is not None:
            seconds = max(1, int(-(-cpu_s // 1)))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if self._filters:
            self._filters[trusted].install()

    def _scratch_state(self) -> tuple[int, ...]:
        if self._settings["tier"] != "namespaces":
            return ()
        folder, whole = os.stat(namespaces.SCRATCH), os.statvfs(namespaces.SCRATCH)
        return folder.st_ctime_ns, folder.st_mode, folder.st_ino, folder.st_dev, whole.f_bfree, whole.f_ffree

    def _renew_scratch(self) -> None:
        if self._scratch_state() != self._untouched:
            assert self._ruler is not None
            os.write(self._ruler[1], b"r")
            if os.read(self._ruler[0], 1) != b"k":
                os._exit(1)  # without a clean scratch there is no next sample
            self._untouched = self._scratch_state()

    def probe(self) -> str:
        """Tries in a sample's process what must not work there; what did work, or nothing."""
        attempts = {
            "a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "a process": lambda: os.fork() or os._exit(0),
            "a signal": lambda: os.kill(os.getppid(), 0),
            "reading /etc": lambda: open("/etc/passwd").close(),
            "reading /proc": lambda: os.listdir("/proc/self/fd"),
            "a file in /dev/shm": lambda: open(f"/dev/shm/quadriga-{os.getpid()}", "x").close(),
            "a file in /": lambda: open("/quadriga-probe", "x").close(),
            "a mount": lambda: system.mount("tmpfs", "/", "tmpfs"),
            "emptying a file": lambda: _empty_a_file(os.O_RDONLY),
            "emptying a file that is not read": lambda: _empty_a_file(os.O_ACCMODE),
        }
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                self._confine(write, 10, trusted=False)
                for name, attempt in attempts.items():
                    try:
                        attempt()
                        os.write(CHANNEL, name.encode())
                        break
                    except OSError:
                        continue
                else:
                    os.write(CHANNEL, b"contained")
            finally:
                os._exit(0)
        os.close(write)
        said = os.read(read, 100).decode()
        os.close(read)
        os.waitpid(child, 0)
        self._renew_scratch()
        return "" if said == "contained" else said or "the probe's process died"


def _empty_a_file(access: int) -> None:
    """Does so to one of the library's that holds nothing, opened for `access` and never for writing."""
    path = os.path.join(os.path.dirname(os.__file__), "urllib", "__init__.py")
    if os.stat(path).st_size:
        raise FileNotFoundError(path)
    os.close(os.open(path, access | os.O_TRUNC))


def _keep(descriptor: int) -> int:
    """Gives a descriptor the number `CHANNEL`."""
    if descriptor != CHANNEL:
        os.dup2(descriptor, CHANNEL, inheritable=False)
    return CHANNEL


def explain_end(status: int, usage: Any, cpu_s: float) -> tuple[str, str]:
    """Verdict of a process that ended before its tests did."""
    if os.WIFEXITED(status):
        return "crashed", f"exited with code {os.WEXITSTATUS(status)} before its tests had ended"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU or (number == signal.SIGKILL and usage.ru_utime + usage.ru_stime >= cpu_s):
        return "timeout", f"more than {cpu_s:g} s of CPU time"
    if number == signal.SIGKILL:
        return "oom", "killed by the system, which was out of memory"
    return "crashed", f"ended by {signal_name(number)}"


def signal_name(number: int) -> str:
    """`SIGSEGV`; `signal 40` for one of the real-time signals, most of which have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def start(control: socket.socket, settings: dict[str, Any]) -> None:
    """Isolates this process as `settings` say and serves; reports `{"ready": ...}` or `{"error": ...}` first.

    Args:
        control: a SOCK_SEQPACKET socket to the supervisor.
        settings: `tier`, `mode`, `memory_bytes`, `output_bytes`, `scratch_bytes`, `scratch_files`, `user` (root
            becomes it; `None` stays).
    """
    try:
        for name in PREIMPORTED:
            __import__(name)
        found = namespaces.library()
        ruler = None
        sys.path[:] = [path for path in sys.path if path]
        if settings["tier"] == "namespaces":
            ruler = confinement.enter_namespaces(control, found, settings)
        elif settings["user"] is not None and os.geteuid() == 0:
            namespaces.become(settings["user"])
        settings["landlock"] = confinement.give_up_rights(found, settings)
        zygote = Zygote(control, settings, ruler)
        worked = "" if settings["tier"] == "none" else zygote.probe()
        if worked:
            raise OSError(f"{worked} is possible inside")
    except (OSError, KeyError, AssertionError) as error:
        control.send(json.dumps({"error": f"{error}"[:1000]}).encode())
        os._exit(1)
    report = {
        "tier": settings["tier"],
        "python": ".".join(map(str, sys.version_info[:3])),
        "library": found.standard,
        "landlock": settings["landlock"],
        "seccomp": bool(zygote._filters),
        "user": os.geteuid() if settings["tier"] != "namespaces" else settings.get("outer_user"),
    }
    for name in [name for name in sys.modules if name.partition(".")[0] == "quadriga" or name == "__main__"]:
        del sys.modules[name]
    warm_up.run()
    random.seed(0)
    gc.collect()
    gc.freeze()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)  # the first three were opened outside
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    control.send(json.dumps({"ready": report}).encode())
    zygote.serve()
    os._exit(0)
