"""What an environment runner needs to know of an experiment; the line of work fills it in."""

from __future__ import annotations

from dataclasses import dataclass

from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.rollouts.advantages import ValueStream

REWARD, COST = "reward", "cost"


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
    """

    env: EnvironmentSettings
    num_envs: int
    seed: int
    streams: tuple[ValueStream, ...]
    activation: str
    collect_moments: bool
