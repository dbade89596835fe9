"""Where on a cluster actors belong: rollouts on CPU nodes, learners on GPU nodes, untrusted code on marked nodes.

A node takes a role by offering a resource of the role's name (`ray start --resources '{"rollouts": 1}'`).
Actors ask for a sliver of it. On a cluster whose nodes offer none of a role, actors go anywhere; only
untrusted code is then refused where there are several nodes. `QUADRIGA_PLACEMENT` changes it: `strict`
asks for the resources in any case, also where nodes that offer them are yet to be started by an
autoscaler; `anywhere` never does.

Jobs wait for room for all of their actors in a resource of its own, `ACTOR_SLOTS`; their drivers run
where `HEAD` is.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quadriga.platform.errors import UserError

logger = logging.getLogger("quadriga")

ROLLOUTS, LEARNERS, SANDBOX = "rollouts", "learners", "sandbox"
ACTOR_SLOTS = "actor_slots"
"""What the head of a cluster may offer: as many as the other nodes have CPU slots. A job's driver, which then runs on
the head, takes as many as the job's actors will occupy: jobs that do not fit beside each other run one after the
other, where they would hold some slots each and wait for each other's."""
HEAD = "node:__internal_head__"
"""What the head of every Ray cluster offers, once, and no other node does."""
VARIABLE = "QUADRIGA_PLACEMENT"
MODES = ("auto", "strict", "anywhere")
SLIVER = 0.001
"""Ray's smallest share of a resource: a node that offers 1 holds a thousand actors."""
PATIENCE_S = 30.0
"""After how long a wait for actors is spoken of."""


def resources(role: str) -> dict[str, float]:
    """What an actor of `role` asks Ray for besides CPUs and GPUs. Ray must be running.

    Raises:
        UserError: `QUADRIGA_PLACEMENT` is none of its values.
    """
    mode = os.environ.get(VARIABLE, "auto")
    if mode not in MODES:
        raise UserError(f"{VARIABLE}: expected one of {', '.join(MODES)}, got {mode!r}")
    if mode == "anywhere" or (mode == "auto" and not _offered(role)):
        return {}
    return {role: SLIVER}


def sandbox_resources() -> dict[str, float]:
    """As `resources(SANDBOX)`.

    Raises:
        UserError: the cluster has several nodes, and none is marked for untrusted code.
    """
    import ray

    wanted = resources(SANDBOX)
    nodes = sum(node["Alive"] for node in ray.nodes())
    if not wanted and nodes > 1 and os.environ.get(VARIABLE) != "anywhere":
        raise UserError(
            f"no node of this cluster is marked for untrusted code (resource {SANDBOX!r}): start some with "
            f"--resources '{{\"{SANDBOX}\": 1}}', or set {VARIABLE}=anywhere"
        )
    return wanted


def await_start(answers: Sequence[Any], what: str) -> None:
    """Returns when actors have given their first answers, or cannot; warns while Ray has no room for some of them.

    Ray itself waits without a word and without end: another run may hold the slots, or an autoscaler may bring some.

    Args:
        answers: references, one of each actor.
        what: the actors are, in the plural.
    """
    import ray

    missing = list(answers)
    began = time.monotonic()
    while missing:
        _, missing = ray.wait(missing, num_returns=len(missing), timeout=PATIENCE_S, fetch_local=False)
        if missing:
            waited = time.monotonic() - began
            logger.warning(
                "%d of %d %s have not started in %.0f seconds; %s", len(missing), len(answers), what, waited, _room()
            )


def warn_if_full(slots: int) -> None:
    """Says that a run will wait, if fewer CPU slots are free than its actors occupy; a trial's are reserved for it."""
    import ray
    from ray.util import get_current_placement_group

    if get_current_placement_group() is None and ray.available_resources().get("CPU", 0) < slots:
        logger.warning("the run's actors occupy %d CPU slots and wait for them; %s", slots, _room())


def slots(nodes: Iterable[Mapping[str, float]]) -> int:
    """CPU slots for actors of training on nodes that offer these resources: an actor takes a whole one.

    Args:
        nodes: of each node its resources by name; those without the role of rollouts or learners do not count.
    """
    return sum(math.floor(node.get("CPU", 0)) for node in nodes if ROLLOUTS in node or LEARNERS in node)


def _room() -> str:
    import ray

    free, total = ray.available_resources(), ray.cluster_resources()
    kinds = [("CPU", "CPU slots"), *([("GPU", "GPUs")] if total.get("GPU") else [])]
    return ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {noun} free" for name, noun in kinds)


def _offered(role: str) -> bool:
    import ray

    return bool(ray.cluster_resources().get(role))
