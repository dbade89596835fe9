"""Takes a job out of the queue: `python withdrawal.py JOB`, as a job on the head of its cluster.

Ray delivers a stop to the job's supervisor, an actor that waits for the same room as the job and so would hear of it
last. Inside the cluster the job can be marked as stopped and that actor be removed. This goes there as text, for the
Quadriga of the head may be another, or there may be none: it imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import ray
from ray.dashboard.modules.job.common import (
    JOB_ACTOR_NAME_TEMPLATE,
    SUPERVISOR_ACTOR_RAY_NAMESPACE,
    JobInfoStorageClient,
)
from ray.job_submission import JobStatus


def withdraw(id: str) -> None:
    """Ends a job that has not begun; leaves another as it is. Ray must be running."""
    if asyncio.run(_marked(id)):
        with contextlib.suppress(ValueError):  # the actor has just ended
            name = JOB_ACTOR_NAME_TEMPLATE.format(job_id=id)
            ray.kill(ray.get_actor(name, namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE))


async def _marked(id: str) -> bool:
    jobs = JobInfoStorageClient(ray._private.worker.global_worker.gcs_client)
    if await jobs.get_status(id) != JobStatus.PENDING:
        return False
    # Before the actor goes: of a job that is still marked as waiting, Ray would say that it failed.
    await jobs.put_status(id, JobStatus.STOPPED, message="Stopped before it began.")
    return True


if __name__ == "__main__":
    ray.init(log_to_driver=False)
    withdraw(sys.argv[1])
