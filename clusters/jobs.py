"""Jobs on a cluster, through Ray's job API: submit, list, follow, stop, and what their end means to a script.

Knows addresses, tokens and states; what a job ships is `shipment`'s business, what it runs the user's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from quadriga.clusters import local
from quadriga.platform import placement, tokens
from quadriga.platform.errors import UserError, nearest, one_line

EXIT_RUNNING = 3
"""`jobs status` of a job that has not ended."""

POLL_S = 1.0
PATIENCE_S = 5.0
"""Pending for longer, a job is said to wait."""
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
        started_ms: Unix time in ms; `None` while pending.
        ended_ms: Unix time in ms; `None` before its end.
        metadata: experiment, algorithm, environment and run folder of an experiment.
    """

    id: str
    state: str
    command: str
    message: str
    exit_code: int | None
    started_ms: int | None
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
    def seconds(self) -> float | None:
        """How long it has run."""
        if self.started_ms is None:
            return None
        return ((self.ended_ms or time.time() * 1000) - self.started_ms) / 1000


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

    def admission(self) -> Mapping[str, float]:
        """`resources`, and on the head room for the actors; a driver that belongs elsewhere asks for no room."""
        if self.gpus or self.resources:
            return self.resources
        return {placement.ACTOR_SLOTS: self.slots or placement.SLIVER}


class JobServer:
    """The job API of one cluster.

    Attributes:
        url: of the dashboard.
        is_local: on this machine, so that paths mean the same there.
    """

    def __init__(self, address: str | None = None) -> None:
        """Finds and greets the server.

        Args:
            address: `http://host:port` of the dashboard, or the name of a local cluster; by default
                `RAY_API_SERVER_ADDRESS`, else the local cluster that is up.

        Raises:
            UserError: nothing answers there, or it turns us away.
        """
        self.url = _resolve(address)
        self.is_local = (urlsplit(self.url).hostname or "") in ("127.0.0.1", "localhost", "::1")
        if self.is_local:
            tokens.show()
        from ray.job_submission import JobSubmissionClient

        for name in ("job.sdk", "dashboard_sdk"):  # they tell of every upload and every closed connection
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
        with self._explained():
            self._client = JobSubmissionClient(self.url)

    def submit(self, id: str, command: str, working_dir: Path, **options: Any) -> str:
        """Submits a job and returns its id.

        Args:
            id: its id, of `free_id`.
            command: a shell command, run in `working_dir`.
            working_dir: uploaded as it is.
            options: `needs` (`Needs`), `environment` and `metadata` (texts by name).
        """
        needs: Needs = options.get("needs") or Needs()
        with self._explained():
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
            UserError: its actors will never find room.
        """
        offered = self.actor_slots()
        if offered is None:
            return needs.resources
        if (needs.slots or 0) > offered:
            raise UserError(
                f"the job's actors occupy {needs.slots} CPU slots at once, the nodes of {self.url} have {offered:g}: "
                "ask for fewer (rollout.env_runners, learner.learners, compute.workers), or take more nodes"
            )
        return needs.admission()

    def actor_slots(self) -> float | None:
        """CPU slots that actors of jobs may occupy together; `None` where nobody counts them."""
        from ray.util.state import list_nodes

        with self._explained():
            nodes = list_nodes(address=self.url, filters=[("state", "=", "ALIVE")], limit=NODES)
        offered = [node.resources_total.get(placement.ACTOR_SLOTS, 0.0) for node in nodes]
        return sum(offered) or None

    def free_id(self, name: str, taken: Iterable[str] = ()) -> str:
        """`name`, or `name-2`, ... if a job has that id or it is among `taken`."""
        from quadriga.platform.run_folder import numbered

        known = {*taken, *(job.id for job in self.list())}
        return next(each for each in numbered(name) if each not in known)

    def list(self) -> list[Job]:
        """All submitted jobs, oldest first."""
        with self._explained():
            found = self._client.list_jobs()
        jobs = [_job(details) for details in found if details.submission_id]
        return sorted(jobs, key=lambda job: (job.started_ms or float("inf"), job.id))

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
        """Tells a job to end; training saves a checkpoint first. Does nothing to one that has ended."""
        job = self.find(id)
        if not job.ended:
            with self._explained():
                self._client.stop_job(id)
        return self.find(id)

    def wait(self, id: str, seconds: float | None = None) -> Job:
        """The job when it has ended, or as it is after so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            job = self.find(id)
            if job.ended or (deadline is not None and time.monotonic() >= deadline):
                return job
            time.sleep(POLL_S)

    def logs(self, id: str) -> str:
        """What the job has printed so far."""
        self.find(id)
        with self._explained():
            return str(self._client.get_job_logs(id))

    def follow(self, id: str) -> Job:
        """Prints what the job prints until it ends; a connection that breaks is taken up again where it stood."""
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

        while not self.find(id).ended:
            with contextlib.suppress(RuntimeError, OSError):  # the head is busy, or the line broke
                asyncio.run(tail())
            time.sleep(POLL_S / 4)
        sys.stdout.write(self.logs(id)[printed:])
        sys.stdout.flush()
        return self.wait(id)

    def _until_it_begins(self, id: str) -> None:
        began, told = time.monotonic(), False
        while self.find(id).state == "PENDING":
            if not told and time.monotonic() - began > PATIENCE_S:
                print(f"job {id} waits until the cluster has room for it; see: quadriga jobs list", file=sys.stderr)
                told = True
            time.sleep(POLL_S / 4)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Ray's errors as ours."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise UserError(
                f"the cluster at {self.url} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH (or put it into ~/.ray/auth_token)"
            ) from error
        except ConnectionError as error:
            raise UserError(f"no cluster answers at {self.url}; see: quadriga cluster status") from error
        except RuntimeError as error:
            raise UserError(f"the cluster at {self.url} refused: {one_line(error)}") from error


