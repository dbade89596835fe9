"""Fisher-vector products: written out for plain networks, and by differentiating the KL twice.

The natural gradient (Kakade 2001; Schulman et al. 2015, arXiv:1502.05477, appendix C) needs
products with the Hessian of `KL(pi_old || pi_theta)` at `theta = theta_old`. There the KL's slope in the
distribution's parameters mu is zero, so that the Hessian is exactly, not only in expectation,

    F = sum_rows J^T M J       J = dmu/dtheta,  M = d2KL/dmu2

with `M = diag(1 / sigma^2)` for the means of a Gaussian, `2 I` for its log-deviations, and
`M = diag(p) - p p^T` for logits. `WrittenOutFisher` computes `J v` forwards and `J^T u` backwards
through a multilayer perceptron, block by block of rows so that a block's activations stay in the
cache (`NetworkFisher`, of `dynamics_fit` too); `AutogradFisher` is the definition that it is tested
against, and what any other network uses. Damping, sums over learners and solving are `natural_gradient`'s business.
"""

from __future__ import annotations

import abc
import math
from types import ModuleType
from typing import Protocol

import numpy as np
import torch

from quadriga.policies import distributions
from quadriga.policies.batch import Array
from quadriga.policies.module import ActorCriticModule
from quadriga.policies.networks import MLP
from quadriga.policies.recurrent import Memory

BLOCK_ROWS = 512
"""Rows at a time on a CPU: two layers of 64 units are 0.5 MB, which a second-level cache holds."""


class Fisher(Protocol):
    """The curvature of the policy at the parameters that it had when `linearize` was called."""

    def linearize(self, observations: Array, memory: Memory | None = None) -> None:
        """Prepares for products over the rows of normalized observations [B, obs_dim]."""

    def product(self, vector: np.ndarray) -> np.ndarray:
        """`sum_rows J^T M J v`, float64 [n], for `v` float64 [n] in the order of the policy's parameters."""


def fisher_of(module: ActorCriticModule) -> Fisher:
    """The fast way if the policy is a plain multilayer perceptron."""
    return WrittenOutFisher(module) if isinstance(module.policy, MLP) else AutogradFisher(module)


class AutogradFisher:
    """The Hessian of the KL as it is defined, for any module: the gradient of (gradient of the KL) times `v`."""

    def __init__(self, module: ActorCriticModule) -> None:
        self.module = module
        self._parameters = module.policy_parameters()
        self._slope: torch.Tensor = torch.zeros(0)

    def linearize(self, observations: Array, memory: Memory | None = None) -> None:
        """See `Fisher`."""
        module = self.module
        memory = None if memory is None else Memory(*map(torch.as_tensor, memory))
        inputs = module.distribution_inputs(torch.as_tensor(observations), memory)
        old_log_std = None if module.log_std is None else module.log_std.detach()
        kl = distributions.kl_divergence(inputs.detach(), old_log_std, inputs, module.log_std).sum()
        gradients = torch.autograd.grad(kl, self._parameters, create_graph=True)
        self._slope = torch.cat([gradient.reshape(-1) for gradient in gradients])

    def product(self, vector: np.ndarray) -> np.ndarray:
        """See `Fisher`."""
        direction = torch.as_tensor(vector, dtype=self._slope.dtype, device=self._slope.device)
        gradients = torch.autograd.grad(self._slope @ direction, self._parameters, retain_graph=True)
        return torch.cat([gradient.reshape(-1) for gradient in gradients]).double().cpu().numpy()


class _Block:
    """What a block of rows is linearized at.

    Attributes:
        inputs: of each layer, [rows, in]; a hidden layer's stands in the right half of [rows, 2 in]
            whose left half takes the tangent of the same units, so that one product serves both.
        slopes: of each hidden layer's activation, [rows, units].
        metric: what M needs of the outputs.
    """

    __slots__ = ("inputs", "metric", "slopes")

    def __init__(self, inputs: list[Array], slopes: list[Array], metric: Array) -> None:
        self.inputs, self.slopes, self.metric = inputs, slopes, metric


