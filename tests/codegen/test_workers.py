"""Sandboxes as Ray actors: the same verdicts, and no sample lost or counted twice when one is killed."""

import dataclasses
import os
import signal
from collections import Counter

import pytest

from quadriga.codegen.sandbox.limits import Limits
from quadriga.codegen.sandbox.supervisor import Job
from quadriga.platform.errors import UserError

LIMITS = Limits(wall_s=30)


def jobs(problem, n):
    for token in range(n):
        yield Job(token, problem, f"    return {'2 * x' if token % 3 == 0 else 'x'}  # {token}\n", LIMITS)


@pytest.fixture
def pool(ray_session):
    from quadriga.codegen.workers import RayPool

    made = RayPool(2, LIMITS, cpus=0.5)
    yield made
    made.close()


def test_batches_come_back_whole(pool, doubling):
    found = list(pool.run(jobs(doubling, 100)))
    assert sorted(token for token, _ in found) == list(range(100))
    assert all(verdict.passed == (token % 3 == 0) for token, verdict in found)
    assert pool.isolation.tier in ("namespaces", "landlock")


def test_a_killed_worker_loses_and_doubles_nothing(pool, doubling):
    import ray

    times: Counter[int] = Counter()
    killed = 0
    for token, verdict in pool.run(jobs(doubling, 400)):
        times[token] += 1
        assert verdict.kind == ("passed" if token % 3 == 0 else "failed")
        if len(times) in (40, 160):
            os.kill(ray.get(pool.actors[killed].process.remote()), signal.SIGKILL)
            killed += 1
    assert killed == 2
    assert times == Counter(range(400))


@pytest.mark.slow
def test_workers_killed_in_the_middle_of_two_thousand_samples_lose_and_double_nothing(pool, doubling):
    import ray

    times: Counter[int] = Counter()
    wrong, killed = [], 0
    for token, verdict in pool.run(jobs(doubling, 2000)):
        times[token] += 1
        if verdict.kind != ("passed" if token % 3 == 0 else "failed"):
            wrong.append((token, verdict))
        if len(times) >= 400 * (killed + 1) and killed < 4:
            os.kill(ray.get(pool.actors[killed % 2].process.remote()), signal.SIGKILL)
            killed += 1
    assert (killed, wrong) == (4, [])
    assert times == Counter(range(2000))


def test_a_worker_in_the_place_of_another_isolates_as_it_did_or_judges_nothing(pool, doubling):
    import ray

    found = pool.isolation
    pool.isolation = dataclasses.replace(found, python="3.0.0")  # what the machine of the killed one would have said
    run = pool.run(jobs(doubling, 400))
    next(run)
    for actor in pool.actors:
        os.kill(ray.get(actor.process.remote()), signal.SIGKILL)
    with pytest.raises(UserError, match=rf"did not start again: .*Python 3\.0\.0; {found.tier}, Python {found.python}"):
        list(run)


def test_a_worker_that_cannot_isolate_says_so(ray_session):
    from quadriga.codegen.workers import RayPool

    with pytest.raises(UserError, match=r"a sandbox on the cluster did not start: .*no such tier"):
        RayPool(1, LIMITS, tier="none", cpus=0.5)


def test_a_batch_that_always_kills_its_worker_is_given_up_one_by_one(doubling):
    from quadriga.codegen.workers import Batch, RayPool

    again: list = []
    batch = Batch(list(jobs(doubling, 2)), 3)
    assert list(RayPool._give_up(batch, again)) == []
    assert [len(part.jobs) for part in again] == [1, 1]
    ((token, verdict),) = RayPool._give_up(again[1], again)
    assert (token, verdict.kind) == (1, "infrastructure_error")
