"""Any network's inner step through PyTorch: one task at a time, or many tasks at once with `torch.func.vmap`.

The plain path: what the hand-written kernels are checked against, what a network without one uses, and on a GPU
the fast one, since thousands of tasks then share every kernel launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value, jvp, vmap

from quadriga.metalearn import networks
from quadriga.metalearn.networks import Network
from quadriga.metalearn.tasks import Array, Loss


class Examples(NamedTuple):
    """Inputs `[n, ...]` and targets: int64 `[n]`, or `[n, outputs]`."""

    inputs: Tensor
    targets: Tensor

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    def take(self, index: Tensor) -> Examples:
        """Those of `index` `[n]`."""
        return Examples(self.inputs[index], self.targets[index])


def loss_of(outputs: Tensor, targets: Tensor, loss: Loss, reduction: str) -> Tensor:
    """The scalar loss of one task's outputs `[n, outputs]`."""
    if loss == "cross_entropy":
        return torch.nn.functional.cross_entropy(outputs, targets, reduction=reduction)
    # mse_loss has no forward derivative inside vmap.
    squares = (outputs - targets) ** 2
    return squares.mean() if reduction == "mean" else squares.sum()


def task_loss(network: Network, loss: Loss, reduction: str) -> Callable[[Tensor, Examples], tuple[Tensor, Tensor]]:
    """The function of a flat parameter vector and a task's examples: loss, and outputs beside it."""

    def function(vector: Tensor, examples: Examples) -> tuple[Tensor, Tensor]:
        outputs = network.logits(networks.split(network, vector), examples.inputs)
        return loss_of(outputs, examples.targets, loss, reduction), outputs

    return function


class AutogradKernel:
    """A kernel (see `inner.Kernel`) of any network.

    Args:
        network: what is computed.
        loss: the loss of an example.
        reduction: `sum` or `mean` over examples.
        dtype: of all arithmetic.
    """

    def __init__(
        self, network: Network, loss: Loss, reduction: str = "sum", dtype: torch.dtype = torch.float32
    ) -> None:
        self.network, self._loss, self._reduction, self._dtype = network, loss, reduction, dtype
        self._function = task_loss(network, loss, reduction)

    def bind(self, vector: Array) -> Tensor:
        """The vector as a tensor on the same memory."""
        return torch.from_numpy(vector)

    def prepare(self, inputs: Array, targets: Array | None = None) -> Examples:
        """Examples as tensors."""
        given = torch.from_numpy(np.ascontiguousarray(inputs)).to(self._dtype)
        if targets is None:
            return Examples(given, torch.zeros(len(given), dtype=torch.int64))
        wanted = torch.from_numpy(np.ascontiguousarray(targets))
        return Examples(given, wanted if self._loss == "cross_entropy" else wanted.to(self._dtype))

    @torch.no_grad()
    def predict(self, parameters: Tensor, batch: Examples) -> Tensor:
        """Outputs `[n, outputs]`."""
        return self.network.logits(networks.split(self.network, parameters), batch.inputs)

    def gradient(self, parameters: Tensor, batch: Examples, out: Tensor) -> Tensor:
        """Overwrites `out`; returns the outputs."""
        vector = parameters.detach().requires_grad_()
        loss, outputs = self._function(vector, batch)
        (gradient,) = torch.autograd.grad(loss, vector)
        out.copy_(gradient)
        return outputs.detach()

    def record(self, parameters: Tensor, batch: Examples, out: Tensor) -> tuple[Tensor, Tensor]:
        """As `gradient`; keeps the graph."""
        vector = parameters.detach().requires_grad_()
        loss, _ = self._function(vector, batch)
        (gradient,) = torch.autograd.grad(loss, vector, create_graph=True)
        out.copy_(gradient.detach())
        return vector, gradient

    def curvature(self, tape: tuple[Tensor, Tensor], direction: Tensor, out: Tensor) -> None:
        """Overwrites `out` with the Hessian times `direction`, by differentiating `gradient . direction`."""
        vector, gradient = tape
        (product,) = torch.autograd.grad(gradient, vector, grad_outputs=direction)
        out.copy_(product)

    def loss(self, outputs: Tensor, batch: Examples) -> float:
        """The loss of `outputs`."""
        return float(loss_of(outputs, batch.targets, self._loss, self._reduction))


class VectorizedKernel:
    """Gradients of many tasks at once: everything has a leading axis of tasks.

    Args:
        network: what is computed.
        loss: the loss of an example.
        reduction: `sum` or `mean` over a task's examples.
        device: where, e.g. `cuda`.
        dtype: of all arithmetic.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        reduction: str = "sum",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network, self._loss, self.device, self._dtype = network, loss, torch.device(device), dtype
        function = task_loss(network, loss, reduction)
        gradient = grad_and_value(function, has_aux=True)

        def of_task(vector: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            slope, (loss_value, _) = gradient(vector, Examples(inputs, targets))
            return slope, loss_value

        def along(vector: Tensor, inputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
            product: Tensor = jvp(lambda point: of_task(point, inputs, targets)[0], (vector,), (direction,))[1]
            return product

        self._gradient = vmap(of_task)
        self._curvature = vmap(along)
        self._outputs = vmap(lambda vector, inputs: network.logits(networks.split(network, vector), inputs))

    def tensor(self, values: Any) -> Tensor:
        """`values` on the device: integers as int64, all else in the kernel's dtype."""
        array = np.asarray(values)
        kind = torch.int64 if array.dtype == np.int64 else self._dtype
        # Arrays from Ray's object store may not be written to, which torch warns of.
        owned = np.ascontiguousarray(array) if array.flags.writeable else array.copy()
        return torch.from_numpy(owned).to(self.device).to(kind)

    @torch.no_grad()
    def predict(self, vectors: Tensor, inputs: Tensor) -> Tensor:
        """Outputs `[tasks, n, outputs]` of parameters `[tasks, size]` for inputs `[tasks, n, ...]`."""
        return self._outputs(vectors, inputs)

    def gradient(self, vectors: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients `[tasks, size]` and losses `[tasks]`."""
        gradients, losses = self._gradient(vectors, inputs, targets)
        return gradients.detach(), losses.detach()

    def curvature(self, vectors: Tensor, inputs: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
        """Each task's Hessian times its row of `directions`, `[tasks, size]`."""
        return self._curvature(vectors, inputs, targets, directions).detach()
