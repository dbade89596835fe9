"""Jobs on a cluster, through Ray's job API: submit, list, follow, stop, and what their end means to a script.

Knows states and room; how a cluster is reached is `connections`' business, what a job ships `shipment`'s, what it runs
the user's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quadriga.clusters import connections
from quadriga.clusters.connections import Answer, explained
from quadriga.platform import placement, tokens
from quadriga.platform.errors import UserError, nearest

EXIT_RUNNING = 3
"""`jobs status` of a job that has not ended."""

POLL_S = 1.0
PATIENCE_S = 5.0
"""Pending for longer, a job is said to wait."""
WITHDRAWAL_S = 60.0
"""Seconds within which a job that waits is taken out of the queue."""
RELIST_S = 2.5
"""A job that was deleted and is not listed for so long is gone."""
NODES = 10_000
METADATA = ("experiment", "algorithm", "environment", "run")


@dataclass(frozen=True)
class Job:
    """A job as its cluster knows it.

    Attributes:
        id: by which it is addressed.
        state: `PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`.
        command: what runs.
        message: why it is in its state.
        exit_code: of the command; `None` before its end.
        submitted_ms: Unix time in ms. When it began nobody says.
        ended_ms: Unix time in ms; `None` before its end.
        metadata: experiment, algorithm, environment and run folder of an experiment.
    """

    id: str
    state: str
    command: str
    message: str
    exit_code: int | None
    submitted_ms: int | None
    ended_ms: int | None
    metadata: Mapping[str, str]

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ("SUCCEEDED", "FAILED", "STOPPED")

    def script_code(self) -> int:
        """For scripts: 0 succeeded, 143 stopped, 3 not ended; if it failed, the command's own (1 if it never began)."""
        if self.state == "SUCCEEDED":
            return 0
        if self.state == "STOPPED":
            return 128 + signal.SIGTERM
        if self.state == "FAILED":
            code = self.exit_code or 1
            return 128 - code if code < 0 else code
        return EXIT_RUNNING

    @property
    def seconds_from_submission(self) -> float | None:
        """To its end, or to now; what it waited for room is part of it."""
        if self.submitted_ms is None:
            return None
        return ((self.ended_ms or time.time() * 1000) - self.submitted_ms) / 1000


