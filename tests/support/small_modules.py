"""Small policies and batches for the tests of the learner."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch

from quadriga.policies import distributions
from quadriga.policies.batch import UpdateBatch
from quadriga.policies.context import Descent, UpdateContext
from quadriga.policies.fisher import fisher_of
from quadriga.policies.gradients import Autograd, WrittenOut
from quadriga.policies.module import ActorCriticModule
from quadriga.policies.recurrent import Memory

OBS_DIM, ROWS, STREAMS = 7, 96, 2
BOX, DISCRETE = gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(5)


def make_module(
    action_space: gym.Space, activation: str, seed: int = 0, obs_dim: int = OBS_DIM, final_log_std: float | None = None
) -> ActorCriticModule:
    torch.manual_seed(seed)
    module = ActorCriticModule(
        observation_space=gym.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32),
        action_space=action_space,
        model_config={
            "hidden_sizes": (16, 12),
            "activation": activation,
            "initial_log_std": -0.3,
            "final_log_std": final_log_std,
            "streams": STREAMS,
        },
    )
    for parameter in module.parameters():  # far from the small initial outputs, so that every term counts
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module


def make_recurrent_module(action_space: gym.Space, units: int = 6, seed: int = 0) -> ActorCriticModule:
    torch.manual_seed(seed)
    config = {"hidden_sizes": (5,), "activation": "tanh", "initial_log_std": -0.3, "streams": STREAMS, "units": units}
    module = ActorCriticModule(
        observation_space=gym.spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32),
        action_space=action_space,
        model_config=config,
    )
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module


def make_sequences(module: ActorCriticModule, sequences: int = 8, length: int = 6, seed: int = 1) -> UpdateBatch:
    """A batch of a recurrent policy itself: episodes begin here and there, states are whatever they are."""
    rng = np.random.default_rng(seed)
    rows = sequences * length
    memory = Memory(rng.random(rows) < 0.2, rng.standard_normal((sequences, module.state_dim), np.float32))
    observations = rng.standard_normal((rows, OBS_DIM), np.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        inputs = module.distribution_inputs(torch.from_numpy(observations), Memory(*map(torch.from_numpy, memory)))
        if module.log_std is None:
            actions = torch.distributions.Categorical(logits=inputs).sample()
        else:
            actions = inputs + torch.randn_like(inputs) * module.log_std.exp()
        log_probs = distributions.log_probs(inputs, module.log_std, actions)
    advantages, costs = rng.standard_normal((2, rows), np.float32)
    targets = rng.standard_normal((STREAMS, rows), np.float32)
    return UpdateBatch(
        observations, actions.numpy(), log_probs.numpy(), inputs.numpy(), advantages, targets, 0.1 * costs, memory
    )


def make_batch(module: ActorCriticModule, rows: int = ROWS, seed: int = 1) -> UpdateBatch:
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((rows, OBS_DIM), np.float32)
    dist_dim = module.policy.biases[-1].shape[-1]
    gaussian = rng.standard_normal((rows, dist_dim), np.float32)
    actions = rng.integers(0, dist_dim, rows) if module.discrete else gaussian
    with torch.no_grad():
        inputs = module.distribution_inputs(torch.from_numpy(observations))
        log_probs = distributions.log_probs(inputs, module.log_std, torch.from_numpy(actions)).numpy()
    log_probs = log_probs + 0.3 * rng.standard_normal(rows, np.float32)  # ratios on both sides of the clip
    return UpdateBatch(
        observations,
        actions,
        log_probs,
        inputs.numpy(),
        rng.standard_normal(rows, np.float32),
        rng.standard_normal((STREAMS, rows), np.float32),
    )


def make_context(module: ActorCriticModule, excess_cost: float | None = None) -> UpdateContext:
    policy = Descent(module.policy_parameters(), 0.0)
    critics = Descent(list(module.critics.parameters()), 1e-3)
    return UpdateContext(
        module=module,
        gradients=Autograd(module) if module.units else WrittenOut(module),
        fisher=fisher_of(module),
        policy=policy,
        critics=critics,
        streams=("reward", "cost"),
        rng=np.random.default_rng(0),
        distributed=False,
        excess_cost=excess_cost,
    )


def make_acting_batch(module: ActorCriticModule, rows: int = 2 * ROWS, seed: int = 1) -> UpdateBatch:
    """As `make_batch`, of the policy itself, in its dtype: actions are drawn, and both advantages are centered."""
    rng = np.random.default_rng(seed)
    dtype = module.policy.weights[0].detach().numpy().dtype
    observations = torch.from_numpy(rng.standard_normal((rows, OBS_DIM)).astype(dtype))
    torch.manual_seed(seed)
    with torch.no_grad():
        inputs = module.distribution_inputs(observations)
        if module.log_std is None:
            actions = torch.distributions.Categorical(logits=inputs).sample()
        else:
            actions = inputs + torch.randn_like(inputs) * module.log_std.exp()
        log_probs = distributions.log_probs(inputs, module.log_std, actions)
    advantages, cost_advantages = rng.standard_normal((2, rows)).astype(dtype)
    return UpdateBatch(
        observations.numpy(),
        actions.numpy(),
        log_probs.numpy(),
        inputs.numpy(),
        advantages - advantages.mean(),
        rng.standard_normal((STREAMS, rows)).astype(dtype),
        dtype.type(0.1) * (cost_advantages - cost_advantages.mean()),
    )


def policy_vector(context: UpdateContext) -> np.ndarray:
    return context.policy.flat.vector.detach().double().cpu().numpy()


def mean_kl(module: ActorCriticModule, batch: UpdateBatch, old_log_std: torch.Tensor | None) -> float:
    batch = batch.tensors()
    with torch.no_grad():
        inputs = module.distribution_inputs(batch.observations)
        return float(distributions.kl_divergence(batch.distributions, old_log_std, inputs, module.log_std).mean())


def surrogate(module: ActorCriticModule, batch: UpdateBatch, advantages: np.ndarray) -> float:
    batch = batch.tensors()
    with torch.no_grad():
        inputs = module.distribution_inputs(batch.observations)
        ratio = (distributions.log_probs(inputs, module.log_std, batch.actions) - batch.log_probs).exp()
        return float((ratio * torch.from_numpy(advantages)).mean())
