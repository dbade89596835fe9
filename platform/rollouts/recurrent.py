"""Acting with a memory: an LSTM in plain numpy, and the tape that records how its state went on.

Policy and critics have an LSTM each; the state of an environment is `[h_policy, c_policy, h_critics, c_critics]`, zero
when an episode begins. A rollout is cut into sequences of one length: each begins with the state that the
network had there, and says where inside it an episode began. That the torch module agrees is a test.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quadriga.platform.rollouts.actors import ACTIVATIONS, Actor
from quadriga.platform.rollouts.columns import ColumnBatch


def is_recurrent(weights: Mapping[str, np.ndarray]) -> bool:
    """Whether a module's state is that of a recurrent policy."""
    return "policy.recurrent" in weights


def make_actor(weights: Mapping[str, np.ndarray], *, activation: str, discrete: bool) -> Actor:
    """The actor of a module's state."""
    kind = RecurrentActor if is_recurrent(weights) else Actor
    return kind(weights, activation=activation, discrete=discrete)


class NumpyLSTM:
    """Layers, an LSTM, and a linear head.

    Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000:

        i, f, g, o = split(x W + h R + b)
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')
    """

    def __init__(self, weights: Mapping[str, np.ndarray], prefix: str, activation: str) -> None:
        depth = sum(key.startswith(f"{prefix}.weights.") for key in weights)

        def array(name: str) -> np.ndarray:
            return np.asarray(weights[f"{prefix}.{name}"], np.float32)

        self.layers = [(array(f"weights.{i}"), array(f"biases.{i}")) for i in range(depth)]
        self.input, self.recurrent, self.bias = array("input"), array("recurrent"), array("bias")
        self.head, self.head_bias = array("head"), array("head_bias")
        self._activate = ACTIVATIONS[activation]

    @property
    def units(self) -> int:
        """U."""
        return len(self.recurrent)

    def __call__(self, x: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`x`: float32 [N, in], `state`: float32 [N, 2U]; returns outputs [N, out] and the next state."""
        for weight, bias in self.layers:
            x = x @ weight
            x += bias
            self._activate(x, out=x)
        h, c = state[:, : self.units], state[:, self.units :]
        i, f, g, o = np.split(x @ self.input + h @ self.recurrent + self.bias, 4, axis=-1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        return h @ self.head + self.head_bias, np.concatenate([h, c], axis=-1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.float32(1.0) / (np.float32(1.0) + np.exp(-x))


class RecurrentActor(Actor):
    """A snapshot of a recurrent policy; whoever holds it keeps the state."""

    policy: NumpyLSTM  # type: ignore[assignment]
    critics: NumpyLSTM  # type: ignore[assignment]

    def _networks(self, weights: Mapping[str, np.ndarray], activation: str) -> tuple[NumpyLSTM, NumpyLSTM]:  # type: ignore[override]
        return NumpyLSTM(weights, "policy", activation), NumpyLSTM(weights, "critics", activation)

    @property
    def dist_dim(self) -> int:
        return self.policy.head.shape[-1]

    def begin(self, num_envs: int) -> np.ndarray:
        """The state of episodes that begin: float32 zeros [N, 4U]."""
        return np.zeros((num_envs, 2 * self.policy.units + 2 * self.critics.units), np.float32)

    def act(self, observations: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parameters [N, dist_dim] of normalized observations, and the state after them; the critics' stays."""
        half = 2 * self.policy.units
        distribution, policy = self.policy(observations, states[:, :half])
        return distribution, np.concatenate([policy, states[:, half:]], axis=-1)

    def evaluate(self, observations: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values [N, K] of normalized observations, and the critics' state after them."""
        return self.critics(observations, states[:, 2 * self.policy.units :])


class Tape:
    """A rollout's memory: states at the beginning of sequences, where episodes began, and values.

    Args:
        actor: the policy's snapshot.
        states: float32 [N, 4U], where the rollout goes on.
        steps: of every environment; a multiple of `length`.
        length: of a sequence.

    Raises:
        ValueError: `steps` is no multiple of `length`.
    """

    def __init__(self, actor: RecurrentActor, states: np.ndarray, steps: int, length: int) -> None:
        if steps % length:
            raise ValueError(f"{steps} steps are no whole number of sequences of {length}")
        self.states = states
        self._actor, self._length, self._step = actor, length, 0
        num_envs = len(states)
        self.initial = np.empty((steps // length, *states.shape), np.float32)
        self.resets = np.zeros((steps, num_envs), bool)
        self.values = np.empty((steps + 1, num_envs, actor.critics.head.shape[-1]), np.float32)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Parameters [N, dist_dim] of the next step's normalized observations."""
        if self._step % self._length == 0:
            self.initial[self._step // self._length] = self.states
        self.values[self._step], critics = self._actor.evaluate(observations, self.states)
        distribution, states = self._actor.act(observations, self.states)
        states[:, -critics.shape[1] :] = critics
        self.states = states
        self._step += 1
        return distribution

    def value(self, n: int, observation: np.ndarray) -> np.ndarray:
        """Values [K] of a normalized observation [obs_dim] that follows in environment `n`."""
        return self._actor.evaluate(observation[None], self.states[n : n + 1])[0][0]

    def forget(self, ended: np.ndarray) -> None:
        """Episodes of the environments `ended` bool [N] begin anew with the next step."""
        self.states[ended] = 0
        if self._step < len(self.resets):
            self.resets[self._step] |= ended

    def close(self, observations: np.ndarray) -> np.ndarray:
        """Values float32 [T + 1, N, K], the last ones of the observations after the rollout."""
        self.values[-1] = self._actor.evaluate(observations, self.states)[0]
        return self.values

    def arrange(self, batch: ColumnBatch, valid: np.ndarray) -> ColumnBatch:
        """The rows of `batch`, [T, N] by time, sequence after sequence, with their memory.

        A sequence in which a step was lost (`valid` bool [T, N]) is left out.
        """
        steps, num_envs = self.resets.shape
        order = np.arange(steps * num_envs).reshape(-1, self._length, num_envs).swapaxes(1, 2)
        whole = valid.reshape(-1)[order].all(axis=-1)
        arranged = batch.rows(order[whole].reshape(-1))
        arranged.resets = self.resets.reshape(-1)[order[whole].reshape(-1)]
        arranged.initial_states = self.initial[whole]
        return arranged
