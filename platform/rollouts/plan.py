"""What an environment runner needs to know of an experiment; the line of work fills it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.rollouts.advantages import ValueStream

REWARD, COST, INTRINSIC = "reward", "cost", "intrinsic"


class BonusPlan(Protocol):
    """An intrinsic reward that is computed from whole columns of transitions; picklable."""

    def __call__(
        self,
        weights: Mapping[str, np.ndarray],
        states: np.ndarray,
        actions: np.ndarray,
        next_states: np.ndarray,
        num_actions: int | None,
    ) -> np.ndarray:
        """Bonuses float32 [B], not scaled.

        Args:
            weights: all arrays that came with the request.
            states: float32 [B, obs_dim], raw.
            actions: float32 [B, act_dim] as drawn, or int64 [B].
            next_states: float32 [B, obs_dim], raw, of the same episode.
            num_actions: of a discrete action space, else `None`.
        """


@dataclass(frozen=True)
class RolloutPlan:
    """The part of an experiment that a runner acts on.

    Attributes:
        env: which environment, and what happens when it raises.
        num_envs: environments stepped together in one runner.
        seed: of the run; streams are keyed by (seed, runner, iteration), so none needs saving.
        streams: value streams, one critic each, in the order of the module's critics.
        activation: of the networks' hidden layers.
        collect_moments: whether to measure observations for the normalizer.
        bonus: the intrinsic reward, if there is one. The stream `INTRINSIC` carries it if it is among `streams`, else
            the reward's.
        sequence_length: steps of a sequence, of a policy with a memory; else `None`.
    """

    env: EnvironmentSettings
    num_envs: int
    seed: int
    streams: tuple[ValueStream, ...]
    activation: str
    collect_moments: bool
    bonus: BonusPlan | None = None
    sequence_length: int | None = None
