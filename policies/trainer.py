"""One reinforcement-learning run, as the training driver sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.runtime import quiet_core
from quadriga.policies import policy
from quadriga.policies.algorithm import PolicyOptimization, PolicyOptimizationConfig
from quadriga.policies.experiment import NoConstraint, RLExperiment

ALGORITHM = "algorithm"


class RLTrainer:
    """Builds the algorithm of an experiment; Ray must be running.

    Raises:
        UserError: the environment cannot be made, or its spaces are not supported.
    """

    def __init__(self, experiment: RLExperiment) -> None:
        self.experiment = experiment
        env = make_vector_env(experiment.env, 1)
        observation_space, action_space = env.single_observation_space, env.single_action_space
        env.close()
        config = PolicyOptimizationConfig.from_experiment(experiment, observation_space, action_space)
        with quiet_core():
            self.algorithm: PolicyOptimization = config.build_algo()

    def train_iteration(self) -> dict[str, Any]:
        """One iteration; returns its metrics and, of tasks with a plane, `visits` as text.

        Raises:
            TrainingStopped: an environment failed for good, or training diverged.
            WorkersLost: runners or a learner died and did not come back.
        """
        self.algorithm.train()
        visits = self.algorithm.last_visits
        return {**self.algorithm.last_metrics, **({} if visits is None else {"visits": visits.encode()})}

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """Within the cost limit first, then by return."""
        episode_return, cost = metrics["episode_return_mean"], metrics["episode_cost_mean"]
        if math.isnan(episode_return):
            return None
        constraint = self.experiment.constraint
        excess = 0.0 if isinstance(constraint, NoConstraint) else max(0.0, cost - constraint.cost_limit)
        return (-excess, episode_return)

    def save(self, folder: Path) -> None:
        """RLlib's checkpoint, and the policy's weights by themselves for use without Ray."""
        self.algorithm.save_to_path(str(folder / ALGORITHM))
        policy.save(self.algorithm.weights, folder)

    def restore(self, folder: Path) -> None:
        """Continues from `save`.

        Raises:
            UserError: a runner cannot continue the checkpoint's episodes.
        """
        self.algorithm.restore_from_path(str(folder / ALGORITHM))

    def stop(self) -> None:
        """Ends runners and learners."""
        self.algorithm.stop()
