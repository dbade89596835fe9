"""The model of the dynamics: its densities, its updates, and what it comes to know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quadriga.policies.dynamics import LOG_STD_MIN, Bits, Gaussian, Likelihood, Scales, Snapshot, features
from quadriga.policies.dynamics_fit import DynamicsFit, Member, ModelFisher, Replay
from quadriga.policies.experiment import BayesianSettings, DynamicsSettings

KINDS = [Gaussian, Bits]


def alone(values: np.ndarray) -> np.ndarray:
    """The sum over one learner."""
    return values


def outputs_and_targets(kind: type[Likelihood], rows: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((rows, kind.outputs(2)))
    targets = rng.standard_normal((rows, 2)) if kind is Gaussian else rng.integers(0, 2, (rows, 16)).astype(np.float64)
    return outputs, targets


def torch_distribution(kind: type[Likelihood], outputs: np.ndarray) -> torch.distributions.Distribution:
    x = torch.from_numpy(outputs)
    if kind is Bits:
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=x), 1)
    log_std = LOG_STD_MIN + torch.nn.functional.softplus(x[:, 2:] - LOG_STD_MIN)
    return torch.distributions.Independent(torch.distributions.Normal(x[:, :2], log_std.exp()), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_densities_and_divergences_are_torch_s(kind: type[Likelihood]) -> None:
    outputs, targets = outputs_and_targets(kind)
    other = outputs_and_targets(kind, seed=1)[0]
    mine, reference = kind.log_prob(outputs, targets), torch_distribution(kind, outputs)
    np.testing.assert_allclose(mine, reference.log_prob(torch.from_numpy(targets)).numpy(), rtol=1e-10)
    kl = torch.distributions.kl_divergence(reference, torch_distribution(kind, other)).numpy()
    np.testing.assert_allclose(kind.kl(outputs, other), kl, rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_slope_is_the_derivative_and_metric_the_curvature_of_the_divergence(kind: type[Likelihood], seed: int) -> None:
    outputs, targets = outputs_and_targets(kind, 3, seed)
    h = 1e-4
    for k in range(outputs.shape[1]):
        step = np.zeros_like(outputs)
        step[:, k] = h
        slope = -(kind.log_prob(outputs + step, targets) - kind.log_prob(outputs - step, targets)) / (2 * h)
        np.testing.assert_allclose(kind.slope(outputs, targets)[:, k], slope, rtol=1e-4, atol=1e-5)
        curvature = (kind.kl(outputs, outputs + step) + kind.kl(outputs, outputs - step)) / h**2
        np.testing.assert_allclose(kind.metric(outputs)[:, k], curvature, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_products_with_the_model_s_fisher_matrix_are_those_of_its_definition(kind: type[Likelihood]) -> None:
    torch.manual_seed(0)
    member = Member([5, 7, kind.outputs(2)], DynamicsSettings(hidden_sizes=(7,)), kind)
    inputs = np.random.default_rng(1).standard_normal((40, 5)).astype(np.float32)
    v = np.random.default_rng(2).standard_normal(member.flat.vector.numel())
    fisher = ModelFisher(member.network, kind)
    fisher.linearize(inputs)
    jacobian = torch.autograd.functional.jvp(
        lambda *p: torch.func.functional_call(
            member.network, dict(zip(dict(member.network.named_parameters()), p, strict=True)), torch.from_numpy(inputs)
        ),
        tuple(member.network.parameters()),
        tuple(
            torch.from_numpy(part).float().view_as(p)
            for part, p in zip(
                np.split(v, np.cumsum([p.numel() for p in member.network.parameters()])[:-1]),
                member.network.parameters(),
                strict=True,
            )
        ),
    )
    outputs, tangent = (each.detach().double().numpy() for each in jacobian)
    assert v @ fisher.product(v) == pytest.approx((kind.metric(outputs) * tangent**2).sum(), rel=1e-4)


def linear_system(rows: int, seed: int, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((rows, 2)).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, 1)).astype(np.float32)
    drift = states @ np.array([[-0.1, 0.2], [-0.2, -0.1]], np.float32) + actions @ np.array([[0.0, 0.3]], np.float32)
    return states, actions, states + drift + noise * rng.standard_normal((rows, 2)).astype(np.float32)


def make_fit(**changes: object) -> DynamicsFit:
    chosen = {"hidden_sizes": (32,), "batch_size": 2000, "target_kl": 0.05, "fisher_fraction": 1.0, **changes}
    return DynamicsFit(DynamicsSettings(**chosen), dim=2, num_actions=None, act_dim=1, likelihood="gaussian", seed=0)


def snapshot(fit: DynamicsFit) -> Snapshot:
    return Snapshot(fit.arrays(), "gaussian", "tanh", None)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "updates": 30, "learning_rate": 3e-3}, {"ensemble": 2}])
def test_surprisal_of_a_linear_gaussian_system_tends_to_its_entropy_and_the_divergence_to_0(changes: dict) -> None:
    fit, noise = make_fit(**changes), 0.1
    for t in range(40):
        fit.update(*linear_system(1000, t, noise), alone, np.random.default_rng(t))
    states, actions, next_states = linear_system(20000, 1000, noise)
    model = snapshot(fit)
    surprisal = -(model.log_prob(states, actions, next_states) - model.log_volume())
    entropy = 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(noise))
    truth = linear_system(20000, 1000, 0.0)[2]
    true_surprisal = 0.5 * np.square((next_states - truth) / noise).sum(1) + np.log(2 * np.pi * noise**2)
    assert true_surprisal.mean() == pytest.approx(entropy, abs=0.03)
    # The mean excess over the true surprisal is the divergence of the truth from the model.
    assert -0.01 < (surprisal - true_surprisal).mean() < 0.05


@given(seed=st.integers(0, 100), kappa=st.sampled_from([1e-4, 1e-3, 1e-2]))
@settings(max_examples=10, deadline=None)
def test_an_update_never_exceeds_kappa(seed: int, kappa: float) -> None:
    fit = make_fit(target_kl=kappa, batch_size=300)
    moved = []
    for t in range(4):
        metrics = fit.update(*linear_system(300, seed + t), alone, np.random.default_rng(seed + t))
        assert 0 <= metrics["dynamics_kl"] <= kappa
        moved.append(metrics["dynamics_kl"])
    assert max(moved) > 0.2 * kappa


def test_actions_without_bounds_are_seen_as_they_are_drawn() -> None:
    bounds = np.array([-1.0, -np.inf, 0.0], np.float32), np.array([1.0, np.inf, np.inf], np.float32)
    fit = DynamicsFit(
        DynamicsSettings(hidden_sizes=(8,)),
        dim=1,
        num_actions=None,
        act_dim=3,
        likelihood="gaussian",
        seed=0,
        action_bounds=bounds,
    )
    rows = np.zeros((2, 1), np.float32), np.array([[5, 5, 5], [-5, -5, -5]], np.float32)
    assert features(*rows, fit.arrays(), None)[:, -3:].tolist() == [[1, 5, 5], [-1, -5, 0]]
    assert features(*rows, make_fit().arrays(), None)[:, -3:].tolist() == [[1, 1, 1], [-1, -1, -1]]


def test_an_update_lowers_the_loss_on_its_rows() -> None:
    member = Member([3, 16, 4], DynamicsSettings(target_kl=0.01), Gaussian)
    states, actions, next_states = linear_system(500, 0)
    scales = Scales.empty(2).arrays()
    inputs, targets = features(states, actions, scales, None), Gaussian.targets(states, next_states, scales)
    losses = [member.descend(inputs, targets, alone, np.random.default_rng(0), 500)["dynamics_loss"] for _ in range(5)]
    assert (np.diff(losses) < 0).all()


def test_learning_progress_ends_on_what_is_known_and_not_on_what_is_new() -> None:
    fit, kept = make_fit(), []
    far = (*(x := linear_system(1000, 5))[:1], *x[1:])
    far = (x[0] + 4, x[1], x[2] + 4 + 0.5 * np.sin(3 * x[0]))  # another motion, elsewhere
    for t in range(40):
        fit.update(*linear_system(1000, t), alone, np.random.default_rng(t))
        kept.append(snapshot(fit))

    def progress(now: Snapshot, before: Snapshot, rows: tuple) -> float:
        return float((now.log_prob(*rows) - now.log_volume() - before.log_prob(*rows) + before.log_volume()).mean())

    known = progress(kept[-1], kept[-6], linear_system(5000, 99))
    for t in range(5):
        fit.update(*far, alone, np.random.default_rng(t))
    new = progress(snapshot(fit), kept[-1], far)
    assert abs(known) < 0.02
    assert new > 0.5


def test_noise_that_cannot_be_learned_draws_surprisal_but_no_learning_progress() -> None:
    """The noisy television: where the first number is positive, the second one of the next state is noise."""
    fit, kept = make_fit(batch_size=3000), []

    def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        states, actions = rng.standard_normal((count, 2)), rng.uniform(-1, 1, (count, 1))
        channel = rng.standard_normal((count, 2)) * np.where(states[:, :1] > 0, 1.0, 0.05)
        return states.astype(np.float32), actions.astype(np.float32), (states + channel).astype(np.float32)

    for t in range(60):
        fit.update(*rows(1500, t), alone, np.random.default_rng(t))
        kept.append(snapshot(fit))
    fresh = rows(20000, 1000)
    noisy, now, before = fresh[0][:, 0] > 0.5, kept[-1], kept[-6]
    surprisal = -now.log_prob(*fresh)
    progress = surprisal * -1 - now.log_volume() - before.log_prob(*fresh) + before.log_volume()
    assert surprisal[noisy].mean() > surprisal[fresh[0][:, 0] < -0.5].mean() + 3
    assert abs(progress[noisy].mean()) < 0.05


def test_ram_bytes_that_never_change_are_no_surprise() -> None:
    rng = np.random.default_rng(0)
    ram = np.tile(rng.integers(0, 256, 6, dtype=np.uint8), (2000, 1))
    ram[:, 0] = rng.integers(0, 256, 2000)  # and one that nobody can know
    states = (ram[:-1] / 255).astype(np.float32)
    next_states, actions = (ram[1:] / 255).astype(np.float32), rng.integers(0, 3, 1999)
    chosen = DynamicsSettings(hidden_sizes=(16,), batch_size=1000, target_kl=0.3, fisher_fraction=1.0)
    fit = DynamicsFit(chosen, dim=6, num_actions=3, act_dim=3, likelihood="bits", seed=0)
    for t in range(60):
        fit.update(states, actions, next_states, alone, np.random.default_rng(t))
    surprisal = -Snapshot(fit.arrays(), "bits", "tanh", 3).log_prob(states, actions, next_states)
    assert surprisal.min() >= 0
    assert surprisal.mean() == pytest.approx(8 * np.log(2), abs=0.6)


def ram_rows(rows: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """128 bytes as a game's: one counts up, one is noise, all others stand still."""
    rng = np.random.default_rng(0)
    ram = np.tile(rng.integers(0, 256, 128, dtype=np.uint8), (rows + 1, 1))
    ram[:, 0] = np.arange(rows + 1)
    ram[:, 1] = rng.integers(0, 256, rows + 1)
    states = (ram / np.float32(255)).astype(np.float32)
    return states[:-1], rng.integers(0, 3, rows), states[1:]


