"""Gradients of the clipped surrogate and of the critics' regression: written out, and by autograd.

PPO (Schulman et al. 2017, arXiv:1707.06347, equations 6 and 7), `r = pi(a|s) / pi_old(a|s)`:

    L(theta) = -mean(min(r A, clip(r, 1 - eps, 1 + eps) A)) - c H(pi)

At a minibatch of a hundred rows, autograd's bookkeeping costs several times the arithmetic of a
small network. `WrittenOut` therefore applies the chain rule by hand, in numpy on a CPU and in
torch on a GPU; `Autograd` is the definition that it is tested against, and what any other
network uses. Both leave gradients in the views that `FlatParameters` made.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch

from quadriga.platform.rollouts.actors import LOG_2PI
from quadriga.policies import distributions
from quadriga.policies.batch import Array, UpdateBatch
from quadriga.policies.module import ActorCriticModule
from quadriga.policies.networks import MLP


class Gradients(Protocol):
    """Fills `.grad` of the policy's and the critics' parameters for a minibatch."""

    def policy(self, batch: UpdateBatch, clip: float, entropy_coefficient: float, total: int) -> tuple[Array, Array]:
        """Gradient of the local sum of the surrogate loss, divided by `total` rows over all learners.

        Returns the log-ratios [B] and which ratios were clipped bool [B].
        """

    def inputs(self, batch: UpdateBatch) -> Array:
        """Means or logits [B, dist_dim] of a batch's rows, without a gradient."""

    def critics(self, batch: UpdateBatch, total: int) -> Array:
        """Gradient of `0.5 sum (V - target)^2 / total`; returns the summed squared errors [K]."""


class Autograd:
    """The losses as they are read, for any module; gradients must be zero beforehand."""

    def __init__(self, module: ActorCriticModule) -> None:
        self.module = module
        self._policy_parameters = module.policy_parameters()
        self._critic_parameters = list(module.critics.parameters())

    def policy(self, batch: UpdateBatch, clip: float, entropy_coefficient: float, total: int) -> tuple[Array, Array]:
        """See `Gradients`."""
        batch, module = batch.tensors(), self.module
        _zero(self._policy_parameters)
        inputs = module.distribution_inputs(batch.observations, batch.memory)
        log_ratio = distributions.log_probs(inputs, module.log_std, batch.actions) - batch.log_probs
        ratio = log_ratio.exp()
        unclipped = ratio * batch.advantages
        surrogate = torch.minimum(unclipped, ratio.clamp(1.0 - clip, 1.0 + clip) * batch.advantages)
        loss = -surrogate.sum()
        if entropy_coefficient:
            loss = loss - entropy_coefficient * len(batch) * distributions.entropy(inputs, module.log_std)
        (loss / total).backward()
        return log_ratio.detach(), (surrogate < unclipped).detach()

    @torch.no_grad()
    def inputs(self, batch: UpdateBatch) -> Array:
        """See `Gradients`."""
        batch = batch.tensors()
        return self.module.distribution_inputs(batch.observations, batch.memory)

    def critics(self, batch: UpdateBatch, total: int) -> Array:
        """See `Gradients`."""
        batch = batch.tensors()
        _zero(self._critic_parameters)
        errors = (self.module.values(batch.observations, batch.memory) - batch.value_targets).square().sum(-1)
        (0.5 * errors.sum() / total).backward()
        return errors.detach()


