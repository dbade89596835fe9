"""Sandboxes all over a Ray cluster: one actor a CPU, batches of samples to each, none lost and none twice.

An actor never runs a sample itself: it starts a zygote (`quadriga.codegen.sandbox`) and hands it
the batch. A batch's verdicts come back together or not at all; when an actor dies, its batches go
to another one.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.util.metrics import Counter

from quadriga.codegen.pool import LOOK_AHEAD, Agenda
from quadriga.codegen.sandbox.limits import Isolation, Limits, Mode, Tier, Verdict
from quadriga.codegen.sandbox.supervisor import ATTEMPTS, Job, Sandbox, oversized
from quadriga.platform.errors import UserError, one_line
from quadriga.platform.metrics import METRICS
from quadriga.platform.placement import await_start, sandbox_resources

logger = logging.getLogger("quadriga")

BATCH = 16
IN_FLIGHT = 2


class SandboxWorker:
    """A sandbox as a Ray actor (`ray.remote(SandboxWorker)`)."""

    def __init__(
        self, limits: Limits, mode: Mode, tier: Tier | None, unsafe: bool, like: Isolation | None = None
    ) -> None:
        """Starts the sandbox.

        Args:
            limits: of a sample.
            mode: where tests run.
            tier: insists on one.
            unsafe: accepts no isolation.
            like: of the workers that this one joins.

        Raises:
            UserError: no isolation works here, or only another one than theirs.
        """
        self._shown = f"sandbox worker, {mode}"
        self._sandbox = Sandbox(limits, mode, tier=like.tier if like else tier, unsafe=unsafe)
        self._shown += f", {self._sandbox.isolation.tier}"
        if like is not None:
            require_same([like, self._sandbox.isolation])
        self._judged = Counter("quadriga_samples_judged_total", METRICS["samples_judged_total"], ("verdict",))

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it; Ray asks when it could not start, too."""
        return self._shown

    def isolation(self) -> Isolation:
        """How it keeps samples in."""
        return self._sandbox.isolation

    def process(self) -> int:
        """The process id of the actor."""
        import os

        return os.getpid()

    def run(self, jobs: Sequence[Job]) -> list[tuple[int, Verdict]]:
        """Tokens and verdicts of a batch."""
        done: list[tuple[int, Verdict]] = []
        for job in jobs:
            verdict = oversized(job.code)
            if verdict is not None:
                done.append((job.token, verdict))
                continue
            if not self._sandbox.free:
                done.append(self._sandbox.collect())
            self._sandbox.submit(job)
        while not self._sandbox.idle:
            done.append(self._sandbox.collect())
        for kind, count in collections.Counter(verdict.kind for _, verdict in done).items():
            self._judged.inc(count, {"verdict": kind})
        return done


class Batch(NamedTuple):
    """Jobs that are with an actor, and how many have had them."""

    jobs: list[Job]
    attempts: int


class RayPool:
    """`SandboxWorker` actors on the Ray that this process is connected to."""

    def __init__(
        self,
        workers: int,
        limits: Limits | None = None,
        mode: Mode = "split",
        *,
        tier: Tier | None = None,
        unsafe: bool = False,
        cpus: float = 1.0,
    ) -> None:
        """Starts the actors, spread over the cluster's machines, and asks each how it isolates.

        Args:
            workers: actors.
            limits: of a sample.
            mode: where tests run.
            tier: insists on one.
            unsafe: accepts no isolation.
            cpus: CPU slots of each actor; below 1 several share one.

        Raises:
            UserError: no isolation works on some machine, machines differ in it, or none is meant for untrusted code.
        """
        self._options = (limits or Limits(), mode, tier, unsafe)
        self._remote = ray.remote(
            num_cpus=cpus, resources=sandbox_resources(), max_restarts=0, scheduling_strategy="SPREAD"
        )(SandboxWorker)
        self.actors = [self._start() for _ in range(workers)]
        self.workers = workers
        asked = [actor.isolation.remote() for actor in self.actors]
        await_start(asked, "sandbox workers")
        try:
            reports = ray.get(asked)
        except RayError as error:
            self.close()
            raise UserError(f"a sandbox on the cluster did not start: {cause_of(error)}") from error
        try:
            require_same(reports)
        except UserError:
            self.close()
            raise
        self.isolation = reports[0]

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[int, Verdict]]:
        agenda = Agenda(jobs, LOOK_AHEAD * len(self.actors))
        again: list[Batch] = []
        flying: dict[Any, tuple[int, Batch]] = {}
        load = [0] * len(self.actors)
        while True:
            for depth in range(IN_FLIGHT):
                for place, actor in enumerate(self.actors):
                    if load[place] == depth and (batch := again.pop() if again else _draw(agenda)).jobs:
                        flying[actor.run.remote(batch.jobs)] = place, batch
                        load[place] += 1
            if not flying:
                return
            (reference, *_), _ = ray.wait(list(flying), num_returns=1)
            place, batch = flying.pop(reference)
            try:
                done = ray.get(reference)
            except (RayActorError, ObjectLostError) as error:
                if getattr(error, "actor_init_failed", False):
                    raise UserError(f"a sandbox on the cluster did not start again: {cause_of(error)}") from error
                lost = [batch, *(other for at, other in flying.values() if at == place)]
                flying = {ref: entry for ref, entry in flying.items() if entry[0] != place}
                logger.warning(
                    "sandbox worker %d died and is replaced; its %d samples under way run again",
                    place,
                    sum(len(part.jobs) for part in lost),
                )
                self.actors[place], load[place] = self._start(self.isolation), 0
                for part in lost:
                    yield from self._give_up(part, again)
                continue
            except RayError as error:
                raise UserError(f"a sandbox on the cluster failed: {cause_of(error)}") from error
            load[place] -= 1
            yield from done

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)

    def _start(self, like: Isolation | None = None) -> Any:
        return self._remote.remote(*self._options, like)

    @staticmethod
    def _give_up(batch: Batch, again: list[Batch]) -> Iterator[tuple[int, Verdict]]:
        """Puts a dead actor's batch into `again`, one job at a time if it has killed before; or gives it up."""
        if batch.attempts < ATTEMPTS:
            again.append(Batch(batch.jobs, batch.attempts + 1))
        elif len(batch.jobs) > 1:
            again.extend(Batch([job], ATTEMPTS) for job in batch.jobs)
        else:
            for job in batch.jobs:
                yield job.token, Verdict("infrastructure_error", "its worker died each time")


def require_same(found: Sequence[Isolation]) -> None:
    """Verdicts under different tiers or Pythons do not go into one file.

    Raises:
        UserError: these would be.
    """
    kinds = {(each.tier, each.python) for each in found}
    if len(kinds) > 1:
        shown = "; ".join(f"{tier}, Python {python}" for tier, python in sorted(kinds))
        raise UserError(f"the cluster's machines isolate differently ({shown}): verdicts would not be comparable")


def _draw(agenda: Agenda) -> Batch:
    jobs: list[Job] = []
    while len(jobs) < BATCH and (job := agenda.next(jobs[-1].problem.digest if jobs else None)) is not None:
        jobs.append(job)
    return Batch(jobs, 1)


def cause_of(error: BaseException) -> str:
    """What was raised in the actor, without Ray's own words where they can be told apart."""
    text = one_line(error)
    return text.rpartition("UserError: ")[2] if "UserError: " in text else text
