"""Fitting the model of the dynamics: maximum likelihood on a replay, within a trust region on the model's own KL.

Achiam & Sastry 2017 (arXiv:1703.01732), section 4:

    phi_{i+1} = argmin_phi  L(phi)    s.t.  mean KL(P_{phi_i} || P_phi) <= kappa
    L(phi) = -mean log P_phi(s' | s, a) + alpha |phi|^2

With `g` the slope of L and `F` the Fisher matrix, which is the curvature of both the KL and (in expectation) of L,

    v = F^-1 g  by conjugate gradient        x = -min(1, sqrt(2 kappa / v^T F v)) v

is the minimum of the quadratic model within the region: the whole natural-gradient step where that stays inside, so
that a model that has learned comes to rest. The step is halved until L falls and the KL is within kappa; otherwise the
model stays. Sums go over all learners, each with a replay of its own; so all take the same step. Everything is numpy on
the CPU, also where the policy learns on a GPU: the products are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from quadriga.platform.statistics import RunningMoments
from quadriga.policies.adam import FlatAdam
from quadriga.policies.bayesian import BayesianMember
from quadriga.policies.dynamics import LIKELIHOODS, Likelihood, Scales, features
from quadriga.policies.experiment import BayesianSettings
from quadriga.policies.fisher import NetworkFisher
from quadriga.policies.gradients import Backward
from quadriga.policies.natural_gradient import conjugate_gradient
from quadriga.policies.networks import MLP, FlatParameters

if TYPE_CHECKING:
    from quadriga.policies.experiment import DynamicsSettings

Sum = Callable[[np.ndarray], np.ndarray]
"""Sums float64 [n] over all learners; collective."""

TRIALS = 10


class Replay:
    """The latest `capacity` transitions of one learner, raw: state, action, next state."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.columns: tuple[np.ndarray, ...] = ()
        self.size = self._next = 0

    def add(self, *columns: np.ndarray) -> None:
        """Appends rows, the oldest giving way; `columns` are states, actions and next states, each [B, ...]."""
        if not self.columns:
            self.columns = tuple(np.empty((0, *column.shape[1:]), column.dtype) for column in columns)
        rows = min(len(columns[0]), self.capacity)
        needed = min(self.capacity, self.size + rows)
        if needed > len(self.columns[0]):  # memory grows with what is in it
            room = min(self.capacity, max(needed, 2 * len(self.columns[0])))
            self.columns = tuple(_grown(column, room) for column in self.columns)
        index = (self._next + np.arange(rows)) % self.capacity
        for held, column in zip(self.columns, columns, strict=True):
            held[index] = column[len(column) - rows :]
        self._next = int((self._next + rows) % self.capacity)
        self.size = max(self.size, needed)

    def draw(self, rows: int, rng: np.random.Generator) -> list[np.ndarray]:
        """`rows` transitions, uniformly and with repetition."""
        index = rng.integers(0, self.size, rows)
        return [column[index] for column in self.columns]

    def state(self) -> dict[str, Any]:
        """Everything, as copies."""
        return {"columns": tuple(c[: self.size].copy() for c in self.columns), "size": self.size, "next": self._next}

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.columns = tuple(column.copy() for column in state["columns"])
        self.size, self._next = state["size"], state["next"]


def _grown(column: np.ndarray, rows: int) -> np.ndarray:
    larger = np.empty((rows, *column.shape[1:]), column.dtype)
    larger[: len(column)] = column
    return larger


class ModelFisher(NetworkFisher):
    """Products with the Fisher matrix of a model's network."""

    def __init__(self, network: MLP, likelihood: type[Likelihood]) -> None:
        super().__init__(network)
        self.likelihood = likelihood

    def _metric(self, outputs: np.ndarray) -> np.ndarray:
        return self.likelihood.metric(outputs)

    def _apply(self, u: np.ndarray, metric: np.ndarray) -> None:
        u *= metric