def _zero(parameters: list[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.zero_()


class WrittenOut:
    """The same gradients for plain multilayer perceptrons, without a tape."""

    def __init__(self, module: ActorCriticModule) -> None:
        on_cpu = next(module.parameters()).device.type == "cpu"
        self.xp: ModuleType = np if on_cpu else torch
        assert isinstance(module.policy, MLP) and isinstance(module.critics, MLP)
        self.policy_network = Backward(module.policy, self.xp)
        self.critic_network = Backward(module.critics, self.xp)
        self.log_std: Array = None if module.log_std is None else _data(module.log_std, self.xp)
        self.log_std_gradient: Array = None
        if module.log_std is not None and module.learns_std:
            self.log_std_gradient = _data(module.log_std.grad, self.xp)

    def policy(self, batch: UpdateBatch, clip: float, entropy_coefficient: float, total: int) -> tuple[Array, Array]:
        """See `Gradients`."""
        xp, advantages = self.xp, batch.advantages
        inputs = self.policy_network.forward(batch.observations)
        if self.log_std is None:
            log_p = _log_softmax(inputs)
            rows = np.arange(len(batch)) if xp is np else torch.arange(len(batch), device=inputs.device)
            new_log_probs = log_p[rows, batch.actions]
        else:
            inverse_std = xp.exp(-self.log_std)
            z = (batch.actions - inputs) * inverse_std
            z_squared = z * z
            new_log_probs = z_squared.sum(-1)
            new_log_probs *= -0.5
            new_log_probs -= float(self.log_std.sum()) + 0.5 * LOG_2PI * z.shape[-1]
        log_ratio = new_log_probs - batch.log_probs
        ratio = xp.exp(log_ratio)
        # The minimum picks the clipped, constant branch where moving on would pay: no gradient there.
        clipped = ((ratio > 1.0 + clip) & (advantages > 0)) | ((ratio < 1.0 - clip) & (advantages < 0))
        slope = ratio * advantages  # -total * dL/dlog pi
        slope *= ~clipped
        slope *= -1.0 / total
        if self.log_std is None:
            p = xp.exp(log_p)
            gradient = p * -slope[:, None]
            gradient[rows, batch.actions] += slope
            if entropy_coefficient:
                # dH/dlogits = -p (log p + H)
                surprise = log_p + -(p * log_p).sum(-1)[:, None]
                gradient += p * surprise * (entropy_coefficient / total)
        else:
            gradient = z * (slope[:, None] * inverse_std)
            if self.log_std_gradient is not None:
                z_squared -= 1.0
                z_squared *= slope[:, None]
                xp.sum(z_squared, 0, out=self.log_std_gradient)
                if entropy_coefficient:
                    self.log_std_gradient -= entropy_coefficient * len(batch) / total
        self.policy_network.backward(gradient)
        return log_ratio, clipped

    def inputs(self, batch: UpdateBatch) -> Array:
        """See `Gradients`."""
        return self.policy_network.forward(batch.observations)

    def critics(self, batch: UpdateBatch, total: int) -> Array:
        """See `Gradients`."""
        errors = self.critic_network.forward(batch.observations)[..., 0] - batch.value_targets
        squared = (errors * errors).sum(-1)
        errors *= 1.0 / total
        self.critic_network.backward(errors[..., None])
        return squared


class Backward:
    """Forward and reverse pass of an `MLP` on the memory of its parameters and their gradients."""

    def __init__(self, network: MLP, xp: ModuleType) -> None:
        self.xp = xp
        self.relu = network.activation is torch.relu
        self.weights = [_data(weight, xp) for weight in network.weights]
        self.transposed = [weight.swapaxes(-1, -2) for weight in self.weights]
        self.biases = [_data(bias, xp) for bias in network.biases]
        self.weight_gradients = [_data(weight.grad, xp) for weight in network.weights]
        # A stack's biases are [K, 1, out]; their gradients are summed as [K, out].
        self.bias_gradients = [
            _data(bias.grad, xp).reshape((*bias.shape[:-2], bias.shape[-1])) for bias in network.biases
        ]
        self._layers: list[Array] = []

    def forward(self, x: Array) -> Array:
        xp, last = self.xp, len(self.weights) - 1
        self._layers = [x]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = xp.matmul(x, weight)
            x += bias
            if layer < last:
                if self.relu:
                    x *= x > 0
                else:
                    xp.tanh(x, out=x)
                self._layers.append(x)
        return x

    def backward(self, gradient: Array) -> None:
        """`gradient`: of the loss in the outputs; overwrites the parameters' gradients."""
        xp = self.xp
        for layer in range(len(self.weights) - 1, -1, -1):
            x = self._layers[layer]
            xp.matmul(x.swapaxes(-1, -2), gradient, out=self.weight_gradients[layer])
            xp.sum(gradient, -2, out=self.bias_gradients[layer])
            if layer:
                gradient = xp.matmul(gradient, self.transposed[layer])
                if self.relu:
                    gradient *= x > 0
                else:
                    slope = gradient * x
                    slope *= x
                    gradient -= slope


def _log_softmax(logits: Array) -> Array:
    if torch.is_tensor(logits):
        return torch.log_softmax(logits, -1)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _data(tensor: Any, xp: ModuleType) -> Array:
    tensor = tensor.detach()
    return tensor.numpy() if xp is np else tensor
