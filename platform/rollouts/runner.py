"""The environment runner: a collector inside a Ray actor (or in the driver), spoken to by RLlib.

One call an iteration: weights go in, references to columns and a few numbers come out. RLlib
supplies creation, health checks and restarts; its episode objects and connectors are not used.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable

from quadriga.platform.errors import UserError
from quadriga.platform.rollouts.collector import Bonus, Collector
from quadriga.platform.rollouts.columns import EpisodeRecords, Rollout
from quadriga.platform.rollouts.plan import RolloutPlan
from quadriga.platform.rollouts.recurrent import make_actor


class ColumnEnvRunner(EnvRunner, Checkpointable):
    """Collects `ColumnBatch`es; `config.rollout_plan` says of what.

    The environments are made on the first request, because a runner that replaces a lost one
    must not replay its episodes: its random streams are keyed by the iteration in which it begins.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        torch.set_num_threads(1)
        self.plan: RolloutPlan = self.config.rollout_plan
        self.index: int = self.worker_index or 0
        self.collector: Collector | None = None
        self._before: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        return f"environment runner {self.index} of {self.plan.env.id}"

    def sample(
        self,
        *,
        weights: Mapping[str, np.ndarray] | ray.ObjectRef,
        iteration: int,
        request: int,
        steps: int,
        shards: int,
        remember: bool = False,
    ) -> Rollout:
        """Collects `steps` steps of every environment under `weights`.

        Args:
            weights: state of the module, or a reference to it.
            iteration: of training; with `request`, the count of requests in it, it keys the actions' noise.
            request: 0, or more where lost steps are collected anew.
            steps: a number of steps for each environment.
            shards: how many batches to return, one a learner.
            remember: whether `state_before_request` is to be asked for.

        Returns:
            A rollout; `error` tells what went wrong, since an exception would end the actor.
        """
        try:
            if remember and request == 0:
                self._before = self.rollout_state()
            if isinstance(weights, ray.ObjectRef):
                weights = ray.get(weights)
            if self.collector is None:
                self.collector = Collector(self.plan, (self.plan.seed, self.index, iteration))
            actor = make_actor(weights, activation=self.plan.activation, discrete=self.collector.discrete)
            rng = np.random.default_rng((self.plan.seed, self.index, iteration, request))
            rollout = self.collector.collect(actor, steps, rng, self._bonus(weights))
        except Exception as error:
            message = f"env runner {self.index}: {_explained(error)}"
            return Rollout([], 0, 0.0, EpisodeRecords(), None, error=message)
        rollout.shards = rollout.shards[0].split(shards)
        if self.index > 0:
            rollout.shards = [ray.put(shard) for shard in rollout.shards]
        return rollout

    def _bonus(self, weights: Mapping[str, np.ndarray]) -> Bonus | None:
        if self.plan.bonus is None:
            return None
        assert self.collector is not None
        space = self.collector.env.single_action_space
        num_actions = int(space.n) if isinstance(space, gym.spaces.Discrete) else None
        return functools.partial(self.plan.bonus, weights, num_actions=num_actions)

    def rollout_state(self) -> dict[str, Any] | None:
        """The episodes under way, for a checkpoint; `None` before the first request."""
        return None if self.collector is None else self.collector.state()

    def state_before_request(self) -> dict[str, Any] | None:
        """`rollout_state` as it was before the last iteration's first request, if that had `remember`."""
        return self._before

    def load_rollout_state(self, state: dict[str, Any] | None) -> str | None:
        """Continues the episodes of a checkpoint; without any, the next request begins new ones.

        Args:
            state: what `rollout_state` gave, or `None`.

        Returns:
            What went wrong, since an exception would end the actor, or `None`. A collector that could not be loaded is
            not kept: it would play its first episodes again.
        """
        self.stop()
        if state is None:
            return None
        try:
            collector = Collector(self.plan, tuple(state["entropy"]))
        except Exception as error:
            return _explained(error)
        try:
            collector.load(state)
        except Exception as error:
            collector.close()
            return _explained(error)
        self.collector = collector
        return None

    # What RLlib asks of a runner.

    def assert_healthy(self) -> None:
        """Nothing to check: environments are made on the first request, and their errors returned."""

    def get_spaces(self) -> dict[str, Any]:
        """Spaces by RLlib's keys; the driver reads them from the configuration."""
        spaces = (self.config.observation_space, self.config.action_space)
        return {INPUT_ENV_SPACES: spaces, INPUT_ENV_SINGLE_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def get_metrics(self) -> Any:
        """Nothing: metrics travel with the rollout."""
        return self.metrics.reduce()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Nothing: weights come with every request, episodes through `rollout_state`."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to set; see `get_state`."""

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """Arguments to build this runner again."""
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """No parts with checkpoints of their own."""
        return []

    def stop(self) -> None:
        """Closes the environments."""
        if self.collector is not None:
            self.collector.close()
            self.collector = None


def _explained(error: Exception) -> str:
    """What an error says; of a defect with its traceback below."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
