"""Acting in plain numpy: a small network on a handful of environments runs several times faster than in torch.

An actor holds a snapshot of a policy's weights and draws actions from it. It knows nothing of
training; that it agrees with the torch module is a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import gymnasium as gym
import numpy as np

LOG_2PI = math.log(2.0 * math.pi)
OBSERVATION_CLIP = 10.0


def _relu(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0, out=out)


ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {"tanh": np.tanh, "relu": _relu}


class NumpyMLP:
    """A multilayer perceptron, `x @ W + b` a layer; with stacked weights `[K, in, out]`, K of them at once."""

    def __init__(self, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], activation: str) -> None:
        self.weights, self.biases = list(weights), list(biases)
        self._activate = ACTIVATIONS[activation]
        self._buffers: list[np.ndarray] = []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`x`: float32 [B, in]; returns [B, out], or [K, B, out] if stacked; the next call overwrites it."""
        last = len(self.weights) - 1
        shapes = [(*w.shape[:-2], len(x), w.shape[-1]) for w in self.weights]
        if [buffer.shape for buffer in self._buffers] != shapes:
            self._buffers = [np.empty(shape, np.float32) for shape in shapes]
        for layer, (weight, bias, out) in enumerate(zip(self.weights, self.biases, self._buffers, strict=True)):
            np.matmul(x, weight, out=out)
            out += bias
            x = out if layer == last else self._activate(out, out=out)
        return x


def mlp_from_weights(weights: Mapping[str, np.ndarray], prefix: str, activation: str) -> NumpyMLP:
    """The network whose parameters are `{prefix}.weights.0`, `{prefix}.biases.0`, ... in a module's state."""
    depth = sum(key.startswith(f"{prefix}.weights.") for key in weights)
    return NumpyMLP(
        [np.asarray(weights[f"{prefix}.weights.{i}"], np.float32) for i in range(depth)],
        [np.asarray(weights[f"{prefix}.biases.{i}"], np.float32) for i in range(depth)],
        activation,
    )


class ActionScale:
    """Maps actions of the policy onto a box.

    Dimensions with two bounds are clipped to [-1, 1] and scaled; others pass unchanged, up to the bound that they have.

    Attributes:
        low, high: what actions as drawn are clipped to, float32 [act_dim].
        half, middle: what scales and shifts them then, likewise.
    """

    def __init__(self, space: gym.spaces.Box) -> None:
        """`space`: of any shape, seen as `[act_dim]`."""
        low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
        bounded = np.isfinite(low) & np.isfinite(high)
        self.low = np.where(bounded, -1.0, low).astype(np.float32)
        self.high = np.where(bounded, 1.0, high).astype(np.float32)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        self.half = ((high - low) / 2).astype(np.float32)
        self.middle = ((high + low) / 2).astype(np.float32)
        self._identity = bool(np.all(self.half == 1) and np.all(self.middle == 0))

    def __call__(self, actions: np.ndarray, out: np.ndarray) -> np.ndarray:
        """`actions`: float32 [N, act_dim]; the result is written into `out`."""
        np.minimum(actions, self.high, out=out)
        np.maximum(out, self.low, out=out)
        if not self._identity:
            out *= self.half
            out += self.middle
        return out


class Actor:
    """A policy snapshot that acts on raw observations of `N` environments.

    Gaussian policies have a state-independent deviation; discrete ones are drawn by the
    Gumbel-max trick, so that the noise of a whole rollout is drawn at once for both.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], *, activation: str, discrete: bool) -> None:
        self.discrete = discrete
        self.policy, self.critics = self._networks(weights, activation)
        self.mean = np.asarray(weights["normalizer.mean"], np.float32)
        self.scale = np.asarray(weights["normalizer.scale"], np.float32)
        # A discrete policy has no deviation.
        self.log_std = np.zeros(0, np.float32) if discrete else np.asarray(weights["log_std"], np.float32)
        with np.errstate(over="ignore"):  # diverged weights are reported where they arise
            self.std = np.exp(self.log_std)

    def _networks(self, weights: Mapping[str, np.ndarray], activation: str) -> tuple[NumpyMLP, NumpyMLP]:
        return mlp_from_weights(weights, "policy", activation), mlp_from_weights(weights, "critics", activation)

    @property
    def dist_dim(self) -> int:
        """Size of the distribution's parameters: act_dim means, or one logit an action."""
        return self.policy.weights[-1].shape[-1]

    def normalize(self, observations: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Raw observations [..., obs_dim] to what the networks see, written into `out`."""
        np.subtract(observations, self.mean, out=out)
        out *= self.scale
        np.minimum(out, OBSERVATION_CLIP, out=out)
        np.maximum(out, -OBSERVATION_CLIP, out=out)
        return out

    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> np.ndarray:
        """The randomness of `steps` steps: float32 [T, N, dist_dim]."""
        shape = (steps, num_envs, self.dist_dim)
        if not self.discrete:
            return rng.standard_normal(shape, np.float32)
        uniform = rng.random(shape, np.float32)
        np.maximum(uniform, np.finfo(np.float32).tiny, out=uniform)
        return -np.log(-np.log(uniform))

    def sample(self, distribution: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Actions from parameters [N, dist_dim] and one step's noise: float32 [N, act_dim] or int64 [N]."""
        if self.discrete:
            return (distribution + noise).argmax(axis=-1)
        return distribution + self.std * noise

    def mode(self, distribution: np.ndarray) -> np.ndarray:
        """The most likely actions."""
        return distribution.argmax(axis=-1) if self.discrete else distribution

    def log_probs(self, distributions: np.ndarray, actions: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Log-probabilities [T, N] of what `sample` drew with `noise`."""
        if self.discrete:
            shifted = distributions - distributions.max(axis=-1, keepdims=True)
            chosen = np.take_along_axis(shifted, actions[..., None], axis=-1)[..., 0]
            return chosen - np.log(np.exp(shifted).sum(axis=-1))
        constant = np.float32(self.log_std.sum() + self.dist_dim * 0.5 * LOG_2PI)
        return -0.5 * np.square(noise).sum(axis=-1) - constant

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Values [B, K] of normalized observations [B, obs_dim]."""
        return self.critics(observations)[..., 0].T.copy()
