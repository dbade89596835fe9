"""What a meta-learner makes of inner loops: directions of single tasks, and the step along their mean.

All of the paper's algorithms (Nichol, Achiam, Schulman 2018) are one inner loop and differ in the direction they take
from it. With phi_0 = phi the initial weights, U_j the j-th inner step and phi_j the weights after it,

    reptile         phi_k - phi_0                          Algorithms 1 and 2
    fomaml          phi_k - phi_{k-1}                      section 3; the last minibatch may be held out ("tail")
    gradient-sum    phi_last - phi_{first-1}               section 6.2: g_first + ... + g_last
    maml            - d/dphi_0 L_tail(phi_{k-1}(phi_0))    Finn, Abbeel, Levine 2017

and phi moves by epsilon times the mean over the meta-batch, or by Adam along it. MAML's derivative goes back through
SGD steps one at a time: `v <- v - lr H_j v` with the Hessian H_j of step j's loss (Finn et al., eq. 5), so
that kernels need Hessian-vector products and no graph through the loop.

Pure functions on arrays; slots, workers and random streams are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from quadriga.metalearn.experiment import FOMAMLSettings, GradientSumSettings, MAMLSettings, ReptileSettings
from quadriga.metalearn.inner import Kernel, Slot, Vector
from quadriga.metalearn.tasks import Array

UpdateSettings = ReptileSettings | FOMAMLSettings | MAMLSettings | GradientSumSettings


class Span(NamedTuple):
    """Which inner steps a direction adds up, counted from 1, both included, and its weight."""

    first: int
    last: int
    weight: float = 1.0


def span(settings: ReptileSettings | FOMAMLSettings | GradientSumSettings, steps: int) -> Span:
    """The span of an algorithm over an inner loop of `steps` steps."""
    if isinstance(settings, FOMAMLSettings):
        return Span(steps, steps)
    if isinstance(settings, GradientSumSettings):
        last = steps if settings.last is None else settings.last
        return Span(settings.first, last, 1 / (last - settings.first + 1) if settings.average else 1.0)
    return Span(1, steps)


class Learned(NamedTuple):
    """Of one task: the direction `[size]` for phi, and the loss on the last minibatch before its step."""

    direction: Vector
    loss: float


def step_direction(kernel: Kernel, optimizer: Slot, phi: Vector, batches: Sequence[Any], over: Span) -> Learned:
    """The change of the weights over the steps of `over`, times its weight; steps after it are not taken."""
    parameters, gradient = phi.copy(), np.empty_like(phi)
    bound, bound_gradient = kernel.bind(parameters), kernel.bind(gradient)
    before = phi
    outputs = None
    for number, batch in enumerate(batches[: over.last], 1):
        if number == over.first and number > 1:
            before = parameters.copy()
        outputs = kernel.gradient(bound, batch, bound_gradient)
        optimizer.step(parameters, gradient)
    assert outputs is not None
    loss = kernel.loss(outputs, batches[over.last - 1])
    parameters -= before
    if over.weight != 1.0:
        parameters *= np.asarray(over.weight, parameters.dtype)
    return Learned(parameters, loss)


def maml_direction(kernel: Kernel, learning_rate: float, phi: Vector, batches: Sequence[Any]) -> Learned:
    """Minus the gradient of the last batch's loss after SGD steps on all the others, with respect to `phi`."""
    parameters = phi.copy()
    gradient = np.empty_like(phi)
    bound_gradient = kernel.bind(gradient)
    tapes = []
    for batch in batches[:-1]:
        tapes.append(kernel.record(kernel.bind(parameters), batch, bound_gradient))
        # New memory: a tape needs the weights where they were.
        parameters = (torch.from_numpy(parameters) - learning_rate * torch.from_numpy(gradient)).numpy()
    outputs = kernel.gradient(kernel.bind(parameters), batches[-1], bound_gradient)
    loss = kernel.loss(outputs, batches[-1])
    curved = np.empty_like(phi)
    bound_curved = kernel.bind(curved)
    for tape in reversed(tapes):
        kernel.curvature(tape, bound_gradient, bound_curved)
        torch.from_numpy(gradient).sub_(torch.from_numpy(curved), alpha=learning_rate)
    return Learned(np.negative(gradient, out=gradient), loss)


def annealed(settings: UpdateSettings, done: int, total: int) -> float:
    """Epsilon of the meta-iteration after `done` of `total`: linear from `step_size` to `final_step_size`."""
    share = done / total
    return (1 - share) * settings.step_size + share * settings.final_step_size


class MetaOptimizer:
    """Moves phi along mean directions.

    Args:
        settings: of the update.
        size: of phi.
    """

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, settings: UpdateSettings, size: int) -> None:
        self._adam = getattr(settings, "optimizer", "sgd") == "adam"
        self._mean = torch.zeros(size if self._adam else 0)
        self._square = torch.zeros(size if self._adam else 0)
        self._count = torch.zeros(())

    def step(self, phi: Vector, directions: Sequence[Vector], epsilon: float) -> float:
        """Moves `phi` in place; returns the norm of the mean direction.

        The directions are added in their order, so that the result does not depend on who made them.
        """
        mean = directions[0].copy()
        for direction in directions[1:]:
            mean += direction
        total = torch.from_numpy(mean).div_(len(directions))
        norm = float(torch.linalg.vector_norm(total))
        vector = torch.from_numpy(phi)
        if not self._adam:
            vector.add_(total, alpha=epsilon)
            return norm
        torch._fused_adam_(
            [vector],
            [total.neg_()],
            [self._mean],
            [self._square],
            [],
            [self._count.add_(1)],
            lr=epsilon,
            beta1=self.BETA1,
            beta2=self.BETA2,
            weight_decay=0.0,
            eps=self.EPSILON,
            amsgrad=False,
            maximize=False,
        )
        return norm

    def state(self) -> dict[str, Array]:
        """Everything that a continuation needs."""
        return {"mean": self._mean.numpy(), "square": self._square.numpy(), "count": self._count.numpy()}

    def load(self, state: dict[str, Array]) -> None:
        """Continues from a state."""
        self._mean = torch.from_numpy(np.array(state["mean"]))
        self._square = torch.from_numpy(np.array(state["square"]))
        self._count = torch.from_numpy(np.array(state["count"]))
