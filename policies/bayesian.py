"""A Bayesian network of the dynamics, and how much a transition would teach it (VIME).

Houthooft, Chen, Duan, Schulman, De Turck, Abbeel 2016 (arXiv:1605.09674), sections 2.3 to 2.5. Every parameter of the
network has a Gaussian of its own, `q(theta; phi)` with `phi = (mu, rho)` and `sigma = log(1 + e^rho)`, fitted to

    l(phi) = -E_q[log p(s' | s, a; theta)] + KL[q(theta; phi) || p(theta)] / n        n transitions, p normal around 0

whose expectation is drawn unit by unit in place of weight by weight (local reparametrization, Kingma et al. 2015): with
`a` the inputs of a layer and `zeta` standard normal, its sums are `a mu + sqrt(a^2 sigma^2) zeta`. The prior of the
last layer's biases is normal around their `Likelihood.outset`.

The bonus is the information that one transition gives about theta, `KL[q(theta; phi') || q(theta; phi)]` after a
second-order step `phi' = phi + lambda H^-1 grad` on its own likelihood; to second order

    b = lambda^2 / 2  grad^T H^-1 grad     H diagonal, of the KL: 1 / sigma^2 of mu, 2 (dsigma/drho)^2 / sigma^2 of rho

`grad` is an expectation over theta, which enters squared. Here it is the product of two independent draws, over all
pairs of `samples`: unbiased with as few as two, so that b of what is known is small, and not the variance of the draws.
A layer's part is then two matrix products over all rows. Densities are those of `dynamics`; the fit is called by
`dynamics_fit`, the bonus by `bonuses`. No torch but for the parameters' memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from quadriga.policies.adam import FlatAdam
from quadriga.policies.dynamics import LIKELIHOODS, Likelihood, features, sigmoid
from quadriga.policies.networks import FlatParameters

if TYPE_CHECKING:
    from quadriga.policies.dynamics_fit import Sum
    from quadriga.policies.experiment import BayesianSettings

DRAWS = "0.draws"
"""Name of the array that keys the noise of a snapshot: how many updates it has seen."""


class Slopes(NamedTuple):
    """A layer in a pass: what entered it, and the derivatives of the loss in the sums' means and variances.

    Attributes:
        inputs: [B, in].
        means: [B, out].
        variances: [B, out].
    """

    inputs: np.ndarray
    means: np.ndarray
    variances: np.ndarray


class BayesianMLP:
    """Forward and reverse pass over parameters that are distributions; `activation` between layers.

    Args:
        weights: means [in, out] of every layer.
        biases: means [out].
        weight_rhos: [in, out].
        bias_rhos: [out].
        activation: `tanh` or `relu`.
    """

    def __init__(
        self,
        weights: Sequence[np.ndarray],
        biases: Sequence[np.ndarray],
        weight_rhos: Sequence[np.ndarray],
        bias_rhos: Sequence[np.ndarray],
        activation: str,
    ) -> None:
        self.weights, self.biases = list(weights), list(biases)
        self.weight_rhos, self.bias_rhos = list(weight_rhos), list(bias_rhos)
        self.relu = activation == "relu"
        self.refresh()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str, activation: str) -> BayesianMLP:
        """The network whose parameters are `{prefix}.weights.0`, `{prefix}.weight_rhos.0`, ... among `arrays`."""
        depth = sum(name.startswith(f"{prefix}.weights.") for name in arrays)

        def layers(kind: str) -> list[np.ndarray]:
            return [arrays[f"{prefix}.{kind}.{i}"] for i in range(depth)]

        return cls(layers("weights"), layers("biases"), layers("weight_rhos"), layers("bias_rhos"), activation)

    def refresh(self) -> None:
        """Takes in parameters that have changed."""
        self.weight_variances = [np.square(softplus(rho)) for rho in self.weight_rhos]
        self.bias_variances = [np.square(softplus(rho)) for rho in self.bias_rhos]

    def forward(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Outputs [B, out] of float32 `x` [B, in] under parameters drawn anew for every row."""
        self._passed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            deviation = np.sqrt(np.square(x) @ self.weight_variances[layer] + self.bias_variances[layer])
            noise = rng.standard_normal(deviation.shape, np.float32)
            self._passed.append((x, deviation, noise))
            x = x @ weight
            x += bias
            x += deviation * noise
            if layer < last:
                x = np.maximum(x, 0.0) if self.relu else np.tanh(x)
        return x

    def backward(self, gradient: np.ndarray) -> list[Slopes]:
        """Of every layer, after `forward`; `gradient`: of the loss in the outputs, [B, out]."""
        found = []
        for layer in range(len(self.weights) - 1, -1, -1):
            x, deviation, noise = self._passed[layer]
            variances = gradient * noise
            variances /= 2.0 * deviation
            found.append(Slopes(x, gradient, variances))
            if layer:
                gradient = gradient @ self.weights[layer].T
                gradient += 2.0 * x * (variances @ self.weight_variances[layer].T)
                gradient *= (x > 0) if self.relu else 1.0 - x * x
        return found[::-1]

    def information(self, one: Sequence[Slopes], other: Sequence[Slopes]) -> np.ndarray:
        """`grad^T H^-1 grad'` [B] of the gradients in two passes."""
        total = np.zeros(len(one[0].inputs), np.float64)
        for layer, (s, t) in enumerate(zip(one, other, strict=True)):
            inputs, means, variances = s.inputs * t.inputs, s.means * t.means, s.variances * t.variances
            spread, bias = self.weight_variances[layer], self.bias_variances[layer]
            total += (means * (inputs @ spread + bias)).sum(-1)
            # dl/drho = 2 sigma sigma' dl/dsigma^2, so that H's sigma' cancels.
            total += 2.0 * (variances * (np.square(inputs) @ np.square(spread) + np.square(bias))).sum(-1)
        return total