def describe(job: Job) -> Sequence[str]:
    """A row for `quadriga jobs list`."""
    seconds = job.seconds
    lasted = "" if seconds is None else f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
    about = [job.metadata.get(name, "") for name in METADATA[1:]]
    return [job.id, job.state.lower(), lasted, *about, "" if any(about) else job.command]


def as_json(job: Job) -> dict[str, Any]:
    """A job for programs."""
    return {
        "id": job.id,
        "state": job.state,
        "exit_code": job.exit_code,
        "seconds": job.seconds,
        "command": job.command,
        "message": job.message,
        "metadata": dict(job.metadata),
    }


def _resolve(address: str | None) -> str:
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if given and "://" in given:
        if urlsplit(given).scheme not in ("http", "https"):
            raise UserError(f"--address {given!r}: expected http://host:port of the dashboard")
        return given.rstrip("/")
    if given and ":" in given:
        return f"http://{given}"
    if given:
        cluster = local.find(given)
    else:
        running = [cluster for cluster in local.clusters() if cluster.alive]
        if not running:
            raise UserError(
                "no local cluster is up: begin with quadriga cluster up, or give --address http://host:8265"
            )
        named = [cluster for cluster in running if cluster.name == local.DEFAULT_NAME]
        if len(running) > 1 and not named:
            raise UserError(f"--address: which cluster? {', '.join(cluster.name for cluster in running)}")
        cluster = (named or running)[0]
    if not cluster.alive:
        raise UserError(f"the head of cluster {cluster.name!r} is dead; see: quadriga cluster status")
    return cluster.dashboard


def _job(details: Any) -> Job:
    metadata = {name: value for name, value in (details.metadata or {}).items() if name in METADATA}
    return Job(
        id=details.submission_id,
        state=str(getattr(details.status, "value", details.status)),
        command=details.entrypoint,
        message=(details.message or "").strip(),
        exit_code=details.driver_exit_code,
        started_ms=details.start_time,
        ended_ms=details.end_time,
        metadata=metadata,
    )
