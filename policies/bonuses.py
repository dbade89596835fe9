"""Intrinsic rewards: what a model of the dynamics says of a transition, and how it joins the reward.

Achiam & Sastry 2017 (arXiv:1703.01732), section 3: the reward is

    r'(s, a, s') = r(s, a, s') + eta b(s, a, s')          eta = eta_0 / max(1, mean |b|)

(the authors' code divides by max(1, |mean b|), in which bonuses of both signs cancel). Of a model `P_phi` that is
fitted after every iteration t (`dynamics`, `dynamics_fit`),

    surprisal           b = -log P_{phi_t}(s' | s, a)
    learning progress   b =  log P_{phi_t}(s' | s, a) - log P_{phi_{t-k}}(s' | s, a)
    prediction error    b = |E_{phi_t}[y] - y|^2          the paper's L2 baseline (Stadie et al. 2015)
    vime                b = information about phi         of a posterior over phi in place of one model (`bayesian`)

Runners compute b over all rows of a rollout at once (`Evaluation`). The mean goes over the rows of all runners, so that
only the learners know eta; since generalized advantages are linear in the reward, a runner sends the advantages of b
alone, and a learner adds eta times these (`add_bonus`): exact, whoever collected what. Costs are not touched by this.

Where no critic learns the bonus, one number V stands for its value in all states (`constant_value`). Without it a row's
sum of bonuses would hang on how many steps of the rollout are left, and that on nothing that the policy does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quadriga.platform.rollouts.columns import ColumnBatch
from quadriga.platform.rollouts.plan import INTRINSIC, REWARD
from quadriga.policies.bayesian import InformationGain
from quadriga.policies.dynamics import Snapshot
from quadriga.policies.dynamics_fit import DynamicsFit, Sum

if TYPE_CHECKING:
    from quadriga.policies.experiment import BonusSettings

NOW, BEFORE = "bonus.now.", "bonus.before."
"""Prefixes of the two models' arrays among the weights that runners get."""


@dataclass(frozen=True)
class Evaluation:
    """The bonus of an experiment as runners compute it; `BonusPlan` of the rollouts.

    Attributes:
        kind: of the bonus settings.
        likelihood: of the model.
        activation: of its hidden layers.
        samples: of a posterior's parameters.
        step: length of the step whose information gain is the bonus.
    """

    kind: str
    likelihood: str
    activation: str
    samples: int = 0
    step: float = 0.0

    @classmethod
    def from_settings(cls, settings: BonusSettings) -> Evaluation:
        """Of a bonus."""
        dynamics = settings.dynamics
        drawn = {name: getattr(dynamics, name) for name in ("samples", "step") if hasattr(dynamics, name)}
        return cls(settings.kind, dynamics.likelihood, dynamics.activation, **drawn)

    def __call__(
        self,
        weights: Mapping[str, np.ndarray],
        states: np.ndarray,
        actions: np.ndarray,
        next_states: np.ndarray,
        num_actions: int | None,
    ) -> np.ndarray:
        """Bonuses float32 [B] of raw transitions; 0 as long as no model was fitted."""
        if not any(name.startswith(NOW) for name in weights):
            return np.zeros(len(states), np.float32)
        if self.kind == "vime":
            gain = InformationGain(_without(NOW, weights), self.likelihood, self.activation, num_actions)
            return gain(states, actions, next_states, samples=self.samples, step=self.step).astype(np.float32)
        now = self._snapshot(weights, NOW, num_actions)
        if self.kind == "surprisal":
            bonus = -now.log_prob(states, actions, next_states)
        elif self.kind == "prediction-error":
            bonus = now.squared_error(states, actions, next_states)
        else:
            before = self._snapshot(weights, BEFORE, num_actions)
            bonus = now.log_prob(states, actions, next_states) - now.log_volume()
            bonus -= before.log_prob(states, actions, next_states) - before.log_volume()
        return bonus.astype(np.float32)

    def _snapshot(self, weights: Mapping[str, np.ndarray], prefix: str, num_actions: int | None) -> Snapshot:
        return Snapshot(_without(prefix, weights), self.likelihood, self.activation, num_actions)


