"""The recurrent network in torch: the definition that `platform.rollouts.recurrent.NumpyLSTM` acts by, over sequences.

Backpropagation through time goes as far as a sequence's beginning, whose state is the one that the acting
network had there; nothing of a sequence is left out to warm the state up.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from quadriga.policies.networks import ACTIVATIONS


class Memory(NamedTuple):
    """What a recurrent network needs besides observations [B]; the rows are sequences of one length, one after another.

    Attributes:
        resets: bool [B], the state is zeroed before this row: an episode begins.
        states: float32 [S, state_dim], at the beginning of each sequence, policy's and critics'.
    """

    resets: Any
    states: Any


class RecurrentNetwork(nn.Module):
    """Layers, an LSTM of `units`, and a linear head, as `NumpyLSTM` has them and under the same names.

    Orthogonal initialization gate by gate, 1 in the forget gate's bias (Jozefowicz et al. 2015), `final_gain` in the
    head.
    """

    def __init__(self, sizes: Sequence[int], units: int, outputs: int, activation: str, *, final_gain: float) -> None:
        """`sizes`: of the observation and of the layers before the LSTM."""
        super().__init__()
        self.activation, self.units = ACTIVATIONS[activation], units
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            self.weights.append(nn.Parameter(nn.init.orthogonal_(torch.empty(fan_in, fan_out), 2**0.5)))
            self.biases.append(nn.Parameter(torch.zeros(fan_out)))
        self.input = nn.Parameter(_gates(sizes[-1], units))
        self.recurrent = nn.Parameter(_gates(units, units))
        self.bias = nn.Parameter(torch.zeros(4 * units))
        self.head = nn.Parameter(nn.init.orthogonal_(torch.empty(units, outputs), final_gain))
        self.head_bias = nn.Parameter(torch.zeros(outputs))
        with torch.no_grad():
            self.bias[units : 2 * units] = 1.0

    def forward(self, x: torch.Tensor, resets: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Outputs [B, out] of inputs [B, in], with `resets` bool [B] and `states` [S, 2 units]; S divides B."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = self.activation(x @ weight + bias)
        gates = x @ self.input + self.bias
        if not len(states):  # no rows, but still a function of all parameters, whose gradients are zero
            return (gates @ self.recurrent.T) @ self.head + self.head_bias
        gates = gates.unflatten(0, (len(states), -1))
        keep = (~resets).to(x.dtype).unflatten(0, (len(states), -1)).unsqueeze(-1)
        h, c = states.split(self.units, -1)
        outputs = []
        for t in range(gates.shape[1]):
            i, f, g, o = (gates[:, t] + (h * keep[:, t]) @ self.recurrent).chunk(4, -1)
            c = torch.sigmoid(f) * (c * keep[:, t]) + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        hidden = torch.stack(outputs, 1).flatten(0, 1)
        return hidden @ self.head + self.head_bias


def _gates(fan_in: int, units: int) -> torch.Tensor:
    return torch.cat([nn.init.orthogonal_(torch.empty(fan_in, units)) for _ in range(4)], -1)