class Member:
    """One network of the ensemble, and one update of it."""

    def __init__(self, sizes: list[int], settings: DynamicsSettings, likelihood: type[Likelihood]) -> None:
        self.settings, self.likelihood = settings, likelihood
        self.network = MLP(sizes, settings.activation, final_gain=0.1)
        self.flat = FlatParameters(list(self.network.parameters()))
        self.optimizer = FlatAdam(self.flat, settings.learning_rate)
        self.backward = Backward(self.network, np)
        self.fisher = ModelFisher(self.network, likelihood)

    def gradient(self, inputs: np.ndarray, targets: np.ndarray, size: int, total: Sum) -> tuple[np.ndarray, np.ndarray]:
        """Gradient [n] of L at the parameters, over the `size` rows of all learners; and the outputs of the own."""
        outputs = self.backward.forward(inputs)
        self.backward.backward((self.likelihood.slope(outputs, targets) / size).astype(np.float32))
        gradient = total(self.flat.gradient.double().numpy())
        if self.settings.weight_decay:
            gradient += 2.0 * self.settings.weight_decay * self.flat.vector.detach().double().numpy()
        return gradient, outputs

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Sum of `-log P` over the own rows."""
        return -float(self.likelihood.log_prob(outputs, targets).sum(dtype=np.float64))

    def _decay(self) -> float:
        vector = self.flat.vector.detach().double().numpy()
        return self.settings.weight_decay * float(vector @ vector)

    def begin(self, biases: np.ndarray) -> None:
        """Puts the last layer's biases [out] in place."""
        self.network.biases[-1].data.copy_(torch.from_numpy(biases))

    def arrays(self) -> dict[str, np.ndarray]:
        """The network's parameters, as copies."""
        return {name: value.numpy().copy() for name, value in self.network.state_dict().items()}

    def descend(
        self, inputs: np.ndarray, targets: np.ndarray, total: Sum, rng: np.random.Generator, known: int
    ) -> dict[str, float]:
        """One update on these rows and those of the other learners; collective. Returns its metrics.

        `rng` and `known`, the number of transitions in the replays, are for models that draw, and weigh a prior.
        """
        size = int(total(np.array([len(inputs)], np.float64))[0])
        gradient, old = self.gradient(inputs, targets, size, total)
        before = float(total(np.array([self.loss(old, targets)]))[0]) / size
        if self.settings.optimizer == "adam":
            self.flat.gradient.copy_(torch.from_numpy(gradient))
            self.optimizer.apply()
            kl = self.likelihood.kl(old, self.backward.forward(inputs)).sum(dtype=np.float64)
            return {"dynamics_loss": before, "dynamics_kl": float(total(np.array([kl]))[0]) / size}
        standing = self.flat.vector.detach().clone()
        regularized = before + self._decay()
        step = self._natural_step(gradient, inputs, total)
        for trial in range(TRIALS):
            self.flat.vector.data.copy_(standing + torch.from_numpy(0.5**trial * step).to(standing))
            outputs = self.backward.forward(inputs)
            kl = self.likelihood.kl(old, outputs).sum(dtype=np.float64)
            loss, kl = total(np.array([self.loss(outputs, targets), kl])) / size
            if loss + self._decay() < regularized and kl <= self.settings.target_kl:
                return {"dynamics_loss": before, "dynamics_kl": float(kl), "dynamics_step_accepted": 1.0}
        self.flat.vector.data.copy_(standing)
        return {"dynamics_loss": before, "dynamics_kl": 0.0, "dynamics_step_accepted": 0.0}

    def _natural_step(self, gradient: np.ndarray, inputs: np.ndarray, total: Sum) -> np.ndarray:
        settings = self.settings
        rows = inputs[: math.ceil(settings.fisher_fraction * len(inputs))]
        size = float(total(np.array([len(rows)], np.float64))[0])
        self.fisher.linearize(rows)

        def product(vector: np.ndarray) -> np.ndarray:
            return total(self.fisher.product(vector)) / size + settings.damping * vector

        v, residual = conjugate_gradient(product, gradient, settings.cg_iterations)
        curvature = float(v @ (gradient - residual))
        if curvature <= 0:
            return np.zeros_like(v)
        return -min(1.0, math.sqrt(2.0 * settings.target_kl / curvature)) * v