class NetworkFisher(abc.ABC):
    """`J^T M J v` of an `MLP` on the memory of its parameters, in numpy on a CPU and in torch on a GPU.

    A subclass says what M is: it knows the distribution whose parameters the network's outputs are.
    """

    def __init__(self, network: MLP, block_rows: int | None = None) -> None:
        on_cpu = next(network.parameters()).device.type == "cpu"
        self.xp: ModuleType = np if on_cpu else torch
        self.block_rows = block_rows or (BLOCK_ROWS if on_cpu else None)
        self.relu = network.activation is torch.relu
        self.weights = [self._array(weight) for weight in network.weights]
        self.biases = [self._array(bias) for bias in network.biases]
        self._blocks: list[_Block] = []
        self._rows = 0

    @abc.abstractmethod
    def _metric(self, outputs: Array) -> Array:
        """What `_apply` needs of a block's outputs [rows, out]; may overwrite them."""

    @abc.abstractmethod
    def _apply(self, u: Array, metric: Array) -> None:
        """Multiplies a block's tangents `u` [rows, out] by M in place."""

    def _array(self, tensor: torch.Tensor) -> Array:
        return tensor.detach().numpy() if self.xp is np else tensor.detach()

    def linearize(self, observations: Array, memory: Memory | None = None) -> None:
        """See `Fisher`."""
        self._rows = len(observations)
        step = self.block_rows or max(1, self._rows)
        self._blocks = [self._linearized(observations[low : low + step]) for low in range(0, self._rows, step)]

    def _linearized(self, observations: Array) -> _Block:
        xp, last = self.xp, len(self.weights) - 1
        x, inputs, slopes = observations, [observations], []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = xp.matmul(x, weight)
            x += bias
            if layer < last:
                if self.relu:
                    slope = xp.sign(x)
                    slope[slope < 0] = 0
                    x *= slope
                else:
                    x = xp.tanh(x)
                    slope = 1.0 - x * x
                slopes.append(slope)
                inputs.append(xp.concatenate([x, x], -1))
        return _Block(inputs, slopes, self._metric(x))

    def product(self, vector: np.ndarray) -> np.ndarray:
        """See `Fisher`."""
        xp, last = self.xp, len(self.weights) - 1
        weight_tangents, bias_tangents = self._tangents(vector)
        # Of a hidden layer: [t, x] @ [W; V] = t W + x V.
        stacked = [
            xp.concatenate([weight, tangent], 0) if layer else tangent
            for layer, (weight, tangent) in enumerate(zip(self.weights, weight_tangents, strict=True))
        ]
        transposed = [weight.swapaxes(-1, -2) for weight in self.weights]
        # In float64: what blocks add up to keeps its digits.
        weight_sums = [xp.zeros_like(weight, dtype=xp.float64) for weight in self.weights]
        bias_sums = [xp.zeros_like(bias, dtype=xp.float64) for bias in self.biases]
        for block in self._blocks:
            for layer in range(last + 1):
                u = xp.matmul(block.inputs[layer], stacked[layer])
                u += bias_tangents[layer]
                if layer < last:
                    xp.multiply(u, block.slopes[layer], out=block.inputs[layer + 1][:, : u.shape[-1]])
            self._apply(u, block.metric)
            for layer in range(last, -1, -1):
                x = block.inputs[layer]
                if layer:
                    x = x[:, x.shape[-1] // 2 :]
                weight_sums[layer] += xp.matmul(x.swapaxes(-1, -2), u)
                bias_sums[layer] += u.sum(0)
                if layer:
                    u = xp.matmul(u, transposed[layer])
                    u *= block.slopes[layer - 1]
        parts = [(part if xp is np else part.cpu().numpy()).reshape(-1) for part in (*weight_sums, *bias_sums)]
        return np.concatenate(parts)

    def _tangents(self, vector: np.ndarray) -> tuple[list[Array], list[Array]]:
        """The beginning of `vector` as directions of the weights and of the biases, in their dtype."""
        shaped, offset = [], 0
        for parameter in (*self.weights, *self.biases):
            end = offset + math.prod(parameter.shape)
            part = vector[offset:end].reshape(tuple(parameter.shape))
            shaped.append(part.astype(parameter.dtype) if self.xp is np else torch.as_tensor(part).to(parameter))
            offset = end
        return shaped[: len(self.weights)], shaped[len(self.weights) :]


class WrittenOutFisher(NetworkFisher):
    """`F v` of an `MLP` policy."""

    def __init__(self, module: ActorCriticModule, block_rows: int | None = None) -> None:
        assert isinstance(module.policy, MLP)
        super().__init__(module.policy, block_rows)
        self.log_std: Array = None if module.log_std is None else self._array(module.log_std)
        self._learns_std = module.learns_std

    def _metric(self, outputs: Array) -> Array:
        if self.log_std is not None:
            return None
        xp, largest = self.xp, outputs.max(-1, keepdims=True) if self.xp is np else outputs.amax(-1, keepdim=True)
        probabilities = xp.exp(outputs - largest)
        probabilities /= probabilities.sum(-1)[:, None]
        return probabilities

    def _apply(self, u: Array, metric: Array) -> None:
        if metric is None:
            u *= self._precision
        else:
            u -= (metric * u).sum(-1)[:, None]
            u *= metric

    def product(self, vector: np.ndarray) -> np.ndarray:
        """See `Fisher`."""
        if self.log_std is None:
            return super().product(vector)
        self._precision = self.xp.exp(-2.0 * self.log_std)
        if not self._learns_std:
            return super().product(vector)
        log_std_tangent = vector[len(vector) - math.prod(self.log_std.shape) :]
        return np.concatenate([super().product(vector), 2.0 * self._rows * log_std_tangent])
