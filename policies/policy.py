"""A trained policy as a file and as a callable: raw observations in, actions out; no Ray, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gymnasium as gym
import numpy as np

from quadriga.platform.errors import UserError
from quadriga.platform.rollouts.actors import ActionScale
from quadriga.platform.rollouts.recurrent import RecurrentActor, make_actor

FILE_NAME = "policy.npz"


class Policy:
    """A policy for `N` environments at once.

    Args:
        weights: the module's state.
        activation: of its hidden layers.
        action_space: flat Box or Discrete of one environment.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], *, activation: str, action_space: gym.Space) -> None:
        self.actor = make_actor(weights, activation=activation, discrete=isinstance(action_space, gym.spaces.Discrete))
        self._memory: np.ndarray | None = None
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

        A recurrent policy remembers what it saw: `forget` where an episode ended.

        Returns:
            float32 [N, act_dim] within the bounds of the space, or int64 [N].
        """
        actor = self.actor
        seen = actor.normalize(observations, np.empty_like(observations))
        if isinstance(actor, RecurrentActor):
            if self._memory is None or len(self._memory) != len(seen):
                self._memory = actor.begin(len(seen))
            distribution, self._memory = actor.act(seen, self._memory)
        else:
            distribution = actor.policy(seen)
        if rng is None:
            actions = actor.mode(distribution).copy()
        else:
            actions = actor.sample(distribution, actor.noise(rng, 1, len(observations))[0])
        return actions if self._scale is None else self._scale(actions, np.empty_like(actions))

    def forget(self, ended: np.ndarray | None = None) -> None:
        """Begins anew in the environments `ended` bool [N], or in all."""
        if ended is None:
            self._memory = None
        elif self._memory is not None:
            self._memory[ended] = 0


def save(weights: Mapping[str, np.ndarray], checkpoint: Path) -> None:
    """Writes the policy file of a checkpoint folder."""
    np.savez(checkpoint / FILE_NAME, allow_pickle=False, **dict(weights))
