"""Task distributions: what is in a task, and what is refused."""

import sys

import numpy as np
import pytest
import small_images
from hypothesis import given
from hypothesis import strategies as st

from quadriga.metalearn.distributions import make_distribution
from quadriga.metalearn.image_classes import ImageTasks, Rotated
from quadriga.metalearn.networks import ConvNet
from quadriga.metalearn.sine import SineWaves
from quadriga.metalearn.tasks import custom
from quadriga.platform.errors import UserError


@given(st.integers(0, 2**31))
def test_waves_have_the_paper_s_amplitudes_and_phases(seed):
    wave = SineWaves().wave(np.random.default_rng(seed))
    assert 0.1 <= wave.amplitude <= 5 and 0 <= wave.phase <= 2 * np.pi
    x = np.linspace(-5, 5, 7, dtype=np.float32)
    np.testing.assert_allclose(wave(x), wave.amplitude * np.sin(x + wave.phase), atol=1e-5)


def test_a_training_wave_is_split_between_support_and_tail():
    task = SineWaves().sample(np.random.default_rng(0), "train", 40, 10)
    points = np.concatenate([task.support_inputs, task.query_inputs])
    np.testing.assert_array_equal(np.sort(points.ravel()), SineWaves().grid.ravel())


def test_a_test_wave_is_judged_on_the_grid():
    task = SineWaves().sample(np.random.default_rng(0), "test", 10, 1)
    assert task.support_inputs.shape == (10, 1)
    np.testing.assert_array_equal(task.query_inputs, SineWaves().grid)


@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 2), st.integers(0, 999))
def test_an_image_task_has_its_ways_and_shots_and_no_image_twice(ways, shots, queries, seed):
    tasks = small_images.tasks(ways)
    task = tasks.sample(np.random.default_rng(seed), "train", shots, queries)
    assert task.support_inputs.shape == (ways * shots, 14, 14, 1)
    assert task.query_inputs.shape == (ways * queries, 14, 14, 1)
    assert np.bincount(task.support_targets, minlength=ways).tolist() == [shots] * ways
    assert np.bincount(task.query_targets, minlength=ways).tolist() == [queries] * ways
    images = np.concatenate([task.support_inputs, task.query_inputs]).reshape(ways * (shots + queries), -1)
    assert len(np.unique(images, axis=0)) == len(images)


def test_labels_follow_the_pictures():
    glyphs = small_images.Glyphs(5, 6, 14, 0)
    tasks = ImageTasks(glyphs, glyphs, 5, ConvNet(5, 14, 1, 4), "glyphs")
    task = tasks.sample(np.random.default_rng(0), "train", 3, 1)
    for image, label in zip(task.query_inputs, task.query_targets, strict=True):
        distances = [np.abs(image.astype(int) - other).sum() for other in task.support_inputs]
        assert task.support_targets[int(np.argmin(distances))] == label


def test_turned_classes_are_new_classes():
    glyphs = small_images.Glyphs(3, 6, 14, 0)
    turned = Rotated(glyphs)
    assert len(turned.sizes()) == 12
    index = np.array([4, 1])
    for class_id in range(12):
        turns, plain = divmod(class_id, 3)
        for got, image in zip(turned.images(class_id, index), glyphs.images(plain, index), strict=True):
            np.testing.assert_array_equal(got[:, :, 0], np.rot90(image[:, :, 0], turns))


def test_more_ways_than_classes_are_refused():
    with pytest.raises(UserError, match=r"task\.ways: expected at most 12, .* got 13"):
        small_images.tasks(ways=13)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner": {"shots": 7}}, r"inner\.shots: a train class of glyphs has 6 images, a task asks for 7"),
        (
            {"evaluation": {"shots": 6}},
            r"evaluation\.shots: a test class of glyphs has 6 images, a task asks for 7, one of them to be tested on",
        ),
    ],
)
def test_more_shots_than_images_are_refused(make_experiment, fields, message):
    with pytest.raises(UserError, match=message):
        make_distribution(make_experiment("glyphs", "reptile-omniglot-5way-1shot", **fields))


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("small_images:tasks", {"wais": 3}, r"task\.options .* 'wais'"),
        ("small_images:task", {}, r"no attribute 'task'"),
        ("small_pictures:tasks", {}, r"No module named 'small_pictures'"),
        ("small_images", {}, r"expected package\.module:name, got 'small_images'"),
        ("builtins:list", {}, r"what it makes has no loss, network, sample, check"),
    ],
)
def test_a_factory_that_makes_no_distribution_is_refused(factory, options, message):
    with pytest.raises(UserError, match=message):
        custom(factory, options)


def test_more_points_than_a_wave_has_are_refused(make_experiment):
    with pytest.raises(UserError, match=r"inner\.shots: a sine task has 50 points, got 51"):
        make_distribution(make_experiment(inner={"shots": 51}))


def test_a_distribution_of_one_s_own_is_made_of_its_options():
    made = custom("small_images:tasks", {"ways": 4})
    assert made.sample(np.random.default_rng(0), "test", 1, 1).support_targets.tolist() == [0, 1, 2, 3]
    assert "small_images" in sys.modules
