"""Networks: multilayer perceptrons, and a stack of them that runs as one.

Weights are stored `[in, out]`, a stack's `[K, in, out]`, so that the torch module, the numpy
actor and the hand-derived gradient read the same arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


class MLP(nn.Module):
    """`x @ W + b` a layer, `activation` between layers; `stack` networks of one shape at once if given.

    Orthogonal initialization, gain sqrt(2), `final_gain` in the last layer (Andrychowicz et al. 2021).
    """

    def __init__(self, sizes: Sequence[int], activation: str, *, final_gain: float, stack: int | None = None) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            gain = final_gain if layer == len(sizes) - 2 else 2**0.5
            copies = [nn.init.orthogonal_(torch.empty(fan_in, fan_out), gain) for _ in range(stack or 1)]
            self.weights.append(nn.Parameter(copies[0] if stack is None else torch.stack(copies)))
            self.biases.append(nn.Parameter(torch.zeros(fan_out) if stack is None else torch.zeros(stack, 1, fan_out)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x`: [B, in]; returns [B, out], or [K, B, out] of a stack."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.matmul(x, weight) + bias
            if layer < len(self.weights) - 1:
                x = self.activation(x)
        return x


class FlatParameters:
    """The parameters of modules as views of one vector, their gradients as views of another.

    One optimizer call, one norm and one all-reduce then serve them all.

    Attributes:
        vector: a parameter [n]; its `.grad` [n] is what every module's `.grad` views.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        with torch.no_grad():
            self.vector = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters]))
            self.vector.grad = torch.zeros_like(self.vector)
            offset = 0
            for parameter in self.parameters:
                span = slice(offset, offset + parameter.numel())
                parameter.data = self.vector.data[span].view_as(parameter)
                parameter.grad = self.vector.grad[span].view_as(parameter)
                offset = span.stop

    @property
    def gradient(self) -> torch.Tensor:
        """float32 [n]."""
        assert self.vector.grad is not None
        return self.vector.grad