@dataclass(frozen=True)
class Needs:
    """What a job occupies while it runs.

    Attributes:
        cpus: CPU slots of its driver, on the node where that runs.
        gpus: likewise GPUs.
        resources: likewise others.
        slots: CPU slots of the actors that it starts, anywhere; `None` if that is not known.
    """

    cpus: float = 1
    gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    slots: int | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether the driver goes where a GPU or another resource is; without, it runs on the head."""
        return bool(self.gpus or self.resources)

    def admission(self) -> Mapping[str, float]:
        """`resources`, and on the head room for the actors; a driver that belongs elsewhere asks for no room."""
        if self.elsewhere:
            return self.resources
        return {placement.ACTOR_SLOTS: self.slots or placement.SLIVER}


class JobServer:
    """The job API of one cluster.

    Attributes:
        url: of the dashboard.
        is_local: a cluster of `quadriga cluster up`, so that paths mean the same there.
    """

    def __init__(self, address: str | None = None) -> None:
        """Finds and greets the server.

        Args:
            address: `http://host:port` of the dashboard, or the name of a local cluster; by default
                `RAY_API_SERVER_ADDRESS`, else the local cluster that is up.

        Raises:
            UserError: nothing answers there, or it turns us away.
        """
        self.url = connections.resolve(address)
        self.is_local = connections.is_here(self.url)
        if self.is_local:
            tokens.show()
        from ray.job_submission import JobSubmissionClient

        for name in ("job.sdk", "dashboard_sdk"):  # they tell of every upload and every closed connection
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
        with explained(self.url):
            self._client = JobSubmissionClient(self.url)

    def submit(self, id: str, command: str, working_dir: Path, **options: Any) -> str:
        """Submits a job and returns its id.

        Args:
            id: its id, of `free_id`.
            command: a shell command, run in `working_dir`.
            working_dir: uploaded as it is.
            options: `needs` (`Needs`), `environment` and `metadata` (texts by name).

        Raises:
            UserError: there will never be room for it, or the cluster refuses it.
        """
        needs: Needs = options.get("needs") or Needs()
        with explained(self.url):
            self._client.submit_job(
                entrypoint=command,
                submission_id=id,
                runtime_env={"working_dir": str(working_dir), "env_vars": dict(options.get("environment") or {})},
                metadata={"job_name": id, **(options.get("metadata") or {})},
                entrypoint_num_cpus=needs.cpus,
                entrypoint_num_gpus=needs.gpus,
                entrypoint_resources=dict(self._resources(needs)) or None,
            )
        return id

    def _resources(self, needs: Needs) -> Mapping[str, float]:
        """What the driver asks for besides CPUs and GPUs.

        Raises:
            UserError: it, or its actors, will never find room.
        """
        nodes = self._nodes()
        offered = self._actor_slots(nodes)
        if offered is not None and (needs.slots or 0) > offered:
            raise UserError(
                f"the job's actors occupy {needs.slots} CPU slots at once, the nodes of {self.url} have {offered:g}: "
                "ask for fewer (rollout.env_runners, learner.learners, compute.workers), or take more nodes"
            )
        if needs.elsewhere:
            return needs.admission()
        cpus = [node.resources_total.get("CPU", 0.0) for node in nodes if node.is_head_node]
        if cpus and needs.cpus > max(cpus):
            raise UserError(
                f"--cpus {needs.cpus:g}: the head of {self.url}, on which the job's driver runs, has {max(cpus):g} "
                "CPU slots"
            )
        # Ray itself sends a driver to the head only if it asks for nothing at all.
        room = {} if offered is None else needs.admission()
        return {placement.HEAD: placement.SLIVER, **room}

    def actor_slots(self) -> float | None:
        """CPU slots that actors of jobs may occupy together; `None` where nobody counts them.

        On a local cluster, where a node that died does not come back, no more than those that are up have.
        """
        return self._actor_slots(self._nodes())

    def _actor_slots(self, nodes: Sequence[Any]) -> float | None:
        offered = sum(node.resources_total.get(placement.ACTOR_SLOTS, 0.0) for node in nodes)
        if not offered:
            return None
        held = placement.slots([node.resources_total for node in nodes])
        return min(offered, held) if self.is_local else offered

    def _nodes(self) -> Sequence[Any]:
        """Ray's `NodeState` of each node that is up."""
        from ray.util.state import list_nodes

        with explained(self.url):
            return list(list_nodes(address=self.url, filters=[("state", "=", "ALIVE")], limit=NODES))

    def free_id(self, name: str, taken: Callable[[str], bool] = lambda _: False) -> str:
        """`name`, or `name-2`, ... if a job has that id or it is `taken`."""
        from quadriga.platform.run_folder import numbered

        known = {job.id for job in self.list()}
        return next(each for each in numbered(name) if each not in known and not taken(each))

    def list(self) -> list[Job]:
        """All submitted jobs, oldest first."""
        with explained(self.url):
            found = self._client.list_jobs()
        jobs = [_job(details) for details in found if details.submission_id]
        return sorted(jobs, key=lambda job: (job.submitted_ms or float("inf"), job.id))

    def find(self, id: str) -> Job:
        """One job.

        Raises:
            UserError: there is none of this id; names the nearest.
        """
        known = {job.id: job for job in self.list()}
        if id not in known:
            raise UserError(f"no job {id!r} on {self.url}{nearest(id, known) or '; see: quadriga jobs list'}")
        return known[id]

    def stop(self, id: str) -> Job:
        """Tells a job to end; training saves a checkpoint first, and one that waits does not begin.

        Does nothing to one that has ended. One that is still pending afterwards ends when its turn comes.
        """
        job = self.find(id)
        if job.state == "PENDING":
            self._withdraw(id)
            job = self.find(id)
        if not job.ended:
            with explained(self.url):
                self._client.stop_job(id)
        return self.find(id)

    def _withdraw(self, id: str) -> None:
        """Takes a job out of the queue, with a job that waits for nothing; see `withdrawal`."""
        own = f"withdrawal-of-{id}-{secrets.token_hex(4)}"
        program = Path(__file__).with_name("withdrawal.py").read_text(encoding="utf-8")
        with explained(self.url):
            self._client.submit_job(entrypoint=shlex.join(["python", "-c", program, id]), submission_id=own)
        self.wait(own, WITHDRAWAL_S)
        # Ray looks after each job once a second, and one deleted before it has seen the end it lists again, as failed.
        last_listed = time.monotonic()
        deadline = last_listed + 2 * PATIENCE_S
        while time.monotonic() < min(last_listed + RELIST_S, deadline):
            if any(job.id == own for job in self.list()):
                last_listed = time.monotonic()
                with contextlib.suppress(UserError), explained(self.url):  # one try is not always enough
                    self._client.delete_job(own)
            time.sleep(POLL_S / 4)

    def wait(self, id: str, seconds: float | None = None) -> Job:
        """The job when it has ended, or as it is after so many seconds.

        Raises:
            NoAnswer: the connection is lost, and does not come back.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            job = self._find_again(id)
            if job.ended or (deadline is not None and time.monotonic() >= deadline):
                return job
            time.sleep(POLL_S)

    def logs(self, id: str) -> str:
        """What the job has printed so far."""
        self.find(id)
        with explained(self.url):
            return str(self._client.get_job_logs(id))

    def follow(self, id: str) -> Job:
        """Prints what the job prints until it ends; a connection that breaks is taken up again where it stood.

        Raises:
            NoAnswer: it could not be taken up again.
        """
        import aiohttp

        self._until_it_begins(id)
        printed = 0

        async def tail() -> None:
            nonlocal printed
            seen = 0
            async for text in self._client.tail_job_logs(id):
                fresh = text[max(0, printed - seen) :]
                seen += len(text)
                printed = max(printed, seen)
                sys.stdout.write(fresh)
                sys.stdout.flush()

        while not self._find_again(id).ended:
            with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):  # the head is busy, or the line broke
                asyncio.run(tail())
            time.sleep(POLL_S / 4)
        sys.stdout.write(self._patiently(id, lambda: self.logs(id))[printed:])
        sys.stdout.flush()
        return self.wait(id)

    def _until_it_begins(self, id: str) -> None:
        began, told = time.monotonic(), False
        while self._find_again(id).state == "PENDING":
            if not told and time.monotonic() - began > PATIENCE_S:
                print(f"job {id} waits until the cluster has room for it; see: quadriga jobs list", file=sys.stderr)
                told = True
            time.sleep(POLL_S / 4)

    def _find_again(self, id: str) -> Job:
        return self._patiently(id, lambda: self.find(id))

    def _patiently(self, id: str, ask: Callable[[], Answer]) -> Answer:
        return connections.patiently(
            ask, f"if only the connection is lost, job {id} goes on: quadriga jobs logs {id} --follow"
        )


def describe(job: Job) -> Sequence[str]:
    """A row for `quadriga jobs list`."""
    seconds = job.seconds_from_submission
    lasted = "" if seconds is None else f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
    about = [job.metadata.get(name, "") for name in METADATA[1:]]
    return [job.id, job.state.lower(), lasted, *about, "" if any(about) else job.command]


def as_json(job: Job) -> dict[str, Any]:
    """A job for programs."""
    return {
        "id": job.id,
        "state": job.state,
        "exit_code": job.exit_code,
        "seconds_from_submission": job.seconds_from_submission,
        "command": job.command,
        "message": job.message,
        "metadata": dict(job.metadata),
    }


def _job(details: Any) -> Job:
    metadata = {name: value for name, value in (details.metadata or {}).items() if name in METADATA}
    return Job(
        id=details.submission_id,
        state=str(getattr(details.status, "value", details.status)),
        command=details.entrypoint,
        message=(details.message or "").strip(),
        exit_code=details.driver_exit_code,
        submitted_ms=details.start_time,
        ended_ms=details.end_time,
        metadata=metadata,
    )
