"""The algorithm: RLlib's loop around runners, learners and a multiplier.

One iteration: every runner collects its share under the newest weights; the multiplier moves by
the cost of the episodes that ended; the learners update; the new weights wait for the next
request. RLlib supplies the actors, their restarts, placement, checkpoints and Tune.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from quadriga.platform import placement
from quadriga.platform.environments.planes import Visits
from quadriga.platform.errors import TrainingStopped, WorkersLost
from quadriga.platform.rollouts.advantages import ValueStream
from quadriga.platform.rollouts.columns import EpisodeRecords, Rollout
from quadriga.platform.rollouts.plan import COST, INTRINSIC, REWARD, RolloutPlan
from quadriga.platform.rollouts.runner import ColumnEnvRunner
from quadriga.platform.statistics import RunningMoments
from quadriga.policies.bonuses import Evaluation
from quadriga.policies.constraints import Constraint
from quadriga.policies.experiment import LSTMSettings, NoBonus, NoConstraint, RLExperiment
from quadriga.policies.learner import ColumnLearner
from quadriga.policies.module import ActorCriticModule
from quadriga.policies.sampling import Sampling

QUADRIGA_STATE = "quadriga"
FINITE = ("kl", "entropy", "cg_residual", "reward_value_loss", "bonus_mean", "dynamics_loss")
"""Metrics of an update that training ends with where they are not finite."""


def rollout_plan(experiment: RLExperiment) -> RolloutPlan:
    """What the runners of `experiment` collect."""
    advantage = experiment.advantage
    streams = [ValueStream(REWARD, advantage.discount, advantage.gae_lambda, scale=advantage.reward_scale)]
    if not isinstance(experiment.constraint, NoConstraint):
        streams.append(ValueStream(COST, advantage.cost_discount, advantage.cost_gae_lambda))
    bonus, evaluation = experiment.bonus, None
    if not isinstance(bonus, NoBonus):
        evaluation = Evaluation.from_settings(bonus)
        if bonus.critic == "own":
            streams.append(ValueStream(INTRINSIC, bonus.discount, bonus.gae_lambda, bonus.episodic))
    return RolloutPlan(
        env=experiment.env,
        num_envs=experiment.rollout.envs_per_runner,
        seed=experiment.seed,
        streams=tuple(streams),
        activation=experiment.network.activation,
        collect_moments=experiment.rollout.normalize_observations != "none",
        bonus=evaluation,
        sequence_length=experiment.network.sequence_length if isinstance(experiment.network, LSTMSettings) else None,
    )


class PolicyOptimizationConfig(AlgorithmConfig):
    """RLlib's configuration of one `RLExperiment`; `from_experiment` makes it."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or PolicyOptimization)
        self.rl_experiment: RLExperiment | None = None
        self.rollout_plan: RolloutPlan | None = None

    @classmethod
    def from_experiment(
        cls, experiment: RLExperiment, observation_space: gym.Space, action_space: gym.Space
    ) -> PolicyOptimizationConfig:
        """The configuration that trains `experiment`, whose environments have these (flat) spaces."""
        rollout, learner = experiment.rollout, experiment.learner
        config = (
            cls()
            .environment(observation_space=observation_space, action_space=action_space, disable_env_checking=True)
            .env_runners(
                env_runner_cls=ColumnEnvRunner,
                num_env_runners=rollout.env_runners,
                num_envs_per_env_runner=rollout.envs_per_runner,
                custom_resources_per_env_runner=placement.resources(placement.ROLLOUTS),
                sample_timeout_s=rollout.sample_timeout,
            )
            .learners(
                num_learners=learner.learners,
                num_gpus_per_learner=learner.gpus_per_learner,
                num_cpus_per_learner=learner.threads if learner.learners else "auto",
                custom_resources_per_learner=placement.resources(placement.LEARNERS) if learner.learners else {},
            )
            .fault_tolerance(
                restart_failed_env_runners=True,
                max_num_env_runner_restarts=1_000_000,
                delay_between_env_runner_restarts_s=0.0,
            )
            .training(train_batch_size_per_learner=rollout.batch_size)
            .debugging(seed=experiment.seed, log_level=None)  # None: as `runtime.ensure_ray` has set it
            .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
        )
        config._dont_auto_sync_env_runner_states = True
        config.rl_experiment = experiment
        config.rollout_plan = rollout_plan(experiment)
        return config

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """One module: the policy, a critic a stream, the normalizer."""
        assert self.rl_experiment is not None and self.rollout_plan is not None
        network = self.rl_experiment.network
        return RLModuleSpec(
            module_class=ActorCriticModule,
            model_config={
                **network.model_dump(include={"hidden_sizes", "activation", "initial_log_std", "final_log_std"}),
                "streams": len(self.rollout_plan.streams),
                "units": network.units if isinstance(network, LSTMSettings) else None,
                "shrink_observations": self.rl_experiment.rollout.normalize_observations == "shrink",
            },
        )

    def get_default_learner_class(self) -> type[ColumnLearner]:
        """The columnar learner."""
        return ColumnLearner


