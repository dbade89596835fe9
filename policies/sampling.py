"""Sampling: full batches from whichever environment runners live, and the episodes that they have under way.

Every request goes to all runners at once. A runner that dies, or is silent for `rollout.sample_timeout`, is lost: it is
restarted, and the others collect its share anew. Weights and streams reach a new runner with the next request. What is
learned from the columns is none of this module's business.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from quadriga.platform.errors import TrainingStopped, UserError, WorkersLost
from quadriga.platform.rollouts.columns import Rollout
from quadriga.platform.rollouts.runner import ColumnEnvRunner
from quadriga.policies.experiment import LSTMSettings, RLExperiment

logger = logging.getLogger("quadriga")

Answers = Callable[[], list[Rollout]]

MAX_FRUITLESS_REQUESTS = 5
"""Training stops once this many requests in a row have collected nothing."""


class Sampling:
    """The runners of an experiment: RLlib's group of actors, or the one in the driver."""

    def __init__(self, experiment: RLExperiment, group: EnvRunnerGroup) -> None:
        self.settings = experiment.rollout
        self._group = group
        self._local: ColumnEnvRunner | None = None if self.settings.env_runners else group.local_env_runner
        self._shards = max(1, experiment.learner.learners)
        self._unit = experiment.network.sequence_length if isinstance(experiment.network, LSTMSettings) else 1
        self._living = max(1, self.settings.env_runners)
        self._begun: Answers | None = None
        self._tags = itertools.count()

    def begin(self, weights: Mapping[str, Any], *, iteration: int, env_steps: int) -> None:
        """Asks for a batch, which the next `collect` waits for; arguments and errors are that one's."""
        self._begun = self._request(weights, self.settings.batch_size, iteration=iteration, env_steps=env_steps)

    def collect(self, weights: Mapping[str, Any], *, iteration: int, env_steps: int) -> list[Rollout]:
        """A full batch from whichever runners live; lost shares are collected anew by the others.

        Args:
            weights: state of the module and arrays of the bonus.
            iteration: of training.
            env_steps: of training so far, for messages.

        Raises:
            TrainingStopped: an environment failed for good, or returned something that is not finite.
            WorkersLost: no runner came back in time, or request after request collected nothing.
        """
        batch_size = self.settings.batch_size
        rollouts: list[Rollout] = []
        missing, request, fruitless = batch_size, 0, 0
        answers, self._begun = self._begun, None
        while missing > 0:
            if answers is None:
                answers = self._request(weights, missing, iteration=iteration, request=request, env_steps=env_steps)
            collected, answers = answers(), None
            for rollout in collected:
                if rollout.error is not None:
                    raise TrainingStopped(f"stopped at env step {env_steps}: {rollout.error}")
            self._note(len(collected), env_steps)
            fruitless = 0 if any(rollout.env_steps for rollout in collected) else fruitless + 1
            if fruitless == MAX_FRUITLESS_REQUESTS:
                raise WorkersLost(
                    f"stopped at env step {env_steps}: {fruitless} requests in a row collected nothing, since "
                    f"every env runner died or was silent for rollout.sample_timeout ({self.settings.sample_timeout:g} "
                    "s); if it is not the machines, the environment crashes or hangs its process"
                )
            rollouts += collected
            missing = batch_size - sum(rollout.env_steps for rollout in rollouts)
            if missing < batch_size * 0.01:  # a step that a raising environment lost is not worth a request
                break
            request += 1
        return rollouts

    def episodes(self) -> dict[int, Any]:
        """The episodes under way, for a checkpoint, by the runner's index; a warning names runners left out.

        A batch that was begun is begun again by the continuation: its episodes are as they were before.
        """
        if self._local is not None:
            return {0: self._local.rollout_state()}
        what = "rollout_state" if self._begun is None else "state_before_request"
        states = self._ask(what, timeout=self.settings.sample_timeout)()
        for index in sorted(set(self._group._worker_manager.actor_ids()) - states.keys()):
            logger.warning(
                "env runner %d does not answer; the checkpoint is without its episodes under way, and a run that is "
                "resumed from it begins new ones there",
                index,
            )
        return states

    def restore(self, env_steps: int) -> list[int]:
        """Finds restarted runners, by index; weights and streams reach them with the next request.

        A warning names those lost until now first: a checkpoint may have found them dead, and they may be back.

        Args:
            env_steps: of training so far, for the warning.
        """
        if self._local is not None:
            return []
        self._note(self._group.num_healthy_remote_env_runners(), env_steps)
        return list(self._group.probe_unhealthy_env_runners() or [])

    def load_episodes(self, states: Mapping[int, Any]) -> None:
        """Continues the episodes of a checkpoint; a runner without any begins new ones.

        Raises:
            UserError: a runner cannot continue its episodes.
        """
        self._begun = None
        if self._local is not None:
            errors = {0: self._local.load_rollout_state(states.get(0))}
        else:
            asked = self._group.healthy_env_runner_ids()
            arguments = [{"state": states.get(index)} for index in asked]
            # As long as the replay takes, which is no request's share of a batch.
            errors = self._ask(["load_rollout_state"] * len(asked), arguments, timeout=None)()
            for index in sorted(set(self._group._worker_manager.actor_ids()) - errors.keys()):
                logger.warning("env runner %d died before it continued its episodes; it begins new ones", index)
        for index, error in errors.items():
            if error is not None:
                raise UserError(f"env runner {index} cannot continue the checkpoint's episodes: {error}")

    def _request(
        self, weights: Mapping[str, Any], missing: int, *, iteration: int, env_steps: int, request: int = 0
    ) -> Answers:
        """Asks whoever lives for a share of the `missing` steps; what it returns waits for them."""
        if request:
            self.restore(env_steps)
        runners = self._note(self._wait(env_steps), env_steps)
        steps = max(1, -(-missing // (runners * self.settings.envs_per_runner * self._unit))) * self._unit
        arguments: dict[str, Any] = {"iteration": iteration, "request": request, "steps": steps, "shards": self._shards}
        if self._local is not None:
            local = self._local
            return lambda: [local.sample(weights=weights, **arguments)]
        arguments |= {"weights": ray.put(weights), "remember": self.settings.asynchronous}
        answers = self._ask("sample", arguments, timeout=self.settings.sample_timeout)
        return lambda: list(answers().values())

    def _ask(
        self,
        what: str | Sequence[str],
        arguments: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        timeout: float | None,
    ) -> Callable[[], dict[int, Any]]:
        """Asks the healthy runners; what it returns waits for their answers, and has them in the order of indices.

        Those silent for `timeout` seconds of waiting are lost. RLlib takes runners that died out of service, but leaves
        one that does not answer where it is.
        """
        manager, tag = self._group._worker_manager, f"request {next(self._tags)}"
        asked = manager.healthy_actor_ids()
        if asked:
            manager.foreach_actor_async(what, tag, kwargs=arguments, remote_actor_ids=asked)
        return lambda: self._answers(asked, tag, timeout)

    def _answers(self, asked: Sequence[int], tag: str, timeout: float | None) -> dict[int, Any]:
        manager = self._group._worker_manager
        results = manager.fetch_ready_async_reqs(tags=tag, timeout_seconds=timeout)
        for index in sorted(set(asked) - {result.actor_id for result in results}):
            said = "env runner %d was silent for rollout.sample_timeout (%g s) and is restarted"
            logger.warning(said, index, timeout)
            ray.kill(manager.actors()[index], no_restart=False)
            manager.set_actor_state(index, healthy=False)
        return {result.actor_id: result.get() for result in sorted(results, key=_by_index) if result.ok}

    def _wait(self, env_steps: int) -> int:
        """How many runners can collect now; waits for one to come back if all are lost."""
        if self._local is not None:
            return 1
        deadline = time.monotonic() + self.settings.restart_timeout
        while True:
            healthy = self._group.num_healthy_remote_env_runners()
            if healthy:
                return healthy
            if time.monotonic() > deadline:
                raise WorkersLost(
                    f"stopped at env step {env_steps}: no env runner came back within rollout.restart_timeout "
                    f"({self.settings.restart_timeout:g} s)"
                )
            time.sleep(0.2)
            self.restore(env_steps)

    def _note(self, living: int, env_steps: int) -> int:
        """Says how many were lost since the last time, between requests or in one."""
        lost, self._living = self._living - living, living
        if lost > 0:
            of = f"{lost} of {lost + living} env runners were lost after env step {env_steps}"
            logger.warning("%s; they are restarted, and their share is collected by the others", of)
        return living


def _by_index(result: Any) -> int:
    return int(result.actor_id)
