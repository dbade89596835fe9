"""Every supported space as flat columns: observations as float32 vectors, actions as float32 vectors or numbers.

Knows spaces only, no environments. What cannot be a fixed-length vector is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from quadriga.platform.errors import UserError

OBSERVATIONS = "Box, Discrete, MultiBinary, MultiDiscrete, and Dict or Tuple of these"
ACTIONS = "Box of floats, Discrete"


def flat_observation_space(space: gymnasium.Space, env_id: str) -> spaces.Box:
    """The float32 Box `[obs_dim]` that observations of `space` are flattened to.

    Discrete parts become one-hot; the parts of a Dict are concatenated in the order of the space.

    Raises:
        UserError: a part of `space` has no fixed length (text, graph, sequence, ...).
    """
    unsupported = _unsupported(space)
    if unsupported is not None:
        raise UserError(
            f"environment {env_id!r}: observation space {type(unsupported).__name__} is not supported; "
            f"supported: {OBSERVATIONS}"
        )
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    return _float32_box(flat.low, flat.high)


def observation_encoder(space: gymnasium.Space) -> Callable[[Any], Any] | None:
    """What turns an observation of `space` into a vector, or `None` if it is one already."""
    if isinstance(space, spaces.Box):
        return None if len(space.shape) == 1 else np.ravel
    return lambda observation: spaces.flatten(space, observation)


def flat_action_space(space: gymnasium.Space, env_id: str) -> spaces.Box | spaces.Discrete:
    """The space of one environment's column of actions: float32 Box `[act_dim]`, or Discrete counted from 0.

    Raises:
        UserError: `space` is neither a Box of floats nor Discrete.
    """
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return _float32_box(space.low, space.high)
    kind = f"Box of {space.dtype}" if isinstance(space, spaces.Box) else type(space).__name__
    raise UserError(f"environment {env_id!r}: action space {kind} is not supported; supported: {ACTIONS}")


def action_decoder(space: gymnasium.Space) -> Callable[[NDArray], Iterable[Any]]:
    """What turns a column of actions into one action of `space` for each environment.

    Discrete actions arrive as Python integers, which environments handle faster than numpy's.
    Continuous ones are rows of a fresh array: an environment may keep or change its action.
    """
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        if start == 0:
            return np.ndarray.tolist
        return lambda actions: (actions + start).tolist()
    shape = space.shape or ()
    if len(shape) == 1:
        return np.ndarray.copy
    return lambda actions: actions.copy().reshape(len(actions), *shape)


def _float32_box(low: NDArray, high: NDArray) -> spaces.Box:
    with np.errstate(over="ignore"):  # a bound beyond float32 is no bound
        return spaces.Box(low.astype(np.float32).ravel(), high.astype(np.float32).ravel(), dtype=np.float32)


def _unsupported(space: gymnasium.Space) -> gymnasium.Space | None:
    if isinstance(space, spaces.Dict):
        return next((bad for part in space.spaces.values() if (bad := _unsupported(part)) is not None), None)
    if isinstance(space, spaces.Tuple):
        return next((bad for part in space.spaces if (bad := _unsupported(part)) is not None), None)
    supported = isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete)
    return None if supported else space