class DynamicsFit:
    """The ensemble, its scales and its replay, as a learner keeps them.

    Args:
        settings: of the model.
        dim: of the states.
        num_actions: of discrete actions, or `None`.
        act_dim: of continuous ones.
        action_bounds: float32 [act_dim] each, of continuous actions as drawn; by default -1 and 1.
        likelihood: a key of `LIKELIHOODS`.
        seed: of the first parameters, which all learners share.
        learners: how many share the replay's capacity.
    """

    def __init__(
        self,
        settings: DynamicsSettings | BayesianSettings,
        *,
        dim: int,
        num_actions: int | None,
        act_dim: int,
        likelihood: str,
        seed: int,
        learners: int = 1,
        action_bounds: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.settings, self.num_actions = settings, num_actions
        self.likelihood = LIKELIHOODS[likelihood]
        sizes = [dim + (num_actions or act_dim), *settings.hidden_sizes, self.likelihood.outputs(dim)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.members: Sequence[Member | BayesianMember]
            if isinstance(settings, BayesianSettings):
                self.members = [BayesianMember(sizes, settings, self.likelihood)]
            else:
                self.members = [Member(sizes, settings, self.likelihood) for _ in range(settings.ensemble)]
        self.scales = Scales.empty(dim)
        low, high = action_bounds or (None, None)
        self._bounds = {} if low is None or high is None else {"action_low": low, "action_high": high}
        self.replay = Replay(max(1, settings.replay_size // learners))
        self._outset: np.ndarray | None = None

    def update(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        next_states: np.ndarray,
        total: Sum,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Takes in new transitions of this learner, raw, and fits every member; collective.

        Args:
            states: float32 [B, dim].
            actions: float32 [B, act_dim] or int64 [B].
            next_states: float32 [B, dim].
            total: sums over learners.
            rng: of this learner and iteration.

        Returns:
            `dynamics_loss` (before the fit, nats), `dynamics_kl` (the largest of an update) and, within a trust region,
            `dynamics_step_accepted`; of a posterior `posterior_information` in place of the last two.
        """
        begun = self.scales.state.count > 0
        self._measure(states, next_states, total)
        if not begun:
            self._begin(states, next_states, total)
        if len(states):
            self.replay.add(states, actions, next_states)
        known = max(1, int(total(np.array([self.replay.size], np.float64))[0]))
        rows = round(self.settings.batch_size * self.replay.size / known)
        arrays = self._normalization()
        found: list[dict[str, float]] = []
        for member in self.members:
            for _ in range(self.settings.updates):
                drawn = self.replay.draw(rows, rng) if rows else [states[:0], actions[:0], next_states[:0]]
                inputs = features(drawn[0], drawn[1], arrays, self.num_actions)
                targets = self.likelihood.targets(drawn[0], drawn[2], arrays)
                found.append(member.descend(inputs, targets, total, rng, known))
        metrics = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        if "dynamics_kl" in metrics:
            metrics["dynamics_kl"] = max(each["dynamics_kl"] for each in found)
        return metrics

    def _measure(self, states: np.ndarray, next_states: np.ndarray, total: Sum) -> None:
        changes = next_states.astype(np.float64) - states
        for moments, rows in ((self.scales.state, states.astype(np.float64)), (self.scales.change, changes)):
            sums = total(np.concatenate([[float(len(rows))], rows.sum(0)]))
            if sums[0] == 0:
                continue
            seen = RunningMoments(rows.shape[1])
            seen.count, seen.mean = int(sums[0]), sums[1:] / sums[0]
            seen.m2 = total(np.square(rows - seen.mean).sum(0))
            moments.merge(seen)

    def _begin(self, states: np.ndarray, next_states: np.ndarray, total: Sum) -> None:
        """Before the first update: what the likelihood takes from the first rows of all learners."""
        targets = self.likelihood.targets(states, next_states, self.scales.arrays())
        sums = total(np.concatenate([[float(len(targets))], targets.sum(0, dtype=np.float64)]))
        if sums[0]:
            self._set_outset(self.likelihood.outset(sums[1:], sums[0]))

    def _set_outset(self, biases: np.ndarray | None) -> None:
        self._outset = biases
        if biases is not None:
            for member in self.members:
                member.begin(biases)

    def _normalization(self) -> dict[str, np.ndarray]:
        """What `features` needs besides the transitions."""
        return self.scales.arrays() | self._bounds

    def arrays(self) -> dict[str, np.ndarray]:
        """What `Snapshot`, or `InformationGain`, is made of, as copies."""
        found = self._normalization()
        for e, member in enumerate(self.members):
            found |= {f"{e}.{name}": value for name, value in member.arrays().items()}
        return found

    def state(self) -> dict[str, Any]:
        """Everything that a continuation needs."""
        return {
            "parameters": [member.flat.vector.detach().numpy().copy() for member in self.members],
            "optimizers": [_plain(member.optimizer) for member in self.members],
            "scales": [self.scales.state.state(), self.scales.change.state()],
            "replay": self.replay.state(),
            "outset": self._outset,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._set_outset(state.get("outset"))
        for member, vector, optimizer in zip(self.members, state["parameters"], state["optimizers"], strict=True):
            member.flat.vector.data.copy_(torch.from_numpy(vector))
            for name, value in member.optimizer.state[member.flat.vector].items():
                value.copy_(torch.from_numpy(optimizer[name]))
        self.scales = Scales(*(RunningMoments.from_state(each) for each in state["scales"]))
        self.replay.load(state["replay"])


def _plain(optimizer: FlatAdam) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in optimizer.state[optimizer.flat.vector].items()}
