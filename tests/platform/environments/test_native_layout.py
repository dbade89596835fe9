"""Layouts and goals are drawn as safety-gymnasium's own generator draws them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadriga.platform.environments import safety_gymnasium
from quadriga.platform.environments.safety_layout import BLOCK, Draws, LayoutSampler, NoPlace
from quadriga.platform.environments.safety_tasks import find_task, task_ids


def generator_of(task, seed):
    safety_gymnasium.load()
    from safety_gymnasium.utils.random_generator import RandomGenerator

    names = ["agent", *(name for obstacle in task.obstacles for name in obstacle.names)]
    generator = RandomGenerator()
    generator.set_random_seed(seed)
    placements = {name: (None, keepout) for name, keepout in zip(names, task.keepouts, strict=True)}
    square = [-task.extent, -task.extent, task.extent, task.extent]
    generator.set_placements_info(placements, square, 0.0)
    return generator, names


def same_position(random, other):
    ours, theirs = random.get_state(legacy=False)["state"], other.get_state(legacy=False)["state"]
    return ours["pos"] == theirs["pos"] and np.array_equal(ours["key"], theirs["key"])


@pytest.mark.parametrize("id", [id for id in task_ids() if "Doggo" in id and "Button" not in id])
@pytest.mark.parametrize("seed", range(5))
def test_layout_then_goal_are_the_package_s_and_leave_the_same_random_numbers(id, seed):
    task = find_task(id)
    generator, names = generator_of(task, seed)
    expected = generator.build_layout()
    random = np.random.RandomState(seed)
    sampler = LayoutSampler(task.extent, task.keepouts)
    places = sampler.layout(random)
    np.testing.assert_array_equal(places, [expected[name] for name in names])
    assert same_position(random, generator.random_generator)

    goal = names.index("goal")
    others = np.array([n for n in range(len(names)) if n != goal])
    del generator.layout["goal"]
    while not generator.sample_goal_position():
        pass
    assert sampler.goal(random, goal, others, places[others]) == tuple(generator.layout["goal"])
    assert same_position(random, generator.random_generator)


def test_crowded_layout_is_the_package_s():
    task = find_task("SafetyPointButton1-v0")
    generator, names = generator_of(task, 4)
    expected = generator.build_layout()
    random = np.random.RandomState(4)
    places = LayoutSampler(task.extent, task.keepouts).layout(random)
    np.testing.assert_array_equal(places, [expected[name] for name in names])
    assert same_position(random, generator.random_generator)


def test_things_that_do_not_fit_are_refused():
    sampler = LayoutSampler(1.0, np.array([0.9, 0.9]))
    with pytest.raises(NoPlace, match="layout"):
        sampler.layout(np.random.RandomState(0))
    with pytest.raises(NoPlace, match="goal"):
        sampler.goal(np.random.RandomState(0), 0, np.array([1]), np.zeros((1, 2)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2 * BLOCK), max_size=8), st.integers(0, 2**32 - 1))
def test_numbers_taken_in_blocks_are_those_drawn_one_by_one(counts, seed):
    random, other = np.random.RandomState(seed), np.random.RandomState(seed)
    draws = Draws(random)
    for count in counts:
        seen = draws.peek(count + 3)[:count].copy()
        draws.take(count)
        np.testing.assert_array_equal(seen, other.random_sample(count))
    draws.close()
    assert same_position(random, other)
