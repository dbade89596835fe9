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

import math
import os
from collections.abc import Iterable, Mapping

from quadriga.platform.errors import UserError

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


def slots(nodes: Iterable[Mapping[str, float]]) -> int:
    """CPU slots for actors of training on nodes that offer these resources: an actor takes a whole one.

    Args:
        nodes: of each node its resources by name; those without the role of rollouts or learners do not count.
    """
    return sum(math.floor(node.get("CPU", 0)) for node in nodes if ROLLOUTS in node or LEARNERS in node)


def _offered(role: str) -> bool:
    import ray

    return bool(ray.cluster_resources().get(role))
