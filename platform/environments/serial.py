"""Any gymnasium environments as columns: N of them stepped one after the other in this process.

The hot path of sampling. What gymnasium's own vector adds to a step (space iteration, dictionaries
of infos, copies, a checker and two wrappers around each environment) is left out; what an
environment returns is not changed.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray

from quadriga.platform.environments.costs import CostInInfo
from quadriga.platform.environments.replay import ActionLog
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.spaces import (
    action_decoder,
    flat_action_space,
    flat_observation_space,
    observation_encoder,
)
from quadriga.platform.environments.vector import ColumnVectorEnv, Failures, Infos, Step, seeds_of

logger = logging.getLogger("quadriga")


class SerialVectorEnv(ColumnVectorEnv):
    """N environments from one constructor.

    A snapshot is each episode's seed and actions, replayed on `set_state`: exact for every
    environment whose `reset(seed)` determines the episode, which is checked by the observation.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        *,
        name: str,
        rebuild: bool = True,
        episode_seeds: EpisodeSeeds | None = None,
    ) -> None:
        """Makes the environments.

        Args:
            make: makes one environment.
            num_envs: how many.
            name: what error messages call them.
            rebuild: build an environment that raises anew instead of raising `EnvironmentFailed`.
            episode_seeds: the seed of every episode; needed for snapshots.

        Raises:
            UserError: an unsupported space.
        """
        self._make = make
        self._name = name
        self._envs: list[gymnasium.Env] = []  # first of all: gymnasium closes also what was never finished
        self._envs.extend(make() for _ in range(num_envs))
        first = self._envs[0]
        super().__init__(
            num_envs,
            flat_observation_space(first.observation_space, name),
            flat_action_space(first.action_space, name),
            episode_seeds,
        )
        self.spec = first.spec
        self._encode = observation_encoder(first.observation_space)
        self._decode = action_decoder(first.action_space)

        shape = self.single_observation_space.shape
        self._observations = np.zeros((num_envs, *shape), np.float32)
        self._final_observations = np.zeros((num_envs, *shape), np.float32)
        self._rewards = np.zeros(num_envs, np.float32)
        self._costs = np.zeros(num_envs, np.float32)
        self._terminations = np.zeros(num_envs, np.bool_)
        self._truncations = np.zeros(num_envs, np.bool_)

        self._time = 0
        self._limit = sys.maxsize
        self._deadlines = [0] * num_envs  # the time at which the episode is truncated
        self._episodes = [-1] * num_envs
        self._failures = Failures(name, num_envs, rebuild)
        self._steps: list[Callable[[Any], tuple[Any, ...]]] = [first.step] * num_envs
        self._resets: list[Callable[..., tuple[Any, dict[str, Any]]]] = [first.reset] * num_envs
        for index, env in enumerate(self._envs):
            self._install(index, env)
        self._no_actions = np.zeros((0, *(self.single_action_space.shape or ())), self.single_action_space.dtype)
        self._log = None if episode_seeds is None else ActionLog(num_envs, self._no_actions)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Infos]:
        """As `ColumnVectorEnv.reset`."""
        for index, own_seed in enumerate(seeds_of(seed, self)):
            self._begin_surely(index, own_seed, options)
        return self._observations, {}

    def step(self, actions: NDArray) -> Step:
        """As `ColumnVectorEnv.step`."""
        if self._log is not None:
            self._log.record(actions)
        self._time = time = self._time + 1
        observations, rewards, costs = self._observations, self._rewards, self._costs
        terminations, truncations = self._terminations, self._truncations
        deadlines, failures, encode = self._deadlines, self._failures.counts, self._encode
        terminations.fill(False)
        truncations.fill(False)
        costs.fill(0.0)
        failed: NDArray[np.bool_] | None = None
        index = -1
        for step, action in zip(self._steps, self._decode(actions), strict=True):
            index += 1
            try:
                result = step(action)
            except Exception as error:
                rewards[index] = 0.0
                failed = np.zeros(self.num_envs, np.bool_) if failed is None else failed
                failed[index] = True
                self._recover(index, error)
                continue
            if len(result) == 5:
                observation, rewards[index], terminated, truncated, info = result
                if "cost" in info:
                    costs[index] = info["cost"]
            else:
                observation, rewards[index], costs[index], terminated, truncated, info = result
            if encode is not None:
                observation = encode(observation)
            if failures[index]:
                failures[index] = 0
            if terminated or truncated or time >= deadlines[index]:
                terminations[index] = terminated
                truncations[index] = truncated or time >= deadlines[index]
                self._final_observations[index] = observation
                self._begin_surely(index)
            else:
                observations[index] = observation
        infos: Infos = {"cost": costs, "final_obs": self._final_observations}
        if failed is not None:
            infos["failed"] = failed
        return observations, rewards, terminations, truncations, infos

    def observations(self) -> NDArray[np.float32]:
        """As `ColumnVectorEnv.observations`."""
        return self._observations

    def state(self) -> dict[str, Any]:
        """As `ColumnVectorEnv.state`: episode numbers, their actions and the observations that they led to."""
        if self._log is None:
            raise ValueError("a snapshot needs episode_seeds")
        return {
            "episodes": list(self._episodes),
            "actions": [self._log.episode(index) for index in range(self.num_envs)],
            "observations": self._observations.copy(),
            "failures": list(self._failures.counts),
        }

    def set_state(self, state: dict[str, Any]) -> list[int]:
        """As `ColumnVectorEnv.set_state`; takes as long as the replayed steps."""
        if self._log is None:
            raise ValueError("a snapshot needs episode_seeds")
        if len(state["episodes"]) != self.num_envs:
            raise ValueError(f"the state is of {len(state['episodes'])} environments, not of {self.num_envs}")
        self._failures.counts[:] = state["failures"]
        # A native environment's snapshot holds no actions: its episodes cannot be replayed.
        replayed: list[NDArray] = list(state.get("actions") or [None] * self.num_envs)
        begun_anew = []
        for index, (episode, actions) in enumerate(zip(state["episodes"], list(replayed), strict=True)):
            if not self._replay(index, episode, actions, state["observations"][index]):
                logger.warning("environment %d of %r could not be replayed; it begins a new episode", index, self._name)
                begun_anew.append(index)
                self._episodes[index] = episode
                self._begin_surely(index)
                replayed[index] = self._no_actions
        self._log.restore(replayed)
        return begun_anew

    def close(self, **kwargs: Any) -> None:
        """Closes all environments. May be called twice."""
        if not self.closed:
            for env in self._envs:
                env.close()
            self.closed = True

    def _replay(self, index: int, episode: int, actions: NDArray | None, expected: NDArray[np.float32]) -> bool:
        if actions is None or episode < 0:
            return False
        self._episodes[index] = episode - 1
        try:
            self._begin(index)
            ended = False
            for action in self._decode(actions):
                result = self._steps[index](action)
                ended = ended or bool(result[-3] or result[-2])
                observation = result[0]
                self._observations[index] = observation if self._encode is None else self._encode(observation)
        except Exception as error:
            self._recover(index, error)
            return False
        self._deadlines[index] -= len(actions)
        return not ended and np.array_equal(self._observations[index], expected, equal_nan=True)

    def _install(self, index: int, env: gymnasium.Env) -> None:
        """Makes `env` number `index`, without the wrappers whose work is done here or is none."""
        self._envs[index] = env
        limit = sys.maxsize
        while type(env) in (TimeLimit, OrderEnforcing, PassiveEnvChecker, CostInInfo):
            if isinstance(env, TimeLimit):
                limit = min(limit, env._max_episode_steps)
            env = env.env  # type: ignore[attr-defined]
        self._limit = limit
        self._steps[index] = env.step
        self._resets[index] = env.reset

    def _begin(self, index: int, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Resets environment `index`: its next episode."""
        self._episodes[index] += 1
        if self.episode_seeds is not None:
            seed = self.episode_seeds.seed(index, self._episodes[index])
        observation, _ = self._resets[index](seed=seed, options=options)
        self._observations[index] = observation if self._encode is None else self._encode(observation)
        self._deadlines[index] = self._time + self._limit
        if self._log is not None:
            self._log.begin(index)

    def _begin_surely(self, index: int, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        try:
            self._begin(index, seed, options)
        except Exception as error:
            self._recover(index, error)

    def _recover(self, index: int, error: Exception) -> None:
        """Environment `index` raised: builds it anew and begins an episode, or gives up."""
        self._failures.recover(index, error, lambda: self._build_anew(index))

    def _build_anew(self, index: int) -> None:
        with contextlib.suppress(Exception):
            self._envs[index].close()
        self._install(index, self._make())
        self._begin(index)
