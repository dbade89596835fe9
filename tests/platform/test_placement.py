"""Roles of nodes: honoured where they are offered, asked for where that is said, and strict for untrusted code."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

from quadriga.platform import placement
from quadriga.platform.errors import UserError


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the nodes of the cluster offer."""
    monkeypatch.delenv(placement.VARIABLE, raising=False)

    def call(*nodes: dict[str, float]) -> None:
        total: dict[str, float] = {}
        for node in nodes:
            for name, amount in node.items():
                total[name] = total.get(name, 0) + amount
        monkeypatch.setattr(ray, "cluster_resources", lambda: total)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])

    return call


def test_a_role_is_asked_for_only_where_a_node_offers_it(offers: Any) -> None:
    offers({"CPU": 2}, {"CPU": 2, "rollouts": 1})
    assert placement.resources("rollouts") == {"rollouts": placement.SLIVER}
    assert placement.resources("learners") == {}


def test_untrusted_code_needs_a_marked_node_where_there_are_several(
    offers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers({"CPU": 2})
    assert placement.sandbox_resources() == {}
    offers({"CPU": 2}, {"CPU": 2, "sandbox": 1})
    assert placement.sandbox_resources() == {"sandbox": placement.SLIVER}
    offers({"CPU": 2}, {"CPU": 2})
    with pytest.raises(UserError, match="no node of this cluster is marked for untrusted code"):
        placement.sandbox_resources()
    monkeypatch.setenv(placement.VARIABLE, "anywhere")
    assert placement.sandbox_resources() == {}


def test_strict_asks_also_where_the_nodes_are_yet_to_come(offers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offers({"CPU": 2})
    monkeypatch.setenv(placement.VARIABLE, "strict")
    assert placement.resources("learners") == {"learners": placement.SLIVER}
    monkeypatch.setenv(placement.VARIABLE, "somewhere")
    with pytest.raises(UserError, match="expected one of auto, strict, anywhere"):
        placement.resources("learners")


def test_slots_are_whole_cpus_of_nodes_that_train() -> None:
    head, untrusted = {"CPU": 4.0, "actor_slots": 5.0}, {"CPU": 8.0, "sandbox": 1.0}
    assert placement.slots([head, {"CPU": 2.9, "rollouts": 1.0}, {"CPU": 3.0, "learners": 1.0}, untrusted]) == 5
    assert placement.slots([head, {"CPU": 0.5, "rollouts": 1.0}]) == 0


class Guest:
    """An actor that occupies slots."""

    def name(self) -> str:
        return "guest"


def test_actors_that_find_no_room_are_spoken_of(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(placement, "PATIENCE_S", 0.5)
    guest = ray.remote(num_cpus=3)(Guest)
    guests = [guest.remote() for _ in range(2)]
    answers = [actor.name.remote() for actor in guests]

    def leave() -> None:
        done, _ = ray.wait(answers)
        deadline = time.monotonic() + 30  # what is free becomes known a moment after the first warning
        while "1 of 4 CPU slots free" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.1)
        ray.kill(guests[answers.index(done[0])])

    with caplog.at_level("WARNING", "quadriga"), ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(leave)
        placement.await_start(answers, "guests")
        leaving.result()
    assert ray.get(answers) == ["guest"] * 2
    assert re.search(r"1 of 2 guests have not started in \d+ seconds; 1 of 4 CPU slots free", caplog.text)
    for actor in guests:
        ray.kill(actor)


def test_a_run_is_told_that_it_will_wait(ray_session: None, caplog: pytest.LogCaptureFixture) -> None:
    guest = ray.remote(num_cpus=3)(Guest).remote()
    ray.get(guest.name.remote())
    while ray.available_resources().get("CPU", 0) > 1:  # what is free becomes known a moment later
        time.sleep(0.1)
    placement.warn_if_full(1)
    assert not caplog.records
    placement.warn_if_full(2)
    assert caplog.messages == ["the run's actors occupy 2 CPU slots and wait for them; 1 of 4 CPU slots free"]
    ray.kill(guest)
