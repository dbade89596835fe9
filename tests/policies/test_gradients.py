from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_modules import BOX, DISCRETE, ROWS, make_batch, make_module

from quadriga.policies import distributions, gradients
from quadriga.policies.adam import FlatAdam
from quadriga.policies.batch import minibatch_edges, minibatch_totals, minibatches
from quadriga.policies.context import Descent, clip_norm
from quadriga.policies.gradients import Autograd, WrittenOut
from quadriga.policies.networks import FlatParameters


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.05])
def test_written_out_gradients_equal_autograd(
    action_space: gym.Space, activation: str, entropy_coefficient: float
) -> None:
    module = make_module(action_space, activation)
    policy, critics = FlatParameters(module.policy_parameters()), FlatParameters(list(module.critics.parameters()))
    batch = make_batch(module)
    autograd, written = Autograd(module), WrittenOut(module)

    expected_ratio, expected_clipped = autograd.policy(batch, 0.2, entropy_coefficient, 2 * ROWS)
    expected = policy.gradient.clone()
    policy.gradient.fill_(float("nan"))  # whatever is not written shows
    log_ratio, clipped = written.policy(batch, 0.2, entropy_coefficient, 2 * ROWS)
    torch.testing.assert_close(policy.gradient, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(log_ratio, expected_ratio.numpy(), rtol=1e-4, atol=1e-5)
    assert (clipped == expected_clipped.numpy()).all()
    assert 0.1 < clipped.mean() < 0.9

    expected_errors = autograd.critics(batch, 2 * ROWS)
    expected = critics.gradient.clone()
    critics.gradient.fill_(float("nan"))
    errors = written.critics(batch, 2 * ROWS)
    torch.testing.assert_close(critics.gradient, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(errors, expected_errors.numpy(), rtol=1e-4)


@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["gaussian", "categorical"])
def test_written_out_gradients_are_the_same_in_torch(action_space: gym.Space) -> None:
    """On a GPU the same lines run on tensors."""
    module = make_module(action_space, "tanh")
    flat = FlatParameters(list(module.parameters()))
    batch, written = make_batch(module), WrittenOut(module)
    written.policy(batch, 0.2, 0.01, ROWS)
    written.critics(batch, ROWS)
    expected = flat.gradient.clone()

    on_tensors = WrittenOut(module)
    on_tensors.xp = torch
    on_tensors.policy_network = gradients.Backward(module.policy, torch)
    on_tensors.critic_network = gradients.Backward(module.critics, torch)
    if module.log_std is not None:
        on_tensors.log_std, on_tensors.log_std_gradient = module.log_std.detach(), module.log_std.grad
    with torch.no_grad():
        on_tensors.policy(batch.tensors(), 0.2, 0.01, ROWS)
        on_tensors.critics(batch.tensors(), ROWS)
    torch.testing.assert_close(flat.gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["gaussian", "categorical"])
def test_gradients_and_steps_on_a_gpu_equal_those_on_a_cpu(action_space: gym.Space) -> None:
    vectors = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        module = make_module(action_space, "tanh")
        module.to(device)
        flat = FlatParameters(list(module.parameters()))
        optimizer, written = FlatAdam(flat, lr=0.01), WrittenOut(module)
        for seed in range(5):
            batch = make_batch(make_module(action_space, "tanh"), seed=seed).to(device)
            written.policy(batch, 0.2, 0.01, ROWS)
            written.critics(batch, ROWS)
            clip_norm(flat.gradient, 0.5)
            optimizer.apply()
        vectors.append(flat.vector.detach().cpu())
    torch.testing.assert_close(vectors[1], vectors[0], rtol=1e-3, atol=1e-4)


def test_written_out_gradients_of_minibatches_add_up_to_the_batch() -> None:
    module = make_module(BOX, "tanh")
    flat, batch, written = FlatParameters(list(module.parameters())), make_batch(module), WrittenOut(module)
    written.policy(batch, 0.2, 0.1, ROWS)
    written.critics(batch, ROWS)
    whole, parts = flat.gradient.clone(), torch.zeros_like(flat.gradient)
    for part in (slice(0, 40), slice(40, ROWS)):
        written.policy(batch.take(part), 0.2, 0.1, ROWS)
        written.critics(batch.take(part), ROWS)
        parts += flat.gradient
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_flat_adam_equals_torch_adam() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(7))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    flat = FlatParameters(ours)
    optimizer, reference = FlatAdam(flat, lr=0.01), torch.optim.Adam(theirs, lr=0.01)
    for step in range(50):
        for mine, other in zip(ours, theirs, strict=True):
            gradient = torch.randn_like(other) * (1 + step % 7)
            mine.grad.copy_(gradient)
            other.grad = gradient
        optimizer.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.data, other.data, rtol=1e-5, atol=1e-6)


