"""What a run occupies on Ray, as one placement group asks for it: a run that can start can finish.

The driver's bundle comes first and then one for each actor, for RLlib gives its n-th runner the n-th bundle of the
group that it finds itself in. Where actors belong, `placement` knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quadriga.platform import placement
from quadriga.platform.experiment import Experiment
from quadriga.platform.lines import line_of

Bundle = Mapping[str, float]
"""Amounts by resource: CPUs, GPUs, a sliver of a role."""


def bundles(experiment: Experiment, *, cpus: float = 1.0, gpus: float = 0.0) -> list[dict[str, float]]:
    """What the driver of a run of `experiment` occupies, `cpus` and `gpus`, and then each of its actors. Ray must run.

    Raises:
        UserError: as `placement.resources`.
    """
    wanted = [{"CPU": cpus, "GPU": gpus}]
    for demand in line_of(experiment).actors(experiment):
        role = placement.resources(demand.role) if demand.role and demand.count else {}
        wanted += [{"CPU": demand.cpus, "GPU": demand.gpus, **role}] * demand.count
    return [{name: amount for name, amount in each.items() if amount} for each in wanted]


def may_fit(wanted: Sequence[Bundle], nodes: Sequence[Bundle]) -> bool:
    """Whether each bundle fits on one of the nodes, and all bundles together ask for no more than all nodes have.

    A resource that no node offers does not count: nodes that do may be yet to be started.
    """
    offered = {name for node in nodes for name in node}
    needed = [{name: amount for name, amount in bundle.items() if name in offered} for bundle in wanted]
    each = all(
        any(all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes)
        for bundle in needed
    )
    return each and all(_total(needed, name) <= _total(nodes, name) for name in offered)


def _total(amounts: Sequence[Bundle], name: str) -> float:
    return sum(each.get(name, 0.0) for each in amounts)