def ram_fit(chosen: DynamicsSettings | BayesianSettings | None = None, seed: int = 0) -> DynamicsFit:
    return DynamicsFit(chosen or DynamicsSettings(), dim=128, num_actions=3, act_dim=3, likelihood="bits", seed=seed)


def test_a_model_of_ram_knows_after_one_batch_which_bits_stand_still() -> None:
    states, actions, next_states = ram_rows()
    fit = ram_fit()
    fit.update(states, actions, next_states, alone, np.random.default_rng(0))
    model = Snapshot(fit.arrays(), "bits", "tanh", 3)
    known = -model.log_prob(states, actions, next_states)
    # Bit k of the counter flips every 2^k-th time, of the noise each flips half of the time.
    entropy = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in 0.5 ** np.arange(1, 8)]
    assert known.mean() == pytest.approx(8 * np.log(2) + sum(entropy), abs=1.0)
    new = next_states.copy()
    new[:, 50] = ((np.rint(new[:, 50] * 255).astype(np.uint8) ^ 4) / np.float32(255)).astype(np.float32)
    assert (-model.log_prob(states, actions, new) - known).min() > 8.0


def test_two_learners_begin_where_one_does() -> None:
    states, _, next_states = ram_rows(1000)
    sums: list[np.ndarray] = []

    def noted(values: np.ndarray) -> np.ndarray:
        sums.append(values)
        return values

    def biases(rows: slice, total: Any) -> np.ndarray:
        fit = ram_fit()
        fit._begin(states[rows], next_states[rows], total)
        found: np.ndarray = fit.members[0].network.biases[-1].detach().numpy()
        return found

    one = biases(slice(None), alone)
    for rows in (slice(0, 300), slice(300, 1000)):
        assert not np.array_equal(biases(rows, noted), one)
    np.testing.assert_array_equal(biases(slice(0, 300), lambda values: sums[0] + sums[1]), one)


