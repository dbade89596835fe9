"""A trained policy as a file and as a callable: raw observations in, actions out; no Ray, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gymnasium as gym
import numpy as np

from quadriga.platform.errors import UserError
from quadriga.platform.rollouts.actors import ActionScale, Actor

FILE_NAME = "policy.npz"


class Policy:
    """A policy for `N` environments at once.

    Args:
        weights: the module's state.
        activation: of its hidden layers.
        action_space: flat Box or Discrete of one environment.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], *, activation: str, action_space: gym.Space) -> None:
        self.actor = Actor(weights, activation=activation, discrete=isinstance(action_space, gym.spaces.Discrete))
        self._scale = ActionScale(action_space) if isinstance(action_space, gym.spaces.Box) else None

    @classmethod
    def load(cls, checkpoint: Path, *, activation: str, action_space: gym.Space) -> Policy:
        """The policy of a checkpoint folder.

        Raises:
            UserError: the folder holds none.
        """
        path = checkpoint / FILE_NAME
        if not path.is_file():
            raise UserError(f"checkpoint {str(checkpoint)!r} holds no {FILE_NAME}")
        with np.load(path) as arrays:
            return cls({name: arrays[name] for name in arrays.files}, activation=activation, action_space=action_space)

    def __call__(self, observations: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Actions of raw observations float32 [N, obs_dim]: the most likely ones, or drawn with `rng`.

        Returns:
            float32 [N, act_dim] within the bounds of the space, or int64 [N].
        """
        actor = self.actor
        distribution = actor.policy(actor.normalize(observations, np.empty_like(observations)))
        if rng is None:
            actions = actor.mode(distribution).copy()
        else:
            actions = actor.sample(distribution, actor.noise(rng, 1, len(observations))[0])
        return actions if self._scale is None else self._scale(actions, np.empty_like(actions))


def save(weights: Mapping[str, np.ndarray], checkpoint: Path) -> None:
    """Writes the policy file of a checkpoint folder."""
    np.savez(checkpoint / FILE_NAME, allow_pickle=False, **dict(weights))
