"""The native navigation tasks give the episodes of safety-gymnasium 1.0.0."""

import pytest
from safety_pairs import assert_identical, play_side_by_side

from quadriga.platform.environments.safety_tasks import task_ids

BENCHMARK = [
    f"Safety{agent}{task}{level}-v0"
    for agent in ("Point", "Car", "Doggo")
    for task in ("Goal", "Button", "Push")
    for level in (1, 2)
]


def needs_a_lift(id):
    """A doggo does not walk by chance, and pushing a box to the goal takes practice."""
    return "Doggo" in id or "Push" in id or "Ant" in id


@pytest.mark.parametrize("id", BENCHMARK)
def test_benchmark_task_gives_the_same_episodes(id):
    assert_identical(play_side_by_side(id, [11], 40, max_episode_steps=30, teleport_every=6))


def test_goals_and_costs_that_a_driver_meets_are_the_same():
    seen = play_side_by_side("SafetyPointButton1-v0", [0, 1], 200, max_episode_steps=190)
    assert_identical(seen)
    assert seen.goals > 0
    assert seen.costs > 0


def test_ant_that_falls_ends_the_same_episodes():
    seen = play_side_by_side("SafetyAntGoal2-v0", [0, 1], 60, max_episode_steps=50, teleport_every=10)
    assert_identical(seen)
    assert seen.terminations > 0


def test_box_that_arrives_is_rewarded_the_same():
    seen = play_side_by_side("SafetyCarPush2-v0", [5, 6], 150, max_episode_steps=140, teleport_every=5)
    assert_identical(seen)
    assert seen.goals > 0


@pytest.mark.slow
@pytest.mark.parametrize("id", BENCHMARK)
def test_benchmark_task_gives_the_same_episodes_for_twenty_seeds(id):
    seeds = list(range(100, 120))
    seen = play_side_by_side(id, seeds, 260, max_episode_steps=200, teleport_every=9 if needs_a_lift(id) else None)
    print(id, seen)
    assert_identical(seen)
    assert seen.steps == 20 * 260
    assert seen.ends >= 20
    assert seen.goals > 0
    assert seen.costs > 0


@pytest.mark.slow
@pytest.mark.parametrize("id", [id for id in task_ids() if id not in BENCHMARK])
def test_every_other_task_gives_the_same_episodes(id):
    seen = play_side_by_side(id, [3, 4, 5], 130, max_episode_steps=100, teleport_every=10)
    print(id, seen)
    assert_identical(seen)


@pytest.mark.slow
def test_whole_episode_and_the_next_are_the_same():
    seen = play_side_by_side("SafetyCarGoal2-v0", [1, 2], 1300)
    assert_identical(seen)
    assert seen.goals > 5
