"""What environments that are vectorized themselves have in common: buffers, episodes, failures, snapshots.

A subclass simulates and observes; the order of things within a step is here.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.vector import ColumnVectorEnv, Failures, Infos, Step, seeds_of

logger = logging.getLogger("quadriga")

Failed = list[tuple[int, Exception]]


class NativeVectorEnv(ColumnVectorEnv):
    """N simulations that are stepped together.

    Attributes:
        exact_observations: the observations before they are rounded to float32, float64 `[N, obs_dim]`.
        exact_final_observations: likewise the last ones of episodes that ended in this step.
        exact_rewards: likewise the rewards, `[N]`.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        name: str,
        rebuild: bool,
        max_episode_steps: int,
        episode_seeds: EpisodeSeeds | None,
        autoreset: bool = True,
    ) -> None:
        """Makes the buffers.

        Args:
            num_envs: how many.
            observation_space: float32 `[obs_dim]`.
            action_space: float32 `[act_dim]`, or Discrete.
            name: what error messages call the environments.
            rebuild: begin a new episode where one raises instead of raising `EnvironmentFailed`.
            max_episode_steps: time limit.
            episode_seeds: the seed of every episode; needed for snapshots.
            autoreset: whether an ended episode is followed by another, as the contract has it; if not, the
                environments stay where they are until `reset`.
        """
        super().__init__(num_envs, observation_space, action_space, episode_seeds)
        self._autoreset = autoreset
        shape = (num_envs, *observation_space.shape)
        self.exact_observations = np.zeros(shape)
        self.exact_final_observations = np.zeros(shape)
        self.exact_rewards = np.zeros(num_envs)
        self._name = name
        self._max_episode_steps = max_episode_steps
        self._observations = np.zeros(shape, np.float32)
        self._final_observations = np.zeros(shape, np.float32)
        self._final_places = np.zeros((num_envs, 2))
        self._rewards = np.zeros(num_envs, np.float32)
        self._costs = np.zeros(num_envs, np.float32)
        self._terminations = np.zeros(num_envs, np.bool_)
        self._truncations = np.zeros(num_envs, np.bool_)
        self._ended = np.zeros(num_envs, np.bool_)
        self._lengths = np.zeros(num_envs, np.int64)
        self._episodes = [-1] * num_envs
        self._failures = Failures(name, num_envs, rebuild)

    @abc.abstractmethod
    def _simulate(self, actions: NDArray) -> Failed:
        """One step everywhere, without the end of episodes.

        Writes `exact_observations`, `exact_rewards`, `_costs` and `_terminations`, and returns the environments
        that raised with what they raised; their rows may hold anything.
        """

    @abc.abstractmethod
    def _seed(self, index: int, seed: int) -> None:
        """Seeds the random numbers of environment `index`."""

    @abc.abstractmethod
    def _begin_episode(self, index: int) -> None:
        """Puts environment `index` at the beginning of an episode and writes its `exact_observations`."""

    @abc.abstractmethod
    def _snapshot(self) -> dict[str, Any]:
        """What `_restore` needs, as copies: plain picklable data."""

    @abc.abstractmethod
    def _restore(self, index: int, snapshot: dict[str, Any]) -> None:
        """Brings environment `index` back and writes its `exact_observations`."""

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Infos]:
        """As `ColumnVectorEnv.reset`; there are no options."""
        for index, own_seed in enumerate(seeds_of(seed, self)):
            self._begin_surely(index, own_seed)
        return self._observations, {}

    def step(self, actions: NDArray) -> Step:
        """As `ColumnVectorEnv.step`."""
        failed = self._simulate(actions)
        self._lengths += 1
        np.greater_equal(self._lengths, self._max_episode_steps, out=self._truncations)
        for index, _ in failed:
            self.exact_rewards[index] = self._costs[index] = 0.0
            self._terminations[index] = self._truncations[index] = False
        self._observations[:] = self.exact_observations
        self._rewards[:] = self.exact_rewards
        if any(self._failures.counts):
            bad = {index for index, _ in failed}
            counts = self._failures.counts
            counts[:] = [count if index in bad else 0 for index, count in enumerate(counts)]
        np.logical_or(self._terminations, self._truncations, out=self._ended)
        if self._ended.any():
            self.exact_final_observations[self._ended] = self.exact_observations[self._ended]
            self._final_observations[self._ended] = self._observations[self._ended]
            if self.plane is not None:
                self._final_places[self._ended] = self.in_plane()[self._ended, :2]
            if self._autoreset:
                for index in np.flatnonzero(self._ended).tolist():
                    self._begin_surely(index)
        infos: Infos = {"cost": self._costs, "final_obs": self._final_observations}
        if self.plane is not None:
            infos["final_place"] = self._final_places
        if failed:
            infos["failed"] = np.zeros(self.num_envs, np.bool_)
            for index, error in failed:
                infos["failed"][index] = True
                self._recover(index, error)
        return self._observations, self._rewards, self._terminations, self._truncations, infos

    def observations(self) -> NDArray[np.float32]:
        """As `ColumnVectorEnv.observations`."""
        return self._observations

    def state(self) -> dict[str, Any]:
        """As `ColumnVectorEnv.state`: the whole state of every simulation and of its random numbers."""
        if self.episode_seeds is None:
            raise ValueError("a snapshot needs episode_seeds")
        return {
            "native": type(self).__name__,
            "episodes": list(self._episodes),
            "failures": list(self._failures.counts),
            "lengths": self._lengths.copy(),
            "observations": self._observations.copy(),
            **self._snapshot(),
        }

    def set_state(self, state: dict[str, Any]) -> list[int]:
        """As `ColumnVectorEnv.set_state`; a snapshot of the unmodified environments begins new episodes."""
        if self.episode_seeds is None:
            raise ValueError("a snapshot needs episode_seeds")
        if len(state["episodes"]) != self.num_envs:
            raise ValueError(f"the state is of {len(state['episodes'])} environments, not of {self.num_envs}")
        self._failures.counts[:] = state["failures"]
        begun_anew = []
        for index, episode in enumerate(state["episodes"]):
            self._episodes[index] = episode
            if state.get("native") == type(self).__name__:
                self._lengths[index] = state["lengths"][index]
                self._restore(index, state)
                self._observations[index] = self.exact_observations[index]
                if np.array_equal(self._observations[index], state["observations"][index]):
                    continue
            logger.warning("environment %d of %r begins a new episode: its snapshot differs", index, self._name)
            begun_anew.append(index)
            self._begin_surely(index)
        return begun_anew

    def _begin(self, index: int, seed: int | None = None) -> None:
        """Begins the next episode of environment `index`."""
        self._episodes[index] += 1
        if self.episode_seeds is not None:
            seed = self.episode_seeds.seed(index, self._episodes[index])
        if seed is not None:
            self._seed(index, seed)
        self._lengths[index] = 0
        self._begin_episode(index)
        self._observations[index] = self.exact_observations[index]

    def _begin_surely(self, index: int, seed: int | None = None) -> None:
        try:
            self._begin(index, seed)
        except Exception as error:
            self._recover(index, error)

    def _recover(self, index: int, error: Exception) -> None:
        """Environment `index` raised: begins another episode, or gives up."""
        self._failures.recover(index, error, lambda: self._begin(index))
