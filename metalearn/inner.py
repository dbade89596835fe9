"""The inner loop: minibatches of a task, the optimizers that learn it, and their state.

As in the code published with the paper: Adam has beta1 = 0, and its second moments are not reset between tasks
(they belong to a *slot* of the meta-batch: slot i learns the i-th task of every meta-iteration). `Kernel` is what
computes a network's gradients; what the meta-learner does with the result is in `outer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from quadriga.metalearn.tasks import Array

Vector = NDArray[np.float32]
Index = NDArray[np.int64]
Bound = Any


class Batch(Protocol):
    """Examples in the form in which a kernel takes them."""

    @property
    def size(self) -> int:
        """Number of examples."""

    def take(self, index: torch.Tensor) -> Any:
        """Those of `index`, int64 `[n]`."""


class Kernel(Protocol):
    """Computes outputs, losses and derivatives of one network on small batches.

    Vectors are parameters, gradients or directions `[size]`; a kernel takes them as views that `bind` makes.
    """

    def bind(self, vector: Vector) -> Bound:
        """Views of a vector, made once a vector."""

    def prepare(self, inputs: Array, targets: Array | None = None) -> Any:
        """A `Batch` of examples, made once a task."""

    def predict(self, parameters: Bound, batch: Any) -> torch.Tensor:
        """Outputs `[n, outputs]`."""

    def gradient(self, parameters: Bound, batch: Any, out: Bound) -> torch.Tensor:
        """Overwrites `out` with the gradient of the loss; returns the outputs before."""

    def record(self, parameters: Bound, batch: Any, out: Bound) -> Any:
        """As `gradient`, but returns what `curvature` needs; `parameters` must not change until then."""

    def curvature(self, tape: Any, direction: Bound, out: Bound) -> None:
        """Overwrites `out` with the Hessian of a recorded loss times `direction`; a tape serves once."""

    def loss(self, outputs: torch.Tensor, batch: Any) -> float:
        """The loss that `gradient` differentiates, of its outputs."""


class Slot(Protocol):
    """An optimizer with the state of one slot of the meta-batch."""

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Moves `parameters` in place."""

    def state(self) -> dict[str, Array]:
        """Everything that a continuation needs; empty if there is nothing."""

    def load(self, state: dict[str, Array]) -> None:
        """Continues from a `state`; it is copied."""


@dataclass
class SGD:
    """Plain gradient descent, no state."""

    learning_rate: float

    def step(self, parameters: Vector, gradient: Vector) -> None:
        torch.from_numpy(parameters).sub_(torch.from_numpy(gradient), alpha=self.learning_rate)

    def state(self) -> dict[str, Array]:
        return {}

    def load(self, state: dict[str, Array]) -> None:
        pass


class Adam:
    """Adam with beta1 = 0, and epsilon where TensorFlow has it (Kingma & Ba 2015, end of section 2):

        v = beta2 v + (1 - beta2) g^2;   p = p - lr sqrt(1 - beta2^t) g / (sqrt(v) + epsilon)

    Args:
        size: of the vectors.
        learning_rate: lr.
        beta2: decay of v.
        epsilon: as above.
    """

    def __init__(self, size: int, learning_rate: float, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.learning_rate, self.beta2, self.epsilon = learning_rate, beta2, epsilon
        self.square = torch.zeros(size)
        self.steps = 0
        self._count = torch.zeros(())

    def step(self, parameters: Vector, gradient: Vector) -> None:
        slope = torch.from_numpy(gradient)
        correction = (1.0 - self.beta2 ** (self.steps + 1)) ** 0.5
        self._count.fill_(self.steps + 1)
        torch._fused_adam_(
            [torch.from_numpy(parameters)],
            [slope],
            [slope],  # with beta1 = 0 the mean of gradients is the gradient
            [self.square],
            [],
            [self._count],
            lr=self.learning_rate,
            beta1=0.0,
            beta2=self.beta2,
            weight_decay=0.0,
            eps=self.epsilon / correction,
            amsgrad=False,
            maximize=False,
        )
        self.steps += 1

    def state(self) -> dict[str, Array]:
        return {"square": self.square.numpy().copy(), "steps": np.asarray(self.steps, np.int64)}

    def load(self, state: dict[str, Array]) -> None:
        self.square.copy_(torch.from_numpy(np.array(state["square"], np.float32)))
        self.steps = int(state["steps"])


def minibatches(rng: np.random.Generator, count: int, batch: int, steps: int, *, replacement: bool) -> Index:
    """Which examples each step uses, `[steps, batch]`.

    Without replacement the examples are shuffled and walked through, over and over; a batch may hold the end
    of one pass and the beginning of the next. With replacement every batch is drawn anew; inside a batch
    examples differ.

    Raises:
        ValueError: a batch with replacement that is larger than the task.
    """
    if replacement:
        if batch > count:
            raise ValueError(f"a batch of {batch} different examples of {count}")
        return np.stack([rng.permutation(count)[:batch] for _ in range(steps)])
    passes = -(-steps * batch // count)
    return np.concatenate([rng.permutation(count) for _ in range(passes)])[: steps * batch].reshape(steps, batch)


def batches(examples: Batch, plan: Index) -> list[Any]:
    """The minibatches of `plan` `[steps, batch]`; one as large as the task is the task, in whatever order."""
    if plan.shape[1] == examples.size:
        return [examples] * len(plan)
    return [examples.take(index) for index in torch.from_numpy(plan)]


def descend(kernel: Kernel, optimizer: Slot, parameters: Vector, batches: Sequence[Any]) -> None:
    """Takes one step on each of `batches`, in place."""
    gradient = np.empty_like(parameters)
    bound, bound_gradient = kernel.bind(parameters), kernel.bind(gradient)
    for batch in batches:
        kernel.gradient(bound, batch, bound_gradient)
        optimizer.step(parameters, gradient)
