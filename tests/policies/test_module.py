from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_modules import BOX, DISCRETE, OBS_DIM, make_module

from quadriga.platform.rollouts.actors import ActionScale, Actor
from quadriga.platform.statistics import RunningMoments
from quadriga.policies import distributions
from quadriga.policies.module import Normalizer
from quadriga.policies.networks import FlatParameters


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["gaussian", "categorical"])
def test_numpy_actor_agrees_with_the_torch_module(action_space: gym.Space, activation: str) -> None:
    module = make_module(action_space, activation)
    rng = np.random.default_rng(0)
    module.normalizer.merge(RunningMoments.from_batch(3 + 5 * rng.standard_normal((1000, OBS_DIM))))
    actor = Actor(module.get_state(), activation=activation, discrete=module.discrete)
    raw = (3 + 5 * rng.standard_normal((8, OBS_DIM))).astype(np.float32)

    observations = actor.normalize(raw, np.empty_like(raw))
    inputs = actor.policy(observations).copy()
    noise = actor.noise(rng, 1, 8)
    actions = actor.sample(inputs, noise[0])
    with torch.no_grad():
        expected = module.normalizer(torch.from_numpy(raw))
        np.testing.assert_allclose(observations, expected.numpy(), atol=1e-6)
        expected_inputs = module.distribution_inputs(expected)
        np.testing.assert_allclose(inputs, expected_inputs.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(actor.values(observations), module.values(expected).T.numpy(), rtol=1e-4, atol=1e-5)
        log_probs = distributions.log_probs(expected_inputs, module.log_std, torch.from_numpy(actions))
    np.testing.assert_allclose(actor.log_probs(inputs[None], actions[None], noise)[0], log_probs.numpy(), atol=1e-4)


def test_discrete_actions_are_drawn_with_the_policy_s_probabilities() -> None:
    module = make_module(DISCRETE, "tanh")
    actor = Actor(module.get_state(), activation="tanh", discrete=True)
    inputs = np.array([[0.0, 1.0, -1.0, 2.0, 0.5]], np.float32)
    noise = actor.noise(np.random.default_rng(0), 200_000, 1)
    frequencies = np.bincount([actor.sample(inputs, draw)[0] for draw in noise[:20_000]], minlength=5) / 20_000
    probabilities = torch.softmax(torch.from_numpy(inputs[0]), -1).numpy()
    np.testing.assert_allclose(frequencies, probabilities, atol=4 * np.sqrt(0.25 / 20_000))


def test_rllib_sees_the_same_policy_on_raw_observations() -> None:
    module = make_module(BOX, "tanh")
    module.normalizer.merge(RunningMoments.from_batch(np.random.default_rng(0).normal(2, 3, (500, OBS_DIM))))
    raw = torch.randn(4, OBS_DIM)
    output = module.forward_inference({"obs": raw})["action_dist_inputs"]
    torch.testing.assert_close(output[:, :3], module.policy(module.normalizer(raw)))
    torch.testing.assert_close(output[:, 3:], module.log_std.expand(4, 3))
    torch.testing.assert_close(module.compute_values({"obs": raw}), module.values(module.normalizer(raw))[0])


def test_normalizer_is_the_moments_of_everything_it_merged() -> None:
    module = make_module(BOX, "tanh")
    data = np.random.default_rng(0).normal(4, 7, (3000, OBS_DIM))
    for part in np.split(data, [10, 700]):
        module.normalizer.merge(RunningMoments.from_batch(part))
    np.testing.assert_allclose(module.normalizer.mean.numpy(), data.mean(0), rtol=1e-5)
    np.testing.assert_allclose(module.normalizer.scale.numpy(), 1 / data.std(0), rtol=1e-5)


def test_constant_inputs_are_left_at_zero() -> None:
    module = make_module(BOX, "tanh")
    module.normalizer.merge(RunningMoments.from_batch(np.full((100, OBS_DIM), 1e6)))
    assert module.normalizer(torch.full((1, OBS_DIM), 1e6)).abs().max() == 0


def test_state_keeps_every_dtype_and_reaches_the_flat_vector() -> None:
    source, target = make_module(BOX, "tanh", seed=1), make_module(BOX, "tanh", seed=2)
    source.normalizer.merge(RunningMoments.from_batch(np.random.default_rng(0).normal(0.1, 1, (77, OBS_DIM))))
    flat = FlatParameters(target.policy_parameters())
    state = source.get_state()
    target.set_state(state)
    for name, value in target.get_state().items():
        assert value.dtype == state[name].dtype
        np.testing.assert_array_equal(value, state[name])
    expected = torch.cat([parameter.detach().reshape(-1) for parameter in source.policy_parameters()])
    assert torch.equal(flat.vector.detach(), expected)


def test_actions_are_clipped_and_scaled_to_the_bounds() -> None:
    scale = ActionScale(gym.spaces.Box(np.array([-2, 0, -np.inf], np.float32), np.array([2, 10, np.inf], np.float32)))
    actions = np.array([[0.5, 0.5, 7.0], [9.0, -9.0, -7.0]], np.float32)
    expected = [[1.0, 7.5, 7.0], [2.0, 0.0, -7.0]]
    np.testing.assert_allclose(scale(actions, np.empty_like(actions)), expected)


def test_shrinking_divides_only_by_deviations_above_one() -> None:
    normalizer = Normalizer(2, shrink=True)
    data = np.random.default_rng(0).normal(0, (0.1, 4.0), (1000, 2))
    normalizer.merge(RunningMoments.from_batch(data))
    np.testing.assert_allclose(normalizer.scale.numpy(), [1.0, 1 / data[:, 1].std()], rtol=1e-5)


def test_a_dimension_with_one_bound_is_clipped_there_and_not_scaled() -> None:
    space = gym.spaces.Box(np.array([0, -np.inf, -3], np.float32), np.array([np.inf, 2, 3], np.float32))
    scale = ActionScale(space)
    actions = np.array([[-5.0, 7.0, 0.5], [5.0, -7.0, -9.0]], np.float32)
    applied = scale(actions, np.empty_like(actions))
    np.testing.assert_allclose(applied, [[0.0, 2.0, 1.5], [5.0, -7.0, -3.0]])
    assert all(space.contains(action) for action in applied)
