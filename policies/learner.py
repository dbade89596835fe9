"""The learner: columns in, one update of the policy and its critics, weights out.

An RLlib learner whose update is replaced whole: no episodes, no connectors, tensors made once.
It weighs the advantages, hands them to the update rule and merges the normalizer; several
learners share every minibatch through sums of flat vectors, and end bitwise equal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from quadriga.platform.rollouts.actors import ActionScale
from quadriga.platform.rollouts.columns import ColumnBatch
from quadriga.platform.rollouts.plan import COST, INTRINSIC, REWARD
from quadriga.platform.statistics import RunningMoments
from quadriga.policies import distributions
from quadriga.policies.asynchrony import rebase
from quadriga.policies.batch import UpdateBatch
from quadriga.policies.bonuses import Intrinsic, add_bonus, constant_value
from quadriga.policies.context import Descent, UpdateContext
from quadriga.policies.dynamics_fit import DynamicsFit
from quadriga.policies.experiment import AdvantageSettings, CPOSettings, NoBonus, PPOSettings, RLExperiment
from quadriga.policies.fisher import fisher_of
from quadriga.policies.gradients import Autograd, Gradients, WrittenOut
from quadriga.policies.module import ActorCriticModule
from quadriga.policies.networks import MLP
from quadriga.policies.objective import Objective
from quadriga.policies.recurrent import Memory
from quadriga.policies.update_rules import update_rule

logger = logging.getLogger("quadriga")


class ColumnLearner(TorchLearner):
    """Updates from `ColumnBatch`es by the rule of `config.rl_experiment`."""

    def build(self) -> None:
        """Builds the module and its optimizers; all learners begin with the first one's weights."""
        self.experiment: RLExperiment = self.config.rl_experiment
        torch.set_num_threads(self.experiment.learner.threads)
        super().build()
        self._share_first_weights()
        self.intrinsic: Intrinsic | None = self._make_intrinsic()

    def _make_intrinsic(self) -> Intrinsic | None:
        bonus, module = self.experiment.bonus, self.actor_critic
        if isinstance(bonus, NoBonus):
            return None
        actions = module.dist_dim
        fit = DynamicsFit(
            bonus.dynamics,
            dim=module.normalizer.mean.numel(),
            num_actions=actions if module.discrete else None,
            act_dim=actions,
            likelihood=bonus.dynamics.likelihood,
            seed=self.experiment.seed,
            learners=max(1, self.experiment.learner.learners),
            action_bounds=None if module.discrete else _unlike_unit(ActionScale(module.action_space)),
        )
        return Intrinsic(bonus, fit)

    def _make_modules_ddp_if_necessary(self) -> None:
        """Gradients are summed as flat vectors; modules stay as they are."""

    @property
    def actor_critic(self) -> ActorCriticModule:
        """The one module."""
        return self.module[DEFAULT_MODULE_ID]

    @property
    def distributed(self) -> bool:
        """Whether other learners share the update."""
        return torch.distributed.is_available() and torch.distributed.is_initialized() and self.config.num_learners > 1

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """One flat optimizer for the critics and, of a first-order rule, one for the policy."""
        module, settings = self.module[module_id], self.experiment.update
        first_order: float | None = getattr(settings, "learning_rate", None)
        self.update_rule = update_rule(settings)
        self.policy_descent = Descent(module.policy_parameters(), first_order or 0.0)
        self.critic_descent = Descent(list(module.critics.parameters()), settings.critic_learning_rate)
        for name, descent in (("policy", self.policy_descent), ("critics", self.critic_descent)):
            descent.distributed = self.distributed
            if descent is self.policy_descent and first_order is None:
                continue
            self.register_optimizer(
                module_id=module_id, optimizer_name=name, optimizer=descent.optimizer, params=[descent.flat.vector]
            )
        plain = isinstance(module.policy, MLP) and isinstance(module.critics, MLP)
        self.gradients: Gradients = WrittenOut(module) if plain else Autograd(module)
        self.fisher = fisher_of(module)

    def _share_first_weights(self) -> None:
        if self.distributed:
            for descent in (self.policy_descent, self.critic_descent):
                torch.distributed.broadcast(descent.flat.vector.data, src=0)

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """Not used: the update rule owns its loss."""
        raise NotImplementedError("the update rule owns its loss; see quadriga.policies.ppo")

    def update(
        self,
        *,
        training_data: Any,
        objective: Objective,
        moments: RunningMoments | None,
        iteration: int,
        remaining: float,
        return_state: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One update; collective over all learners.

        Args:
            training_data: holds `batch_refs`: references to `ColumnBatch`es, or the batches themselves.
            objective: how the streams' advantages are weighed.
            moments: of this iteration's raw observations over all runners, for the normalizer.
            iteration: keys the order of the minibatches.
            remaining: share of the run that is left, for annealing.
            return_state: whether to return the weights.

        Returns:
            `metrics` (finite floats unless training diverged), `cost_scale` (the objective's, updated),
            `weights` (the module's state, or `None`), `bonus` (likewise the models' arrays of a bonus) and
            `advantages_finite`: where the weighed advantages are not, on any learner, nothing is learned from them.
        """
        columns = ColumnBatch.concatenate(_fetch(training_data.batch_refs) or [self._no_rows()])
        settings = self.experiment.update
        if isinstance(settings, PPOSettings) and settings.anneal_learning_rate:
            self.policy_descent.optimizer.param_groups[0]["lr"] = settings.learning_rate * remaining
        streams = tuple(stream.name for stream in self.config.rollout_plan.streams)
        context = UpdateContext(
            module=self.actor_critic,
            gradients=self.gradients,
            fisher=self.fisher,
            policy=self.policy_descent,
            critics=self.critic_descent,
            streams=streams,
            rng=np.random.default_rng((self.experiment.seed, self._learner_index, iteration, 1)),
            distributed=self.distributed,
            excess_cost=objective.excess_cost,
        )
        if context.sum([float(len(columns))])[0] == 0:
            logger.warning(
                "all steps of iteration %d were lost with their runners; nothing is learned from it", iteration
            )
            return self._result({}, objective, return_state)
        metrics = self._with_bonus(columns, context, remaining)
        advantages = columns.advantages
        if INTRINSIC in streams:  # one sum before it is standardized, or eta would cancel
            advantages = advantages.copy()
            advantages[streams.index(REWARD)] += advantages[streams.index(INTRINSIC)]
        standardized = _standardized(advantages, context, self.experiment.advantage)
        batch = UpdateBatch(
            columns.observations,
            columns.actions,
            columns.log_probs,
            columns.distributions,
            standardized[0],
            columns.value_targets,
            memory=None if columns.resets is None else Memory(columns.resets, columns.initial_states),
        )
        if self.experiment.rollout.asynchronous:
            rho, of_lag = rebase(batch, context)
            standardized *= rho
            metrics |= of_lag
        if objective.cost_scale is not None:
            objective = self._rescaled(objective, batch, standardized, context)
        weights = objective.weights()
        batch.advantages = sum(
            np.float32(weights.get(name, weights[REWARD])) * standardized[k]
            for k, name in enumerate(streams)
            if name != INTRINSIC
        )
        if isinstance(settings, CPOSettings):
            batch.cost_advantages = standardized[streams.index(COST)]
        if context.sum([float(np.count_nonzero(~np.isfinite(batch.advantages)))])[0]:
            return self._result(metrics, objective, return_state, advantages_finite=False)
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported, once, by the algorithm
            metrics |= self.update_rule(batch.to(self._device), context)
        self.actor_critic.anneal(remaining)
        if hasattr(settings, "learning_rate"):
            metrics["learning_rate"] = self.policy_descent.optimizer.param_groups[0]["lr"]
        if self.actor_critic.log_std is not None:
            metrics["policy_std"] = float(self.actor_critic.log_std.detach().exp().mean())
        finite = bool(
            torch.isfinite(self.policy_descent.flat.vector).all()
            and torch.isfinite(self.critic_descent.flat.vector).all()
        )
        metrics["parameters_finite"] = float(finite)
        if moments is not None:
            self.actor_critic.normalizer.merge(moments)
        if self.intrinsic is not None:
            rng = np.random.default_rng((self.experiment.seed, self._learner_index, iteration, 2))
            metrics |= self.intrinsic.learn(columns, context.sum, rng)
        self._weights_seq_no += 1
        return self._result(metrics, objective, return_state)

    def _with_bonus(self, columns: ColumnBatch, context: UpdateContext, remaining: float) -> dict[str, float]:
        """Adds the bonus, if there is one, to the streams' advantages; returns metrics of it and of the critics."""
        if self.intrinsic is None:
            return _explained_variances(columns, context)
        eta, metrics = self.intrinsic.scale(columns, context.sum, remaining)
        if self.intrinsic.settings.critic == "none":  # the critics are judged by what they learn
            metrics |= _explained_variances(columns, context)
            add_bonus(columns, context.streams, eta, value=constant_value(columns, context.sum), to_values=False)
            return metrics
        add_bonus(columns, context.streams, eta, to_values=True)
        return metrics | _explained_variances(columns, context)

    def _result(
        self, metrics: dict[str, float], objective: Objective, wanted: bool, *, advantages_finite: bool = True
    ) -> dict[str, Any]:
        return {
            "metrics": metrics,
            "advantages_finite": advantages_finite,
            "cost_scale": objective.cost_scale,
            "weights": self.actor_critic.get_state() if wanted else None,
            "bonus": (self.intrinsic.weights() if self.intrinsic else {}) if wanted else None,
        }

    def _rescaled(
        self, objective: Objective, batch: UpdateBatch, advantages: np.ndarray, context: UpdateContext
    ) -> Objective:
        """`objective` with beta from the norms of the two unscaled policy gradients at the acting policy."""
        assert objective.cost_scale is not None
        names = list(context.streams)
        total = int(context.sum([float(len(batch))])[0])
        norms = []
        for name in (REWARD, COST):
            part = replace(batch, advantages=advantages[names.index(name)]).to(self._device).tensors()
            inputs = self.actor_critic.distribution_inputs(part.observations, part.memory)
            log_probs = distributions.log_probs(inputs, self.actor_critic.log_std, part.actions)
            surrogate = (log_probs * part.advantages).sum() / total
            gradients = torch.autograd.grad(surrogate, self.actor_critic.policy_parameters())
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).double().cpu().numpy()
            norms.append(float(np.linalg.norm(context.sum(flat))))
        return replace(objective, cost_scale=objective.cost_scale.updated(*norms))

    def _no_rows(self) -> ColumnBatch:
        """A batch without rows, for a learner whose share was lost with its runner."""
        module = self.actor_critic
        obs_dim = module.normalizer.mean.numel()
        dist_dim, streams = module.dist_dim, module.streams
        empty, bonus = np.empty, self.intrinsic is not None
        actions = empty((0,), np.int64) if module.discrete else empty((0, dist_dim), np.float32)
        of_bonus = empty((0,), np.float32) if bonus else None
        states = empty((0, obs_dim), np.float32) if bonus else None
        return ColumnBatch(
            empty((0, obs_dim), np.float32),
            actions,
            empty((0,), np.float32),
            empty((0, dist_dim), np.float32),
            empty((streams, 0), np.float32),
            empty((streams, 0), np.float32),
            of_bonus,
            of_bonus,
            of_bonus,
            states,
            states,
            empty((0,), bool) if module.state_dim else None,
            empty((0, module.state_dim), np.float32) if module.state_dim else None,
        )

    def set_state(self, state: dict[str, Any]) -> None:
        """Loads a state whatever its age: RLlib's own keeps newer weights, so that going back would fail."""
        self._weights_seq_no = 0
        super().set_state(state)


def _unlike_unit(scale: ActionScale) -> tuple[np.ndarray, np.ndarray] | None:
    """The bounds of actions as drawn, unless they are -1 and 1 throughout."""
    return None if (scale.low == -1).all() and (scale.high == 1).all() else (scale.low, scale.high)


def _fetch(references: Sequence[Any]) -> list[ColumnBatch]:
    """The batches behind `references`; those that died with their runner are left out."""
    batches = []
    for reference in references:
        try:
            batches.append(ray.get(reference) if isinstance(reference, ray.ObjectRef) else reference)
        except (ray.exceptions.ObjectLostError, ray.exceptions.OwnerDiedError) as error:
            logger.warning(
                "a runner was lost before its columns were read; its steps are left out: %s", type(error).__name__
            )
    return batches


def _standardized(advantages: np.ndarray, context: UpdateContext, settings: AdvantageSettings) -> np.ndarray:
    """Advantages [K, B] after what the settings ask for, by statistics over all learners' rows."""
    total, total_squares, size = _moments(advantages, context)
    means = total / size
    deviations = np.sqrt(np.maximum(total_squares / size - means**2, 0.0))
    result = np.empty_like(advantages)
    for k, name in enumerate(context.streams):
        how = settings.cost if name == COST else settings.reward
        shift = 0.0 if how == "none" else means[k]
        scale = 1.0 / (deviations[k] + 1e-8) if how == "standardize" else 1.0
        result[k] = (advantages[k] - np.float32(shift)) * np.float32(scale)
    return result


def _moments(rows: np.ndarray, context: UpdateContext) -> tuple[np.ndarray, np.ndarray, float]:
    """Sums and sums of squares [K] of [K, B] over all learners, and how many rows there are."""
    wide = rows.astype(np.float64)
    sums = context.sum(np.concatenate([wide.sum(1), np.square(wide).sum(1), [float(rows.shape[1])]]))
    return sums[: len(rows)], sums[len(rows) : -1], float(sums[-1])


def _explained_variances(columns: ColumnBatch, context: UpdateContext) -> dict[str, float]:
    """`1 - Var(target - value) / Var(target)` a stream; 0 where the targets are constant."""
    target_sum, target_squares, size = _moments(columns.value_targets, context)
    error_sum, error_squares, _ = _moments(columns.advantages, context)
    target_variance = target_squares / size - (target_sum / size) ** 2
    error_variance = error_squares / size - (error_sum / size) ** 2
    return {
        "explained_variance" if name == REWARD else f"{name}_explained_variance": (
            float(1.0 - error_variance[k] / target_variance[k]) if target_variance[k] > 1e-12 else 0.0
        )
        for k, name in enumerate(context.streams)
    }