def test_flat_adam_continues_exactly_from_its_state() -> None:
    def run(restart_at: int | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        flat = FlatParameters([torch.nn.Parameter(torch.ones(20))])
        optimizer = FlatAdam(flat, lr=0.1)
        for step in range(10):
            if step == restart_at:
                state = optimizer.state_dict()
                optimizer = FlatAdam(flat, lr=0.1)
                optimizer.load_state_dict(state)
            flat.gradient.copy_(torch.randn(20, generator=generator))
            optimizer.apply()
        return flat.vector.detach()

    assert torch.equal(run(None), run(5))


def test_flat_adam_keeps_its_own_learning_rate_and_takes_the_moments_of_a_state() -> None:
    donor, taker = (FlatAdam(FlatParameters([torch.nn.Parameter(torch.ones(20))]), lr=lr) for lr in (0.1, 0.01))
    donor.flat.gradient.fill_(1.0)
    donor.apply()
    taker.load_state_dict(donor.state_dict())
    assert taker.param_groups[0]["lr"] == 0.01
    assert torch.equal(taker.state[taker.flat.vector]["exp_avg"], donor.state[donor.flat.vector]["exp_avg"])
    assert taker.param_groups[0].keys() == donor.param_groups[0].keys()


@pytest.mark.parametrize("kind", [WrittenOut, Autograd])
def test_a_deviation_that_is_not_learned_has_no_gradient_and_leaves_the_others_theirs(kind: type) -> None:
    found = []
    for final in (None, -2.0):
        module = make_module(BOX, "tanh", final_log_std=final)
        flat, batch = FlatParameters(module.policy_parameters()), make_batch(module)
        FlatParameters(list(module.critics.parameters()))
        flat.gradient.fill_(0.5)  # whatever is not written shows
        kind(module).policy(batch, 0.2, 0.01, ROWS)
        found.append(flat.gradient.clone())
        assert module.log_std is not None
        assert (module.log_std.grad is None) == (final is not None)
    learned, annealed = found
    assert (learned[-3:] != 0).all()
    assert torch.equal(annealed, learned[:-3]), "the deviation is no part of the vector"


def test_a_deviation_that_is_not_learned_stays_whatever_loss_is_minimized() -> None:
    module = make_module(BOX, "tanh", final_log_std=-2.0)
    batch, descent = make_batch(module).tensors(), Descent(module.policy_parameters(), 0.1)
    assert module.log_std is not None
    before = module.log_std.clone(), descent.flat.vector.detach().clone()
    for _ in range(3):
        inputs = module.distribution_inputs(batch.observations)
        descent.minimize(-distributions.log_probs(inputs, module.log_std, batch.actions).sum())
    assert torch.equal(module.log_std, before[0])
    assert not torch.equal(descent.flat.vector.detach(), before[1])


def test_clipped_gradients_keep_their_direction() -> None:
    gradient = torch.tensor([3.0, 4.0])
    clip_norm(gradient, 1.0)
    torch.testing.assert_close(gradient, torch.tensor([0.6, 0.8]))
    clip_norm(gradient, 2.0)
    torch.testing.assert_close(gradient, torch.tensor([0.6, 0.8]))


def test_an_epoch_visits_every_row_once() -> None:
    module = make_module(BOX, "tanh")
    batch = make_batch(module, rows=101)
    seen = np.concatenate([part.log_probs for part in minibatches(batch, 8, np.random.default_rng(0))])
    assert sorted(seen) == sorted(batch.log_probs)
    assert set(np.diff(minibatch_edges(101, 8))) == {12, 13}


@pytest.mark.parametrize("learners", [1, 2, 3])
def test_no_minibatch_is_empty_on_all_learners(learners: int) -> None:
    """Five rows each, one a minibatch: cuts at the same shares of five rows give five minibatches, not ten."""
    batch = make_batch(make_module(BOX, "tanh"), rows=5)
    totals = minibatch_totals(batch, 1, lambda values: learners * values)
    assert totals.tolist() == [learners] * 5
