"""Several sandboxes at work: jobs stream in, verdicts stream out as they come.

`LocalPool` drives zygotes of this machine from one thread; `quadriga.codegen.workers` has the same
interface over Ray. Memory is bounded: jobs are drawn from their iterator only as they are needed.
"""

from __future__ import annotations

import collections
import selectors
from collections.abc import Iterable, Iterator
from typing import Protocol

from quadriga.codegen.problems import Problem
from quadriga.codegen.sandbox.limits import Isolation, Limits, Mode, Tier, Verdict
from quadriga.codegen.sandbox.supervisor import Job, Sandbox, oversized

LOOK_AHEAD = 256
PATIENCE = 2048


class Pool(Protocol):
    """What runs jobs.

    Attributes:
        isolation: of all its sandboxes.
        workers: how many there are.
    """

    isolation: Isolation
    workers: int

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[int, Verdict]]:
        """Each job's token and verdict, once, in any order; `None` among the jobs: no more for now."""

    def close(self) -> None:
        """Ends all processes. May be called twice."""


class Agenda:
    """Jobs drawn ahead, handed out so that a sandbox stays with a problem while it can.

    A sandbox keeps a process with the compiled tests of each of its last problems.
    """

    def __init__(self, jobs: Iterable[Job | None], ahead: int) -> None:
        self._jobs, self._ahead = iter(jobs), ahead
        self._by_problem: collections.OrderedDict[str, collections.deque[tuple[int, Job]]] = collections.OrderedDict()
        self._held = self._drawn = 0

    def next(self, preferred: str | None) -> Job | None:
        """A job, of the problem with the digest `preferred` unless another has waited long; `None`: no more."""
        while self._held < self._ahead and (job := next(self._jobs, None)) is not None:
            self._by_problem.setdefault(job.problem.digest, collections.deque()).append((self._drawn, job))
            self._drawn += 1
            self._held += 1
        if not self._held:
            return None
        oldest, waiting = next(iter(self._by_problem.items()))
        digest = preferred if preferred in self._by_problem and self._drawn - waiting[0][0] < PATIENCE else oldest
        assert digest is not None
        _, job = self._by_problem[digest].popleft()
        self._held -= 1
        if not self._by_problem[digest]:
            del self._by_problem[digest]
        elif digest == oldest:
            self._by_problem.move_to_end(digest)  # the next sandbox begins with another problem
        return job


class LocalPool:
    """Zygotes on this machine."""

    def __init__(
        self,
        workers: int,
        limits: Limits | None = None,
        mode: Mode = "split",
        *,
        tier: Tier | None = None,
        unsafe: bool = False,
    ) -> None:
        """Starts `workers` sandboxes; see `Sandbox`.

        Raises:
            UserError: no isolation works here.
        """
        self._sandboxes: list[Sandbox] = []
        try:
            for _ in range(workers):
                self._sandboxes.append(Sandbox(limits, mode, tier=tier, unsafe=unsafe))
        except BaseException:
            self.close()
            raise
        self.isolation, self.workers = self._sandboxes[0].isolation, workers

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[int, Verdict]]:
        agenda = Agenda(jobs, LOOK_AHEAD * len(self._sandboxes))
        last: dict[Sandbox, str | None] = dict.fromkeys(self._sandboxes)
        busy: set[Sandbox] = set()
        while True:
            for sandbox in self._sandboxes:
                while sandbox.free and (job := agenda.next(last[sandbox])) is not None:
                    verdict = oversized(job.code)
                    if verdict is not None:
                        yield job.token, verdict
                        continue
                    sandbox.submit(job)
                    last[sandbox] = job.problem.digest
                    busy.add(sandbox)
            if not busy:
                return
            for sandbox in _ready(busy):
                token, verdict = sandbox.collect()
                if sandbox.idle:
                    busy.discard(sandbox)
                yield token, verdict

    def close(self) -> None:
        for sandbox in self._sandboxes:
            sandbox.close()


def _ready(busy: set[Sandbox]) -> list[Sandbox]:
    if len(busy) == 1:
        return list(busy)
    with selectors.PollSelector() as selector:
        for sandbox in busy:
            selector.register(sandbox, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select() if isinstance(key.fileobj, Sandbox)]


def calibrated(pool: Pool, problems: Iterable[Problem], limits: Limits, factor: float) -> dict[str, Limits]:
    """Limits by task id: at least `factor` times what the canonical solution takes here and now.

    Problems without a canonical solution, or whose canonical solution does not pass, keep `limits`.
    """
    known = [problem for problem in problems if problem.canonical]
    generous = limits.with_wall(10 * limits.wall_s)
    jobs = (Job(n, problem, problem.canonical, generous) for n, problem in enumerate(known))
    found = dict.fromkeys((problem.task_id for problem in known), limits)
    for n, verdict in pool.run(jobs):
        if verdict.passed:
            found[known[n].task_id] = limits.with_wall(factor * verdict.seconds)
    return found
