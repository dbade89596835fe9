"""Several learners and runners on real Ray do what one does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.core import DEFAULT_MODULE_ID
from small_trainers import LEARNING_PROGRESS, SAFE_SURPRISAL, VIME, Trainers, assert_identical

from quadriga.platform.errors import WorkersLost

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.parametrize(
    ("env_runners", "rule", "tolerance"),
    [
        (0, {"update": {"minibatch_size": 400, "epochs": 2}}, 2e-5),
        pytest.param(
            2,
            {"preset": "trpo-pid", "update": {"kind": "trpo", "critic_minibatch_size": 400, "critic_epochs": 2}},
            1e-5,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2,
            {"preset": "cpo", "update": {"kind": "cpo", "critic_minibatch_size": 400, "critic_epochs": 2}},
            1e-5,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["ppo", "trpo", "cpo"],
)
def test_two_learners_give_the_update_of_one(
    make_trainer: Trainers, env_runners: int, rule: dict[str, Any], tolerance: float
) -> None:
    """One minibatch is the whole batch: the order of rows does not matter, only their sums.

    The first update is the same to 1e-5, the second, whose rows differ already by the first one's last bits, to
    `tolerance`.
    """
    changes = {**rule, "rollout": {"env_runners": env_runners}}
    one, weights, rows = make_trainer(**changes), [], []
    for _ in range(2):
        row = one.train_iteration()
        weights.append({name: np.array(value) for name, value in one.algorithm.weights.items()})
    rows.append(row)
    one.stop()
    two = make_trainer(**changes, learner={"learners": 2})
    for expected, allowed in zip(weights, (1e-5, tolerance), strict=True):
        row = two.train_iteration()
        for name, value in expected.items():
            np.testing.assert_allclose(two.algorithm.weights[name], value, atol=allowed, err_msg=name)
    rows.append(row)
    for name in ("kl", "entropy", "explained_variance", "cost_explained_variance", "reward_value_loss"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-3, abs=1e-5), name
    states = two.algorithm.learner_group.foreach_learner(lambda learner: learner.module[DEFAULT_MODULE_ID].get_state())
    first, second = (result.get() for result in states)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(SAFE_SURPRISAL, id="safe-surprisal"),
        pytest.param(LEARNING_PROGRESS, id="learning-progress", marks=pytest.mark.slow),
        pytest.param(VIME, id="vime", marks=pytest.mark.slow),
    ],
)
def test_a_model_is_the_same_on_every_learner_and_its_bonus_on_every_runner(
    make_trainer: Trainers, rule: dict[str, Any]
) -> None:
    trainer = make_trainer(**rule, rollout={"env_runners": 2}, learner={"learners": 2})
    rows = [trainer.train_iteration() for _ in range(3)]
    states = trainer.algorithm._bonus_states()
    first, second = (states[index]["fit"] for index in (0, 1))
    for name in ("parameters", "scales"):
        assert_identical(first[name], second[name])
    assert first["replay"]["size"] + second["replay"]["size"] == 1200
    # Progress takes two models, surprisal one.
    begins = 2 if rule is LEARNING_PROGRESS else 1
    assert [row["bonus_mean"] != 0 for row in rows] == [t >= begins for t in range(3)]
    assert rule is VIME or rows[-1]["dynamics_kl"] <= 1e-3
    with pytest.raises(WorkersLost, match="stopped at env step 1200: a learner died"):  # the second, not the first
        trainer.algorithm._load_bonus_states({0: states[0]})


def test_normalizer_is_exact_over_all_runners(make_trainer: Trainers) -> None:
    trainer = make_trainer(rollout={"env_runners": 2})
    trainer.train_iteration()
    weights = trainer.algorithm.weights
    assert weights["normalizer.count"] == 400
    assert weights["normalizer.sample_mean"][0] == pytest.approx(0.45)
    assert weights["normalizer.m2"][0] / 400 == pytest.approx(np.var(np.arange(10) / 10))
