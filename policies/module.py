"""The RLModule: a policy, one critic a value stream, and the observation normalizer, in one state.

The normalizer is part of the module so that a checkpoint of the module is a whole policy: what
goes in is a raw observation. It is measured on the runners and merged exactly by the training loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import nn

from quadriga.platform.rollouts.actors import OBSERVATION_CLIP
from quadriga.platform.statistics import RunningMoments
from quadriga.policies.networks import MLP
from quadriga.policies.recurrent import Memory, RecurrentNetwork

CONSTANT = 1e-4
"""Deviation up to which an input counts as constant."""


class Normalizer(nn.Module):
    """Subtracts the mean, divides by the deviation and clips; the identity until it has seen anything.

    With `shrink` only deviations above 1 divide. Inputs that are near zero mostly, such as lidars of few things, would
    be raised to large values: standardized, PPO reached a quarter of the return on SafetyPointGoal1-v0.

    Buffers: `count`, `sample_mean`, `m2` (float64, exact) and `mean`, `scale` (float32, in use).
    """

    def __init__(self, dim: int, *, shrink: bool = False) -> None:
        super().__init__()
        self.shrink = shrink
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sample_mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Raw observations [B, dim] to normalized ones."""
        return ((observations - self.mean) * self.scale).clamp(-OBSERVATION_CLIP, OBSERVATION_CLIP)

    def merge(self, moments: RunningMoments) -> None:
        """Takes in what the runners measured."""
        own = RunningMoments.from_state(
            {"count": self.count.cpu().numpy(), "mean": self.sample_mean.cpu().numpy(), "m2": self.m2.cpu().numpy()}
        )
        own.merge(moments)
        deviation = np.sqrt(own.variance)
        # A constant input carries nothing: scale 1 leaves it at zero instead of amplifying rounding.
        least = 1.0 if self.shrink else CONSTANT
        scale = np.where(deviation > least, 1.0 / np.maximum(deviation, least), 1.0)
        self.count.fill_(own.count)
        for buffer, value in (
            (self.sample_mean, own.mean),
            (self.m2, own.m2),
            (self.mean, own.mean),
            (self.scale, scale),
        ):
            buffer.copy_(torch.as_tensor(value))


class ActorCriticModule(TorchRLModule, ValueFunctionAPI):
    """The policy and its critics.

    `model_config`: `hidden_sizes`, `activation`, `initial_log_std`, `final_log_std` (see `anneal`), `streams` (how many
    critics), `shrink_observations`; of a recurrent network also `units` of the LSTM, and its critics are heads of one.
    """

    def setup(self) -> None:
        """Builds the networks for flat Box observations and Box or Discrete actions."""
        config = self.model_config
        obs_dim = int(np.prod(self.observation_space.shape))
        self.discrete = isinstance(self.action_space, gym.spaces.Discrete)
        dist_dim = int(self.action_space.n) if self.discrete else int(np.prod(self.action_space.shape))
        hidden = list(config["hidden_sizes"])
        self.normalizer = Normalizer(obs_dim, shrink=config.get("shrink_observations", False))
        self.policy: MLP | RecurrentNetwork
        self.critics: MLP | RecurrentNetwork
        # Critics begin at exactly 0: without any reward advantages are 0 then, and not noise that is standardized.
        self.units, self.dist_dim, self.streams = config.get("units"), dist_dim, config["streams"]
        if self.units is not None:
            sizes, activation = [obs_dim, *hidden], config["activation"]
            self.policy = RecurrentNetwork(sizes, self.units, dist_dim, activation, final_gain=0.01)
            self.critics = RecurrentNetwork(sizes, self.units, self.streams, activation, final_gain=0.0)
        else:
            self._build_perceptrons(obs_dim, hidden, dist_dim, config)
        self._log_stds = float(config["initial_log_std"]), config.get("final_log_std")
        log_std = nn.Parameter(torch.full((dist_dim,), self._log_stds[0]), requires_grad=self.learns_std)
        self.log_std = None if self.discrete else log_std

    def _build_perceptrons(self, obs_dim: int, hidden: list[int], dist_dim: int, config: Mapping[str, Any]) -> None:
        self.policy = MLP([obs_dim, *hidden, dist_dim], config["activation"], final_gain=0.01)
        self.critics = MLP([obs_dim, *hidden, 1], config["activation"], final_gain=0.0, stack=config["streams"])

    def policy_parameters(self) -> list[nn.Parameter]:
        """What the update rule changes; a deviation that is not learned is not among it."""
        return [*self.policy.parameters(), *([] if self.log_std is None or not self.learns_std else [self.log_std])]

    @property
    def learns_std(self) -> bool:
        """Whether a Gaussian policy's deviation is learned; else it is `anneal`'s."""
        return self._log_stds[1] is None

    @torch.no_grad()
    def anneal(self, remaining: float) -> None:
        """Sets a deviation that is not learned, for when this share of the run is left."""
        initial, final = self._log_stds
        if self.log_std is not None and final is not None:
            self.log_std.fill_(final + (initial - final) * remaining)

    @property
    def state_dim(self) -> int:
        """Numbers that a recurrent network remembers; 0 of another."""
        return 4 * self.units if self.units is not None else 0

    def distribution_inputs(self, observations: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        """Means or logits [B, dist_dim] of normalized observations; a recurrent policy needs their `memory`."""
        if memory is None:
            return self.policy(observations)
        return self.policy(observations, memory.resets, memory.states[:, : self.state_dim // 2])

    def values(self, observations: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        """Values [K, B] of normalized observations, likewise."""
        if memory is None:
            return self.critics(observations)[..., 0]
        return self.critics(observations, memory.resets, memory.states[:, self.state_dim // 2 :]).T

    # RLlib's interface, on raw observations.

    def _forward(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        if self.units is not None:
            raise NotImplementedError("a recurrent policy acts through quadriga.policies.policy, which keeps its state")
        inputs = self.policy(self.normalizer(batch[Columns.OBS]))
        if self.log_std is not None:
            inputs = torch.cat([inputs, self.log_std.expand_as(inputs)], dim=-1)
        return {Columns.ACTION_DIST_INPUTS: inputs}

    def compute_values(self, batch: Mapping[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Reward values [B] of raw observations."""
        return self.values(self.normalizer(batch[Columns.OBS]))[0]

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """All parameters and buffers as numpy copies, in their own dtypes."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Loads what `get_state` gave; RLlib's own conversion would narrow the float64 buffers."""
        self.load_state_dict({name: torch.as_tensor(np.asarray(value)) for name, value in state.items()}, strict=True)
