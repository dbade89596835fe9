"""What a bonus does to a run, on real Ray: where nothing is paid, nothing moves without one, and something with one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from quadriga.platform.experiment import build
from quadriga.policies.trainer import RLTrainer

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def trainer(request: pytest.FixtureRequest) -> Iterator[RLTrainer]:
    """Of the preset and seed that a test names, on sparse MountainCar."""
    preset, seed = request.param
    made = RLTrainer(build({"preset": preset, "env": "SparseMountainCar-v0", "seed": seed, "steps": 300_000}))
    yield made
    made.stop()


@pytest.mark.parametrize("trainer", [("ppo", 0), ("trpo", 1)], indirect=True, ids=["ppo", "trpo"])
def test_without_a_bonus_a_policy_that_was_never_paid_stays_as_it_was(trainer: RLTrainer) -> None:
    before = dict(trainer.algorithm.weights)
    rows = [trainer.train_iteration() for _ in range(3)]
    after = trainer.algorithm.weights
    assert [row["episode_return_mean"] for row in rows] == [0.0] * 3
    assert [row["kl"] for row in rows] == [0.0] * 3
    for name in before:
        if not name.startswith("normalizer."):
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)


@pytest.mark.parametrize("trainer", [("surprisal", 0), ("ppo-surprisal", 1)], indirect=True, ids=["trpo", "ppo"])
def test_with_a_bonus_it_moves_from_the_second_iteration_on(trainer: RLTrainer) -> None:
    rows = [trainer.train_iteration() for _ in range(2)]
    assert rows[0]["kl"] == 0.0, "there is no model yet"
    assert rows[1]["kl"] > 0.0


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [("ppo", 0), ("trpo", 1)], indirect=True, ids=["ppo", "trpo"])
def test_without_a_bonus_the_top_of_the_hill_is_never_found(trainer: RLTrainer) -> None:
    rows = [trainer.train_iteration()]
    while rows[-1]["env_steps"] < 300_000:
        rows.append(trainer.train_iteration())
    assert max(row["episode_return_mean"] for row in rows) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [("surprisal", 0), ("ppo-surprisal", 1)], indirect=True, ids=["trpo", "ppo"])
def test_surprisal_finds_it(trainer: RLTrainer) -> None:
    assert any(trainer.train_iteration()["episode_return_mean"] > 0 for _ in range(40))
