"""One inner step of a multilayer perceptron with squared error, forward and backward written out by hand in numpy.

With ten points and 64 hidden units a step is some twenty tiny operations; numpy's are cheaper than torch's, and
there is no graph to record.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quadriga.metalearn.networks import MLP

Matrix = NDArray[Any]
Bound = list[Matrix]


class Points(NamedTuple):
    """Examples of a regression task: inputs `[n, in]`, targets `[n, out]`."""

    inputs: Matrix
    targets: Matrix

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    def take(self, index: torch.Tensor) -> Points:
        """Those of `index` `[n]`."""
        chosen = index.numpy()
        return Points(self.inputs[chosen], self.targets[chosen])


class MLPKernel:
    """Outputs and derivatives of `network` with the squared error, its mean over the batch or its sum.

    Args:
        network: what is computed.
        reduction: `mean` or `sum` over examples and outputs.
        dtype: float32; float64 is for checking.
    """

    def __init__(self, network: MLP, reduction: str = "mean", dtype: type[np.floating[Any]] = np.float32) -> None:
        self.network, self.dtype = network, dtype
        self.mean_loss = reduction == "mean"
        self._tanh = network.activation == "tanh"

    def bind(self, vector: Matrix) -> Bound:
        """Views of the weights `[out, in]` and biases `[out]`, in turn."""
        bounds = np.cumsum([leaf.size for leaf in self.network.leaves])[:-1]
        parts = np.split(vector, bounds)
        return [part.reshape(leaf.shape) for part, leaf in zip(parts, self.network.leaves, strict=True)]

    def prepare(self, inputs: Matrix, targets: Matrix | None = None) -> Points:
        """Inputs `[n, in]` and targets `[n, out]` (zeros without)."""
        targets = np.zeros((len(inputs), self.network.outputs)) if targets is None else targets
        return Points(np.asarray(inputs, self.dtype), np.asarray(targets, self.dtype))

    def predict(self, parameters: Bound, batch: Points) -> torch.Tensor:
        """Outputs `[n, out]`."""
        return torch.from_numpy(self._forward(parameters, batch.inputs)[-1])

    def gradient(self, parameters: Bound, batch: Points, out: Bound) -> torch.Tensor:
        """Overwrites `out` with the gradient; returns the outputs."""
        layers = self._forward(parameters, batch.inputs)
        delta = self._scale(batch) * (layers[-1] - batch.targets)
        for index in range(len(layers) - 2, -1, -1):
            np.matmul(delta.T, layers[index], out=out[2 * index])
            np.sum(delta, axis=0, out=out[2 * index + 1])
            if index:
                delta = (delta @ parameters[2 * index]) * self._slope(layers[index])
        return torch.from_numpy(layers[-1])

    def record(self, parameters: Bound, batch: Points, out: Bound) -> tuple[Bound, Points]:
        """As `gradient`; the passes are so cheap that `curvature` repeats them."""
        self.gradient(parameters, batch, out)
        return parameters, batch

    def curvature(self, tape: tuple[Bound, Points], direction: Bound, out: Bound) -> None:
        """Overwrites `out` with the Hessian times `direction`: the derivative of `gradient` along it.

        Pearlmutter 1994's R-operator: each quantity of the two passes with its derivative (`r_`) beside it.
        """
        parameters, batch = tape
        layers = self._forward(parameters, batch.inputs)
        r_layers = [np.zeros_like(batch.inputs)]
        last = len(layers) - 1
        for index in range(last):
            weight, r_weight, r_bias = parameters[2 * index], direction[2 * index], direction[2 * index + 1]
            r_sum = r_layers[-1] @ weight.T + layers[index] @ r_weight.T + r_bias
            r_layers.append(r_sum * self._slope(layers[index + 1]) if index < last - 1 else r_sum)
        scale = self._scale(batch)
        delta, r_delta = scale * (layers[-1] - batch.targets), scale * r_layers[-1]
        for index in range(last - 1, -1, -1):
            out[2 * index][:] = r_delta.T @ layers[index] + delta.T @ r_layers[index]
            np.sum(r_delta, axis=0, out=out[2 * index + 1])
            if index:
                weight, r_weight = parameters[2 * index], direction[2 * index]
                back, slope = delta @ weight, self._slope(layers[index])
                r_back = r_delta @ weight + delta @ r_weight
                r_slope = -2 * layers[index] * r_layers[index] if self._tanh else np.zeros_like(slope)
                delta, r_delta = back * slope, r_back * slope + back * r_slope

    def loss(self, outputs: torch.Tensor, batch: Points) -> float:
        """The squared error of `outputs`."""
        errors = outputs.numpy() - batch.targets
        return float(np.mean(errors * errors) if self.mean_loss else np.sum(errors * errors))

    def _forward(self, parameters: Bound, inputs: Matrix) -> list[Matrix]:
        """The inputs and what every layer makes of them."""
        layers = [inputs]
        count = len(parameters) // 2
        for index in range(count):
            z = layers[-1] @ parameters[2 * index].T
            z += parameters[2 * index + 1]
            if index < count - 1:
                z = np.tanh(z, out=z) if self._tanh else np.maximum(z, 0, out=z)
            layers.append(z)
        return layers

    def _slope(self, layer: Matrix) -> Matrix:
        """The activation's derivative at a layer's outputs."""
        if self._tanh:
            slope: Matrix = 1 - layer * layer
            return slope
        return (layer > 0).astype(self.dtype)

    def _scale(self, batch: Points) -> float:
        return 2.0 / batch.targets.size if self.mean_loss else 2.0