class PolicyOptimization(Algorithm):
    """Update rule x constraint x bonus, as `config.rl_experiment` says.

    After each `train()`, `last_metrics` holds the iteration's metrics under the names of
    `quadriga.platform.metrics`, and `last_visits` where the environments went, of tasks with a plane.
    """

    @classmethod
    def get_default_config(cls) -> PolicyOptimizationConfig:
        """A configuration without an experiment; see `PolicyOptimizationConfig.from_experiment`."""
        return PolicyOptimizationConfig(algo_class=cls)

    def setup(self, config: AlgorithmConfig) -> None:
        """Builds runners and learners."""
        self.experiment: RLExperiment = config.rl_experiment
        self.constraint = Constraint.from_settings(self.experiment.constraint)
        self.env_steps = 0
        self.updates = 0
        self.total_cost = 0.0
        self.total_episodes = 0
        self.recent = EpisodeRecords()
        self.last_metrics: dict[str, float] = {}
        self.last_visits: Visits | None = None
        self._weights: Mapping[str, np.ndarray] | None = None
        self._bonus_weights: Mapping[str, np.ndarray] = {}
        self._acting: Mapping[str, np.ndarray] | None = None  # of the next batch, if sampling is asynchronous
        super().setup(config)
        self.sampling = Sampling(self.experiment, self.env_runner_group)

    def training_step(self) -> None:
        """One iteration.

        Raises:
            TrainingStopped: an environment failed for good, or training diverged.
            WorkersLost: no runner came back in time, requests collected nothing, or a learner died.
        """
        started = time.perf_counter()
        rollouts = self._sample()
        sampled = time.perf_counter()
        episodes = EpisodeRecords.joined(rollout.episodes for rollout in rollouts)
        self.constraint.observe(episodes.costs, episodes.lengths)
        results = self._learn(rollouts)
        self.updates += 1
        self.env_steps += sum(rollout.env_steps for rollout in rollouts)
        self.total_cost += sum(rollout.cost_sum for rollout in rollouts)
        self.total_episodes += len(episodes)
        learned = time.perf_counter()
        metrics = self._metrics(rollouts, episodes) | results["metrics"]
        metrics["time_sampling_s"] = sampled - started
        metrics["time_learning_s"] = learned - sampled
        metrics["env_steps_per_second"] = sum(rollout.env_steps for rollout in rollouts) / (learned - started)
        self.last_metrics = metrics
        visits = [rollout.visits for rollout in rollouts if rollout.visits is not None]
        self.last_visits = sum(visits[1:], visits[0]) if visits else None
        for name, value in metrics.items():
            self.metrics.log_value(name, value, window=1)
        self._check_finite(metrics, results["advantages_finite"])

    def _sample(self) -> list[Rollout]:
        """The iteration's batch; if sampling is asynchronous, the next one is begun under the same weights as this."""
        newest = {**self.weights, **self._bonus_weights}
        if not self.experiment.rollout.asynchronous:
            return self.sampling.collect(newest, iteration=self.updates, env_steps=self.env_steps)
        acting = self._acting or newest
        rollouts = self.sampling.collect(acting, iteration=self.updates, env_steps=self.env_steps)
        # A learner in this process writes into the arrays that it has given out.
        self._acting = {name: np.array(array) for name, array in newest.items()}
        env_steps = self.env_steps + sum(rollout.env_steps for rollout in rollouts)
        if env_steps < self.experiment.steps:
            self.sampling.begin(self._acting, iteration=self.updates + 1, env_steps=env_steps)
        return rollouts

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Finds restarted runners, before each iteration."""
        return self.sampling.restore(self.env_steps)

    def _learn(self, rollouts: list[Rollout]) -> dict[str, Any]:
        # Shard by shard, so that equal counts in order give every learner one shard of each runner.
        shards = [rollout.shards[k] for k in range(len(rollouts[0].shards)) for rollout in rollouts]
        moments = None
        for rollout in rollouts:
            if rollout.moments is not None:
                moments = moments or RunningMoments(len(rollout.moments.mean))
                moments.merge(rollout.moments)
        try:
            results = self.learner_group.update(
                training_data=TrainingData(batch_refs=shards),
                objective=self.constraint.objective(),
                moments=moments,
                iteration=self.updates,
                remaining=max(0.0, 1.0 - self.env_steps / self.experiment.steps),
                return_state=True,
                defer_solve_refs_to_learner=True,
            )
        except ray.exceptions.RayError as error:
            # The others complain about their connection to the one that died, and may be heard first.
            actors = self.learner_group._worker_manager  # none if the one learner is in this process
            if actors is None or actors.num_healthy_actors() == self.experiment.learner.learners:
                raise
            raise self._learner_lost() from error
        self._weights = next(result["weights"] for result in results if result["weights"] is not None)
        self._bonus_weights = next(result["bonus"] for result in results if result["bonus"] is not None)
        self.constraint.cost_scale = results[0]["cost_scale"]
        return results[0]

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """The module's state, as the runners get it."""
        if self._weights is None:
            state = self.learner_group.get_weights()
            self._weights = state[DEFAULT_MODULE_ID]
        return self._weights

    def _metrics(self, rollouts: list[Rollout], episodes: EpisodeRecords) -> dict[str, float]:
        """Episodes of the iteration, or the last `metrics_window` where it had fewer."""
        window = self.experiment.rollout.metrics_window
        self.recent = EpisodeRecords.joined((self.recent, episodes)).last(max(window, len(episodes)))
        known = self.recent if len(self.recent) else None
        return {
            "env_steps": self.env_steps,
            "episodes": self.total_episodes,
            "episodes_this_iteration": len(episodes),
            "episode_return_mean": float(np.mean(known.returns)) if known else float("nan"),
            "episode_cost_mean": float(np.mean(known.costs)) if known else float("nan"),
            "episode_length_mean": float(np.mean(known.lengths)) if known else float("nan"),
            "cost_rate": self.total_cost / max(1, self.env_steps),
            **self.constraint.terms(),
            "environment_failures": sum(rollout.environment_failures for rollout in rollouts),
            "env_runners_healthy": self.env_runner_group.num_healthy_remote_env_runners(),
            "env_runner_restarts": self.env_runner_group.num_remote_worker_restarts(),
        }

    def _check_finite(self, metrics: Mapping[str, float], advantages_finite: bool) -> None:
        broken = [name for name in FINITE if not np.isfinite(metrics.get(name, 0.0))]
        if not advantages_finite:
            broken.append("advantages")
        if metrics.get("parameters_finite", 1.0) != 1.0:
            broken.append("parameters")
        if broken:
            what = ", ".join(broken)
            raise TrainingStopped(f"stopped at env step {self.env_steps}: {what} became NaN or infinite in the update")

    # Checkpoints: RLlib saves the learners; what is ours is the counters, the constraint and the episodes under way.

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state and, under `quadriga`, everything that a bit-identical continuation needs besides."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        state[QUADRIGA_STATE] = {
            "env_steps": self.env_steps,
            "updates": self.updates,
            "total_cost": self.total_cost,
            "total_episodes": self.total_episodes,
            "recent": self.recent,
            "constraint": self.constraint.state(),
            "rollouts": self.sampling.episodes(),
            "bonus": self._bonus_states(),
            "acting": self._acting,
        }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state."""
        own = state.pop(QUADRIGA_STATE, None)
        super().set_state(state)
        self._weights = None
        if own is None:
            return
        self.env_steps, self.updates = own["env_steps"], own["updates"]
        self.total_cost, self.total_episodes, self.recent = own["total_cost"], own["total_episodes"], own["recent"]
        self.constraint.load(own["constraint"])
        self._acting = own.get("acting")
        self.sampling.load_episodes(own["rollouts"])
        self._load_bonus_states(own.get("bonus") or {})

    def restore_from_path(self, *args: Any, **kwargs: Any) -> None:
        """RLlib's restore, after which the weights are read anew."""
        super().restore_from_path(*args, **kwargs)
        self._weights = None

    def _bonus_states(self) -> dict[int, Any]:
        """Of every learner, by its index: models, and the replay that is its own."""
        if isinstance(self.experiment.bonus, NoBonus):
            return {}
        return dict(self._every_learner(_indexed_bonus_state))

    def _load_bonus_states(self, states: Mapping[int, Any]) -> None:
        if not states:
            return
        shared = ray.put(states) if self.experiment.learner.learners else states
        self._bonus_weights = self._every_learner(_load_bonus_state, states=shared)[0]

    def _every_learner(self, what: Callable[..., Any], **arguments: Any) -> list[Any]:
        """What `what` returns of each learner."""
        results = list(self.learner_group.foreach_learner(what, healthy_only=False, **arguments))
        for result in results:
            if not result.ok:  # RLlib returns a remote learner's error; what raises one ends the learner
                raise self._learner_lost() from result.get()
        return [result.get() for result in results]

    def _learner_lost(self) -> WorkersLost:
        return WorkersLost(f"stopped at env step {self.env_steps}: a learner died; resume the run")


def _indexed_bonus_state(learner: ColumnLearner) -> tuple[int, Any]:
    return learner._learner_index, learner.intrinsic.state() if learner.intrinsic else None


def _load_bonus_state(learner: ColumnLearner, states: Any) -> Mapping[str, np.ndarray]:
    assert learner.intrinsic is not None
    states = ray.get(states) if isinstance(states, ray.ObjectRef) else states
    learner.intrinsic.load(states[learner._learner_index])
    return learner.intrinsic.weights()