def softplus(rho: np.ndarray) -> np.ndarray:
    """`log(1 + e^rho)`."""
    return np.logaddexp(rho, np.float32(0.0))


class BayesianParameters(nn.Module):
    """The memory of a `BayesianMLP`'s parameters; means begin as an orthogonal network's, deviations at `std`."""

    def __init__(self, sizes: Sequence[int], std: float) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.weight_rhos, self.bias_rhos = nn.ParameterList(), nn.ParameterList()
        rho = float(np.log(np.expm1(std)))
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            gain = 0.1 if layer == len(sizes) - 2 else 2**0.5
            self.weights.append(nn.Parameter(nn.init.orthogonal_(torch.empty(fan_in, fan_out), gain)))
            self.biases.append(nn.Parameter(torch.zeros(fan_out)))
            self.weight_rhos.append(nn.Parameter(torch.full((fan_in, fan_out), rho)))
            self.bias_rhos.append(nn.Parameter(torch.full((fan_out,), rho)))


class BayesianMember:
    """The posterior in a learner, and one update of it; stands where `dynamics_fit.Member` does."""

    def __init__(self, sizes: list[int], settings: BayesianSettings, likelihood: type[Likelihood]) -> None:
        self.settings, self.likelihood = settings, likelihood
        self.network = BayesianParameters(sizes, settings.initial_std)
        self.flat = FlatParameters(list(self.network.parameters()))
        self.optimizer = FlatAdam(self.flat, settings.learning_rate)
        named = dict(self.network.named_parameters())
        self._memory = {name: value.detach().numpy() for name, value in named.items()}
        self._gradients = {name: value.grad.numpy() for name, value in named.items() if value.grad is not None}
        self.mlp = BayesianMLP.from_arrays(
            {f"0.{name}": value for name, value in self._memory.items()}, "0", settings.activation
        )
        self._centers: dict[str, np.ndarray] = {}

    def begin(self, biases: np.ndarray) -> None:
        """Puts the means of the last layer's biases [out], and those of their prior, in place."""
        name = f"biases.{len(self.mlp.biases) - 1}"
        self._memory[name][:] = biases
        self._centers = {name: biases}

    def descend(
        self, inputs: np.ndarray, targets: np.ndarray, total: Sum, rng: np.random.Generator, known: int
    ) -> dict[str, float]:
        """One step of Adam on l(phi) over these rows and those of the other learners; collective.

        Args:
            inputs: float32 [B, in] of this learner.
            targets: what is predicted.
            total: sums over learners.
            rng: of this learner's draws.
            known: transitions that all learners have, n.

        Returns:
            `dynamics_loss`, `-E_q[log p]` before the step, and `posterior_information`, `KL[q || p]`; nats.
        """
        size = float(total(np.array([len(inputs)], np.float64))[0])
        self.mlp.refresh()
        outputs = self.mlp.forward(inputs, rng)
        slopes = self.mlp.backward((self.likelihood.slope(outputs, targets) / size).astype(np.float32))
        self._fill_gradients(slopes)
        loss = -float(self.likelihood.log_prob(outputs, targets).sum(dtype=np.float64))
        gradient = total(np.concatenate([self.flat.gradient.double().numpy(), [loss]]))
        divergence = self._fill_gradients_of_divergence()
        gradient[:-1] += self.flat.gradient.double().numpy() / known
        self.flat.gradient.copy_(torch.from_numpy(gradient[:-1]))
        self.optimizer.apply()
        return {"dynamics_loss": gradient[-1] / size, "posterior_information": divergence}

    def arrays(self) -> dict[str, np.ndarray]:
        """What `InformationGain` is made of but the scales, as copies; names less their prefix."""
        draws = np.array(int(self.optimizer.state[self.flat.vector]["step"]))
        return {name: value.copy() for name, value in self._memory.items()} | {DRAWS.partition(".")[2]: draws}

    def _fill_gradients(self, slopes: Sequence[Slopes]) -> None:
        for i, (inputs, means, variances) in enumerate(slopes):
            np.matmul(inputs.T, means, out=self._gradients[f"weights.{i}"])
            np.sum(means, 0, out=self._gradients[f"biases.{i}"])
            for name, in_variance in (
                (f"weight_rhos.{i}", np.square(inputs).T @ variances),
                (f"bias_rhos.{i}", variances.sum(0)),
            ):
                rho = self._memory[name]
                np.multiply(2.0 * softplus(rho) * sigmoid(rho), in_variance, out=self._gradients[name])

    def _fill_gradients_of_divergence(self) -> float:
        """Those of `KL[q || p]`, which is returned."""
        prior, divergence = np.float32(self.settings.prior_std), 0.0
        for name, rho in self._memory.items():
            if "rhos" not in name:
                continue
            mean_name = name.replace("weight_rhos", "weights").replace("bias_rhos", "biases")
            mean, std = self._memory[mean_name] - self._centers.get(mean_name, np.float32(0.0)), softplus(rho)
            np.divide(mean, prior**2, out=self._gradients[mean_name])
            np.multiply(std / prior**2 - 1.0 / std, sigmoid(rho), out=self._gradients[name])
            each = np.log(prior / std) + (std**2 + mean**2) / (2.0 * prior**2) - 0.5
            divergence += float(each.sum(dtype=np.float64))
        return divergence