def _without(prefix: str, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, by the rest of these."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


class Intrinsic:
    """The bonus in a learner: the model that is fitted, and its ring of older ones."""

    def __init__(self, settings: BonusSettings, fit: DynamicsFit) -> None:
        self.settings, self.fit = settings, fit
        # phi_t and those of the k iterations before; fewer at first, when the oldest stands for phi_{t-k}.
        self.ring: deque[dict[str, np.ndarray]] = deque(maxlen=1 + getattr(settings, "k", 0))

    def scale(self, columns: ColumnBatch, total: Sum, remaining: float) -> tuple[float, dict[str, float]]:
        """`eta` of this iteration's rows, and metrics; collective.

        Args:
            columns: of this learner, with bonuses.
            total: sums over learners.
            remaining: share of the run that is left.
        """
        assert columns.bonuses is not None
        bonuses = columns.bonuses.astype(np.float64)
        mean, magnitude = total(np.array([bonuses.sum(), np.abs(bonuses).sum()])) / max(1.0, _rows(columns, total))
        eta = self.settings.eta / max(1.0, magnitude) * (remaining if self.settings.decay == "linear" else 1.0)
        return eta, {"bonus_mean": mean, "bonus_scale": eta, "intrinsic_reward_mean": eta * mean}

    def learn(self, columns: ColumnBatch, total: Sum, rng: np.random.Generator) -> dict[str, float]:
        """Fits the model to the replay with `columns` in it; collective. Returns its metrics."""
        assert columns.states is not None and columns.next_states is not None
        metrics = self.fit.update(columns.states, columns.actions, columns.next_states, total, rng)
        self.ring.append(self.fit.arrays())
        return metrics

    def weights(self) -> dict[str, np.ndarray]:
        """What runners evaluate, to be sent with the policy's weights."""
        if not self.ring:
            return {}
        found = {NOW + name: value for name, value in self.ring[-1].items()}
        if self.settings.kind == "learning-progress":
            found |= {BEFORE + name: value for name, value in self.ring[0].items()}
        return found

    def state(self) -> dict[str, Any]:
        """Everything that a continuation needs."""
        return {"fit": self.fit.state(), "ring": list(self.ring)}

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.fit.load(state["fit"])
        self.ring.clear()
        self.ring.extend(state["ring"])


def _rows(columns: ColumnBatch, total: Sum) -> float:
    return float(total(np.array([len(columns)], np.float64))[0])


def constant_value(columns: ColumnBatch, total: Sum) -> float:
    """V of the bonus if it is the same in all states, as TD(lambda) would fit it to these rows; collective.

    Generalized advantages are linear in the values too, `A = A_b + V A_1`, with those of the bonus where values are 0
    and those of a value of 1 where rewards are 0. TD(lambda) rests where they are 0 in the mean: of bonuses whose mean
    is b, far from all ends, V = b / (1 - gamma). A value is 0 after a termination; a rollout that ends, and a time
    limit, are followed by V.

    Args:
        columns: of this learner, with `bonus_advantages` and `bonus_baselines`.
        total: sums over learners.

    Returns:
        V; 0 where it changes no advantage, which takes a discount of 1 and no termination.
    """
    assert columns.bonus_advantages is not None and columns.bonus_baselines is not None
    sums = [column.sum(dtype=np.float64) for column in (columns.bonus_advantages, columns.bonus_baselines)]
    of_bonus, of_one = total(np.array(sums))
    return -of_bonus / of_one if of_one else 0.0


def add_bonus(
    columns: ColumnBatch, streams: tuple[str, ...], eta: float, *, value: float = 0.0, to_values: bool
) -> None:
    """Adds `eta` times the bonus's advantages to the stream that carries it, in place.

    Args:
        columns: with `bonus_advantages` and `bonus_baselines`.
        streams: names of the rows of advantages and targets.
        eta: weight of the bonus.
        value: of the bonus, in all states; what critics learn comes on top.
        to_values: whether the critic learns it too.
    """
    assert columns.bonus_advantages is not None and columns.bonus_baselines is not None
    row = streams.index(INTRINSIC if INTRINSIC in streams else REWARD)
    extra = np.float32(eta) * (columns.bonus_advantages + np.float32(value) * columns.bonus_baselines)
    columns.advantages[row] += extra
    if to_values:
        columns.value_targets[row] += extra
