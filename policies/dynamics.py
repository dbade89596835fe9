"""A learned model of the dynamics, `P_phi(s' | s, a)`, as densities on numpy arrays (Achiam & Sastry 2017, section 4).

The network sees the normalized state and the action, and gives the parameters of one of two distributions of the next
state, each factored over dimensions:

`Gaussian`: of the state's change in units of its own deviation, `y = (s' - s - m) / d`, with mean and log-deviation
    both functions of (s, a). A deviation stays above `e^-4`, a fiftieth of the change's own: where the motion has no
    noise, the density would otherwise grow without bound. `log P` is the density of y, in nats whatever the units of s.
`Bits`: of memory bytes, a Bernoulli variable for each bit, whether it flips. Bytes of RAM are flags, counters in
    decimal code and sprites: 8 and 7 are no neighbors, most bytes never change, and a Gaussian would be infinitely sure
    of those. The network's last biases begin at the log-odds of the flips in the first batch (`outset`), or a trust
    region would take thousands of updates to learn that. The surprisal of bits is at least 0.

`Snapshot` is a model as a runner gets it and evaluates it, one matrix product over all rows. How a model is fitted is
in `dynamics_fit`; what bonus is made of it, in `bonuses`. A step that ends an episode is a transition like any other:
its s' is the last observation, never the first of the next episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quadriga.platform.rollouts.actors import LOG_2PI, OBSERVATION_CLIP, NumpyMLP, mlp_from_weights
from quadriga.platform.statistics import RunningMoments

LOG_STD_MIN = -4.0
CONSTANT = 1e-6
"""Deviation up to which a number counts as constant, and is not divided by it."""


@dataclass
class Scales:
    """How states, and changes of states, are normalized.

    Attributes:
        state: moments of the states seen, dim values.
        change: moments of `s' - s`.
    """

    state: RunningMoments
    change: RunningMoments

    @classmethod
    def empty(cls, dim: int) -> Scales:
        """Of states [dim] of which none was seen: the identity."""
        return cls(RunningMoments(dim), RunningMoments(dim))

    def arrays(self) -> dict[str, np.ndarray]:
        """`state_mean`, `state_scale`, `change_mean`, `change_scale`, float32 [dim]; scales multiply."""
        found = {}
        for name, moments in (("state", self.state), ("change", self.change)):
            deviation = np.sqrt(moments.variance)
            found[f"{name}_mean"] = moments.mean.astype(np.float32)
            found[f"{name}_scale"] = np.where(deviation > CONSTANT, 1.0 / np.maximum(deviation, CONSTANT), 1.0).astype(
                np.float32
            )
        return found


def features(
    states: np.ndarray, actions: np.ndarray, scales: Mapping[str, np.ndarray], num_actions: int | None
) -> np.ndarray:
    """What the network sees, float32 [B, dim + act_dim].

    Args:
        states: float32 [B, dim], raw.
        actions: float32 [B, act_dim] as drawn, of which the environment sees what is within bounds; or int64 [B].
        scales: as `Scales.arrays` gives them; with `action_low` and `action_high`, float32 [act_dim], of actions that
            are not between -1 and 1 in every dimension.
        num_actions: of a discrete action, which becomes one-hot; else `None`.
    """
    normalized = (states - scales["state_mean"]) * scales["state_scale"]
    np.clip(normalized, -OBSERVATION_CLIP, OBSERVATION_CLIP, out=normalized)
    if num_actions is None:
        acts = np.clip(actions, scales.get("action_low", -1.0), scales.get("action_high", 1.0))
    else:
        acts = np.zeros((len(states), num_actions), np.float32)
        acts[np.arange(len(states)), actions] = 1.0
    return np.concatenate([normalized, acts], axis=1)


class Likelihood(Protocol):
    """A distribution of next states with the network's outputs [B, out] as its parameters."""

    @staticmethod
    def outputs(dim: int) -> int:
        """How many outputs states of `dim` numbers need."""

    @staticmethod
    def targets(states: np.ndarray, next_states: np.ndarray, scales: Mapping[str, np.ndarray]) -> np.ndarray:
        """What is predicted, float32 [B, targets], of raw states [B, dim]."""

    @staticmethod
    def outset(targets: np.ndarray, rows: float) -> np.ndarray | None:
        """Where the last biases begin, float32 [out], of the sum [targets] over the first `rows`; `None`: at 0."""

    @staticmethod
    def log_prob(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Log-density [B], nats."""

    @staticmethod
    def slope(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Derivative of `-log_prob` in the outputs, [B, out]."""

    @staticmethod
    def metric(outputs: np.ndarray) -> np.ndarray:
        """Diagonal of the Fisher matrix in the outputs, [B, out]."""

    @staticmethod
    def kl(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """`KL(old || new)` [B] between the distributions of two outputs, nats."""

    @staticmethod
    def squared_error(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """`|E[target] - target|^2` [B]."""


class Gaussian:
    """Means and unbounded log-deviations side by side, [B, 2 dim]; see `Likelihood`."""

    @staticmethod
    def outputs(dim: int) -> int:
        """Means and log-deviations."""
        return 2 * dim

    @staticmethod
    def targets(states: np.ndarray, next_states: np.ndarray, scales: Mapping[str, np.ndarray]) -> np.ndarray:
        """The normalized change."""
        return (next_states - states - scales["change_mean"]) * scales["change_scale"]

    @staticmethod
    def outset(targets: np.ndarray, rows: float) -> np.ndarray | None:
        """The change is normalized already."""
        return None

    @staticmethod
    def parts(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, log-deviations (`LOG_STD_MIN + softplus(output - LOG_STD_MIN)`) and their derivative, [B, dim]."""
        dim = outputs.shape[-1] // 2
        above = outputs[:, dim:] - LOG_STD_MIN
        log_std = LOG_STD_MIN + np.logaddexp(0.0, above)
        return outputs[:, :dim], log_std, sigmoid(above)

    @staticmethod
    def log_prob(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Sum over dimensions of normal log-densities."""
        mean, log_std, _ = Gaussian.parts(outputs)
        z = (targets - mean) * np.exp(-log_std)
        return -(0.5 * (z * z + LOG_2PI) + log_std).sum(-1)

    @staticmethod
    def slope(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """See `Likelihood`."""
        mean, log_std, rise = Gaussian.parts(outputs)
        inverse = np.exp(-log_std)
        z = (targets - mean) * inverse
        return np.concatenate([-z * inverse, (1.0 - z * z) * rise], axis=-1)

    @staticmethod
    def metric(outputs: np.ndarray) -> np.ndarray:
        """`1 / sigma^2` of means, 2 of log-deviations, by the chain rule."""
        _, log_std, rise = Gaussian.parts(outputs)
        return np.concatenate([np.exp(-2.0 * log_std), 2.0 * rise * rise], axis=-1)

    @staticmethod
    def kl(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """See `Likelihood`."""
        old_mean, old_log_std, _ = Gaussian.parts(old)
        mean, log_std, _ = Gaussian.parts(new)
        change = log_std - old_log_std
        shift = (mean - old_mean) * np.exp(-log_std)
        # exp(-2c) - 1 loses its digits where c is small.
        return (change + 0.5 * (np.expm1(-2.0 * change) + shift * shift)).sum(-1)

    @staticmethod
    def squared_error(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """See `Likelihood`."""
        return np.square(targets - outputs[:, : targets.shape[-1]]).sum(-1)


class Bits:
    """A logit for every bit of every byte, [B, 8 dim]; states are bytes / 255; see `Likelihood`."""

    @staticmethod
    def outputs(dim: int) -> int:
        """Eight logits a byte."""
        return 8 * dim

    @staticmethod
    def targets(states: np.ndarray, next_states: np.ndarray, scales: Mapping[str, np.ndarray]) -> np.ndarray:
        """1 of bits that flip, else 0."""
        before, after = (np.rint(rows * 255.0).astype(np.uint8) for rows in (states, next_states))
        return np.unpackbits(before ^ after, axis=-1).astype(np.float32)

    @staticmethod
    def outset(targets: np.ndarray, rows: float) -> np.ndarray | None:
        """Log-odds of a flip, half of one and half of none added."""
        odds: np.ndarray = np.log((targets + 0.5) / (rows - targets + 0.5)).astype(np.float32)
        return odds

    @staticmethod
    def log_prob(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """`t x - log(1 + e^x)`, summed."""
        return (targets * outputs - np.logaddexp(0.0, outputs)).sum(-1)

    @staticmethod
    def slope(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """`p - t`."""
        return sigmoid(outputs) - targets

    @staticmethod
    def metric(outputs: np.ndarray) -> np.ndarray:
        """`p (1 - p)`."""
        p = sigmoid(outputs)
        return p * (1.0 - p)

    @staticmethod
    def kl(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """`p (x - x') - log(1 + e^x) + log(1 + e^x')`, summed."""
        return (sigmoid(old) * (old - new) - np.logaddexp(0.0, old) + np.logaddexp(0.0, new)).sum(-1)

    @staticmethod
    def squared_error(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """See `Likelihood`."""
        return np.square(targets - sigmoid(outputs)).sum(-1)


LIKELIHOODS: dict[str, type[Likelihood]] = {"gaussian": Gaussian, "bits": Bits}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + e^-x)`, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


class Snapshot:
    """An ensemble of models with fixed parameters, evaluated on raw transitions.

    Args:
        arrays: parameters of member e as `{e}.weights.0`, `{e}.biases.0`, ..., and `Scales.arrays`.
        likelihood: a key of `LIKELIHOODS`.
        activation: of the networks' hidden layers.
        num_actions: see `features`.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], likelihood: str, activation: str, num_actions: int | None
    ) -> None:
        self.arrays, self.num_actions = arrays, num_actions
        self.likelihood = LIKELIHOODS[likelihood]
        members = len({name.partition(".")[0] for name in arrays if ".weights." in name})
        self.networks: Sequence[NumpyMLP] = [mlp_from_weights(arrays, str(e), activation) for e in range(members)]

    def log_prob(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """`log P(s' | s, a)` [B], nats; of an ensemble that of the mean of its members' densities."""
        inputs, targets = self._prepared(states, actions, next_states)
        found = np.stack([self.likelihood.log_prob(network(inputs), targets) for network in self.networks])
        return found[0] if len(found) == 1 else np.logaddexp.reduce(found, axis=0) - np.log(len(found))

    def squared_error(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """`|E[y] - y|^2` [B], mean over the ensemble."""
        inputs, targets = self._prepared(states, actions, next_states)
        return np.mean([self.likelihood.squared_error(network(inputs), targets) for network in self.networks], axis=0)

    def log_volume(self) -> float:
        """`log |ds' / dy|`, nats: `log_prob` less this is the density of s' itself, which scales do not change."""
        if self.likelihood is not Gaussian:
            return 0.0
        return -float(np.log(self.arrays["change_scale"].astype(np.float64)).sum())

    def _prepared(
        self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return (
            features(states, actions, self.arrays, self.num_actions),
            self.likelihood.targets(states, next_states, self.arrays),
        )
