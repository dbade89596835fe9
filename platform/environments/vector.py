"""What a vector of environments is to the runtime: columns in, columns out.

The contract that the environment runner steps against. `serial.py` fulfils it for any gymnasium
environment; an environment that is vectorized itself may do so natively.
"""

from __future__ import annotations

import abc
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from quadriga.platform.environments.planes import Plane
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.errors import TrainingStopped

MAX_CONSECUTIVE_FAILURES = 5
"""An environment that fails this often without a good step between is not rebuilt again."""

logger = logging.getLogger("quadriga")

Infos = dict[str, Any]
Step = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], Infos]


class EnvironmentFailed(TrainingStopped):
    """An environment raised, and is not (or no longer) to be built anew."""


class Failures:
    """How often each environment has raised without a good step between, and what follows from it.

    Attributes:
        counts: failures in a row, of each environment.
    """

    def __init__(self, name: str, num_envs: int, rebuild: bool) -> None:
        """No failures yet.

        Args:
            name: what messages call the environments.
            num_envs: how many.
            rebuild: whether one that raises is built anew.
        """
        self._name = name
        self._rebuild = rebuild
        self.counts = [0] * num_envs

    def record(self, index: int, error: Exception) -> None:
        """Environment `index` raised `error`; returns if it is to be built anew.

        Raises:
            EnvironmentFailed: it is not, or not again.
        """
        self.counts[index] += 1
        what = f"environment {index} of {self._name!r} raised {type(error).__name__}: {error}"
        if not self._rebuild:
            raise EnvironmentFailed(f'{what}; with env.on_error: "rebuild" it is built anew') from error
        if self.counts[index] >= MAX_CONSECUTIVE_FAILURES:
            raise EnvironmentFailed(f"{what}; it failed {self.counts[index]} times in a row") from error
        logger.warning("%s; it is built anew", what)

    def recover(self, index: int, error: Exception, begin: Callable[[], None]) -> None:
        """Environment `index` raised `error`: calls `begin`, which may raise as well, until it begins an episode.

        Raises:
            EnvironmentFailed: as `record`.
        """
        while True:
            self.record(index, error)
            try:
                return begin()
            except Exception as again:
                error = again


def seeds_of(seed: int | Sequence[int | None] | None, env: ColumnVectorEnv) -> Sequence[int | None]:
    """A seed, or `None`, for each environment, from what `reset` was given.

    Raises:
        ValueError: the environments have `episode_seeds`, or there are not as many seeds.
    """
    if seed is not None and env.episode_seeds is not None:
        raise ValueError("the seeds of these environments are given by episode_seeds")
    if seed is None:
        return [None] * env.num_envs
    seeds = [seed + i for i in range(env.num_envs)] if isinstance(seed, int) else seed
    if len(seeds) != env.num_envs:
        raise ValueError(f"expected {env.num_envs} seeds, got {len(seeds)}")
    return seeds


class ColumnVectorEnv(gymnasium.vector.VectorEnv, abc.ABC):
    """`N` environments stepped together; every value is a column with one row for each of them.

    All returned arrays belong to the environment and are overwritten by the next step or reset:
    the caller copies what it keeps. Actions are neither clipped nor scaled here.

    Attributes:
        num_envs: N.
        single_observation_space: Box float32 `[obs_dim]`; nested observations are flattened.
        plane: of tasks whose place is two numbers; else `None`.
        single_action_space: Box float32 `[act_dim]` with the environment's bounds, or Discrete counted from 0.
        episode_seeds: if given, the seed of every episode, the first and the automatic ones included.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}
    single_observation_space: spaces.Box
    single_action_space: spaces.Box | spaces.Discrete
    episode_seeds: EpisodeSeeds | None
    plane: Plane | None = None

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        episode_seeds: EpisodeSeeds | None,
    ) -> None:
        self.num_envs = num_envs
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.episode_seeds = episode_seeds
        _stop_mujoco_clock()

    def in_plane(self) -> NDArray:
        """Where each environment stands in `plane` now, `[N, 2]` (further columns are left out); only with a plane.

        Where an episode ended in the last step that is where the next one begins.
        """
        raise NotImplementedError(f"{type(self).__name__} has no plane")

    @abc.abstractmethod
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Infos]:
        """Begins a new episode everywhere.

        Args:
            seed: a seed for each environment, or S for S, S+1, ...; must be `None` with `episode_seeds`.
            options: passed to every environment.

        Returns:
            Observations `[N, obs_dim]` and an empty dict.

        Raises:
            EnvironmentFailed: an environment cannot be reset.
        """

    @abc.abstractmethod
    def step(self, actions: NDArray) -> Step:
        """One step everywhere. An environment whose episode ends is reset within the same step.

        Args:
            actions: float32 `[N, act_dim]`, or int64 `[N]`.

        Returns:
            Observations float32 `[N, obs_dim]` (of the new episode where one ended), rewards float32
            `[N]`, terminations bool `[N]`, truncations bool `[N]`, and infos:
            `"cost"`: float32 `[N]`, 0 where none is reported;
            `"final_obs"`: float32 `[N, obs_dim]`, in rows whose episode ended its last observation,
            in other rows anything;
            `"final_place"`: float64 `[N, 2]`, in rows whose episode ended where it did in `plane`, in other rows
            anything; only with a plane, and without it `in_plane` stands in;
            `"failed"`: bool `[N]`, only when an environment raised and was built anew: its row holds the
            first observation of a fresh episode, no reward, cost or flag, and is no transition.

        Raises:
            EnvironmentFailed: an environment raised and `on_error` is `"raise"`, or it keeps failing.
        """

    @abc.abstractmethod
    def observations(self) -> NDArray[np.float32]:
        """The current observations `[N, obs_dim]`: those that the last step, reset or `set_state` gave."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """A snapshot, also in the middle of episodes: plain picklable data.

        Raises:
            ValueError: the environments were made without `episode_seeds`.
        """

    @abc.abstractmethod
    def set_state(self, state: dict[str, Any]) -> list[int]:
        """Continues from `state()` of a vector of as many environments of the same settings and seeds.

        Returns:
            The numbers of the environments that could not be brought back exactly and began a new
            episode instead; empty if the continuation is exact.

        Raises:
            ValueError: the state is of another number of environments, or there are no `episode_seeds`.
        """


def _stop_mujoco_clock() -> None:
    """MuJoCo's bindings read the clock at every stage of every step, for timers that nobody here looks at."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None:
        mujoco.set_mjcb_time(None)
