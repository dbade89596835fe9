"""Recurrent policies: the network, and update rules over sequences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_modules import BOX, DISCRETE, OBS_DIM, make_context, make_recurrent_module, make_sequences

from quadriga.platform.errors import UserError
from quadriga.platform.experiment import build
from quadriga.policies import cpo, ppo, trpo
from quadriga.policies.batch import UpdateBatch, minibatch_totals, minibatches
from quadriga.policies.experiment import CPOSettings, PPOSettings, TRPOSettings
from quadriga.policies.fisher import AutogradFisher
from quadriga.policies.policy import Policy
from quadriga.policies.recurrent import Memory, RecurrentNetwork
from quadriga.policies.trainer import RLTrainer


def test_the_network_is_torch_s_own_cell_step_by_step_with_the_state_zeroed_where_an_episode_begins():
    torch.manual_seed(0)
    network = RecurrentNetwork([4, 5], 3, 2, "tanh", final_gain=1.0)
    cell = torch.nn.LSTMCell(5, 3)
    with torch.no_grad():
        cell.weight_ih.copy_(network.input.T)
        cell.weight_hh.copy_(network.recurrent.T)
        cell.bias_ih.copy_(network.bias)
        cell.bias_hh.zero_()
    x, states = torch.randn(4 * 7, 4), torch.randn(4, 6)
    resets = torch.rand(4 * 7) < 0.3
    expected = []
    for s in range(4):
        h, c = states[s, :3], states[s, 3:]
        for t in range(7 * s, 7 * s + 7):
            if resets[t]:
                h, c = torch.zeros(3), torch.zeros(3)
            h, c = cell(torch.tanh(x[t] @ network.weights[0] + network.biases[0]), (h, c))
            expected.append(h @ network.head + network.head_bias)
    torch.testing.assert_close(network(x, resets, states), torch.stack(expected))


def test_gradients_go_back_to_the_beginning_of_an_episode_and_no_further():
    network = RecurrentNetwork([2], 4, 1, "tanh", final_gain=1.0)
    x, resets = torch.randn(6, 2, requires_grad=True), torch.tensor([False, False, False, True, False, False])
    (gradient,) = torch.autograd.grad(network(x, resets, torch.randn(1, 8))[-1].sum(), x)
    assert gradient[:3].abs().sum() == 0
    assert (gradient[3:].abs().sum(-1) > 0).all()


def test_minibatches_are_whole_sequences_and_every_row_comes_once():
    module = make_recurrent_module(BOX)
    batch = make_sequences(module, sequences=10, length=6)
    totals = minibatch_totals(batch, 15, np.asarray)
    parts = list(minibatches(batch, len(totals), np.random.default_rng(0)))
    assert [len(part) for part in parts] == totals.tolist() == [12, 18, 12, 18]
    assert all(part.unit == 6 and len(part) == 6 * len(part.memory.states) for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate([p.log_probs for p in parts])), np.sort(batch.log_probs))
    for part in parts:
        for s, state in enumerate(part.memory.states):
            (origin,) = np.flatnonzero((batch.memory.states == state).all(-1))
            rows, whole = slice(6 * s, 6 * s + 6), slice(6 * origin, 6 * origin + 6)
            np.testing.assert_array_equal(part.observations[rows], batch.observations[whole])
            np.testing.assert_array_equal(part.memory.resets[rows], batch.memory.resets[whole])
    assert len(minibatch_totals(batch, 1, np.asarray)) == 10, "no minibatch is less than a sequence"
    assert minibatch_totals(batch, 1, lambda values: 3 * np.asarray(values)).tolist() == [18] * 10, "of three learners"


@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=["box", "discrete"])
def test_the_gradient_of_the_batch_is_the_sum_of_its_minibatches(space):
    module = make_recurrent_module(space)
    context, batch = make_context(module), make_sequences(module)

    def gradient(parts: list[UpdateBatch]) -> np.ndarray:
        total = np.zeros(context.policy.flat.vector.numel())
        for part in parts:
            context.gradients.policy(part, 0.2, 0.01, len(batch))
            total += context.policy.flat.gradient.double().numpy()
        return total

    whole = gradient([batch])
    np.testing.assert_allclose(gradient(list(minibatches(batch, 3, np.random.default_rng(0)))), whole, atol=1e-6)
    assert np.abs(whole).max() > 1e-3


def test_the_gradient_of_the_surrogate_is_its_slope():
    module = make_recurrent_module(BOX).double()
    batch = make_sequences(make_recurrent_module(BOX))
    wide = {
        name: getattr(batch, name).astype(np.float64) for name in ("observations", "log_probs", "advantages", "actions")
    }
    memory = Memory(batch.memory.resets, batch.memory.states.astype(np.float64))
    batch = replace(batch, **wide, memory=memory, value_targets=batch.value_targets.astype(np.float64))
    context = make_context(module)
    context.gradients.policy(batch, math.inf, 0.0, len(batch))
    slope = context.policy.flat.gradient.clone()
    direction = torch.randn_like(slope)

    def loss(step: float) -> float:
        with torch.no_grad():
            context.policy.flat.vector += step * direction
            inputs = context.gradients.inputs(batch)
            z = (torch.as_tensor(batch.actions) - inputs) / module.log_std.exp()
            log_probs = (-0.5 * z**2 - module.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
            context.policy.flat.vector -= step * direction
        return -float((np.exp(log_probs.numpy() - batch.log_probs) * batch.advantages).mean())

    assert float(slope @ direction) == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-5)


def test_fisher_vector_products_are_those_of_the_whole_matrix():
    module = make_recurrent_module(BOX, units=2).double()
    batch = make_sequences(make_recurrent_module(BOX, units=2), sequences=3, length=4)
    observations = batch.observations.astype(np.float64)
    memory = Memory(batch.memory.resets, batch.memory.states.astype(np.float64))
    fisher = AutogradFisher(module)
    fisher.linearize(observations, memory)
    parameters = module.policy_parameters()
    inputs = module.distribution_inputs(torch.from_numpy(observations), Memory(*map(torch.from_numpy, memory)))
    rows = []
    for value in inputs.reshape(-1):
        slopes = torch.autograd.grad(value, parameters[:-1], retain_graph=True)
        rows.append(torch.cat([slope.reshape(-1) for slope in slopes]))
    jacobian = torch.stack(rows)
    precision = torch.exp(-2 * module.log_std).detach().repeat(len(observations))
    dense = jacobian.T @ (precision[:, None] * jacobian)
    size = len(dense)
    vector = np.random.default_rng(0).standard_normal(size + 3)
    found = fisher.product(vector)
    np.testing.assert_allclose(found[:size], (dense @ torch.from_numpy(vector[:size])).numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[size:], 2 * len(observations) * vector[size:], rtol=1e-9)


@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=["box", "discrete"])
def test_second_order_steps_stay_in_their_region(space):
    for rule, settings, excess in (
        (trpo, TRPOSettings(critic_epochs=1), None),
        (cpo, CPOSettings(critic_epochs=1), -0.01),
    ):
        module = make_recurrent_module(space)
        batch, context = make_sequences(module, sequences=16), make_context(module, excess)
        old = None if module.log_std is None else module.log_std.detach().clone()
        metrics = rule.update(batch, context, settings)
        assert metrics["step_accepted"] == 1
        assert 0 < metrics["kl"] <= settings.target_kl
        assert context.movement(batch, old)["kl"] == pytest.approx(metrics["kl"], rel=1e-4)


def test_ppo_improves_the_surrogate_and_fits_the_critics():
    module = make_recurrent_module(DISCRETE)
    context, batch = make_context(module), make_sequences(module, sequences=16)
    for descent in (context.policy, context.critics):
        descent.optimizer.param_groups[0]["lr"] = 3e-3
    settings = PPOSettings(epochs=8, minibatch_size=24, target_kl=None)
    first = ppo.update(batch, context, settings)
    second = ppo.update(batch, context, settings)
    assert second["reward_value_loss"] < first["reward_value_loss"]
    assert first["kl"] > 0


def test_a_learner_without_rows_has_gradients_of_zero():
    module = make_recurrent_module(BOX)
    context, batch = make_context(module), make_sequences(module)
    empty = batch.take(slice(0, 0))
    context.gradients.policy(empty, 0.2, 0.0, 10)
    context.gradients.critics(empty, 10)
    assert context.policy.flat.gradient.abs().sum() == context.critics.flat.gradient.abs().sum() == 0


def test_a_saved_policy_acts_with_its_memory_and_forgets_where_an_episode_ended():
    module = make_recurrent_module(BOX)
    policy = Policy(module.get_state(), activation="tanh", action_space=BOX)
    observations = np.random.default_rng(0).standard_normal((5, 2, OBS_DIM)).astype(np.float32)
    ended = np.array([False, True])
    found = []
    for t in range(5):
        found.append(policy(observations[t]).copy())
        if t == 2:
            policy.forget(ended)
    resets = torch.tensor([[False] * 5, [False] * 3 + [True, False]]).reshape(-1)
    rows = torch.from_numpy(observations).swapaxes(0, 1).reshape(-1, OBS_DIM)
    with torch.no_grad():
        means = module.distribution_inputs(rows, Memory(resets, torch.zeros(2, module.state_dim)))
    expected = means.clamp(-1, 1).reshape(2, 5, -1).swapaxes(0, 1).numpy()
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)
    policy.forget()
    np.testing.assert_array_equal(policy(observations[0]), found[0])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rollout": {"batch_size": 4100}}, "rollout.batch_size: expected a multiple of 400 .* got 4100"),
        ({"bonus": "surprisal"}, "bonus.kind: expected 'none', the only one that network.kind 'lstm' works with"),
        ({"network": {"kind": "lstm", "length": 3}}, "unknown key 'network.length'"),
        ({"network": {"kind": "mlp", "units": 3}}, "unknown key 'network.units'; it belongs to network.kind 'lstm'"),
    ],
)
def test_what_does_not_go_with_a_memory_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        build({"preset": "ppo", "env": "CartPole-v1", "network": "lstm", **fields})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("rule", ["ppo", "trpo"])
def test_only_a_policy_with_a_memory_recalls(rule):
    returns = {}
    for kind in ("mlp", "lstm"):
        network = {"kind": kind, "hidden_sizes": [16]} | (
            {"units": 16, "sequence_length": 12} if kind == "lstm" else {}
        )
        update = {"learning_rate": 3e-3, "minibatch_size": 240} if rule == "ppo" else {"target_kl": 0.02}
        fields = {"env": "recall_environment:Recall-v0", "seed": 1, "network": network, "update": update}
        trainer = RLTrainer(build({"preset": rule, "rollout": {"batch_size": 960, "envs_per_runner": 8}, **fields}))
        returns[kind] = [trainer.train_iteration()["episode_return_mean"] for _ in range(60)]
        trainer.stop()
    assert np.mean(returns["lstm"][-10:]) > 0.9
    assert abs(np.mean(returns["mlp"][-20:])) < 0.15


def test_divergence_of_the_acting_policy_from_itself_is_zero():
    module = make_recurrent_module(BOX)
    batch = make_sequences(module)
    context = make_context(module)
    assert context.movement(batch, module.log_std.detach())["kl"] == pytest.approx(0, abs=1e-9)