class InformationGain:
    """The bonus: a posterior as runners get it, evaluated on raw transitions.

    Args:
        arrays: `0.weights.0`, `0.weight_rhos.0`, ..., the scales of `dynamics.Scales`, and `DRAWS`.
        likelihood: a key of `LIKELIHOODS`.
        activation: of the hidden layers.
        num_actions: see `dynamics.features`.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], likelihood: str, activation: str, num_actions: int | None
    ) -> None:
        self.arrays, self.num_actions = arrays, num_actions
        self.likelihood = LIKELIHOODS[likelihood]
        self.mlp = BayesianMLP.from_arrays(arrays, "0", activation)

    def __call__(
        self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray, *, samples: int, step: float
    ) -> np.ndarray:
        """Nats [B]; an estimate, which may be below 0 where there is little to learn.

        Args:
            states: float32 [B, dim], raw.
            actions: float32 [B, act_dim] or int64 [B].
            next_states: float32 [B, dim].
            samples: draws of theta, at least 2.
            step: lambda.
        """
        rng = np.random.default_rng(int(self.arrays[DRAWS]))
        inputs = features(states, actions, self.arrays, self.num_actions)
        targets = self.likelihood.targets(states, next_states, self.arrays)
        passes = []
        for _ in range(samples):
            outputs = self.mlp.forward(inputs, rng)
            passes.append(self.mlp.backward(self.likelihood.slope(outputs, targets).astype(np.float32)))
        pairs = [self.mlp.information(*pair) for pair in itertools.combinations(passes, 2)]
        gain: np.ndarray = 0.5 * step**2 * np.mean(pairs, axis=0)
        return gain