@pytest.mark.parametrize("chosen", [DynamicsSettings(), BayesianSettings(updates=3)])
def test_a_model_of_ram_that_was_loaded_learns_as_the_one_that_was_saved(
    chosen: DynamicsSettings | BayesianSettings,
) -> None:
    fits = [ram_fit(chosen, seed) for seed in (0, 1)]
    rows = ram_rows(500)
    fits[0].update(*rows, alone, np.random.default_rng(0))
    fits[1].load(fits[0].state())
    for fit in fits:
        fit.update(*rows, alone, np.random.default_rng(1))
    for name, value in fits[0].arrays().items():
        np.testing.assert_array_equal(fits[1].arrays()[name], value, err_msg=name)


def test_a_snapshot_is_the_learner_s_network() -> None:
    fit = make_fit(ensemble=2)
    rows = linear_system(200, 0)
    fit.update(*rows, alone, np.random.default_rng(0))
    arrays = fit.arrays()
    inputs, targets = features(rows[0], rows[1], arrays, None), Gaussian.targets(rows[0], rows[2], arrays)
    with torch.no_grad():
        each = [Gaussian.log_prob(m.network(torch.from_numpy(inputs)).numpy(), targets) for m in fit.members]
    expected = np.log(np.mean(np.exp(np.array(each, np.float64)), axis=0))
    np.testing.assert_allclose(snapshot(fit).log_prob(*rows), expected, rtol=1e-3, atol=1e-3)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_a_replay_holds_the_latest_transitions(sizes: list[int]) -> None:
    replay, seen = Replay(7), np.arange(sum(sizes))
    for rows in np.split(seen, np.cumsum(sizes)[:-1]):
        replay.add(rows, rows, rows)
    assert sorted(replay.columns[0][: replay.size]) == seen[-7:].tolist()
    again = Replay(7)
    again.load(replay.state())
    again.add(np.array([99]), np.array([99]), np.array([99]))
    assert 99 in again.columns[0][: again.size]
    assert again.size == min(7, len(seen) + 1)


def test_a_model_continues_from_its_state_bit_by_bit() -> None:
    whole, resumed = make_fit(optimizer="adam"), make_fit(optimizer="adam")
    for t in range(3):
        whole.update(*linear_system(100, t), alone, np.random.default_rng(t))
    resumed.load(whole.state())
    for fit in (whole, resumed):
        fit.update(*linear_system(100, 9), alone, np.random.default_rng(9))
    for name, value in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], value)
