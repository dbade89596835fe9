"""The literature's accuracies beside a run's: of the same task and algorithm, or none."""

import pytest

from quadriga.metalearn.line import LINE
from quadriga.metalearn.presets import PRESETS
from quadriga.platform import experiment as experiments


def published(preset, metric="query_accuracy", **fields):
    return LINE.published(experiments.build({"preset": preset, **fields}), metric)


@pytest.mark.parametrize(
    ("preset", "accuracy"),
    [
        ("reptile-omniglot-5way-1shot", 0.9768),
        ("reptile-omniglot-20way-5shot", 0.9712),
        ("fomaml-omniglot-20way-1shot", 0.894),
        ("maml-mini-imagenet-5way-1shot", 0.4870),
    ],
)
def test_a_preset_s_accuracy_is_the_paper_s(preset, accuracy):
    assert list(published(preset).values()) == [pytest.approx(accuracy)]


def test_every_preset_on_images_has_one():
    for preset in PRESETS:
        if "omniglot" in preset or "mini-imagenet" in preset:
            assert len(published(preset)) == 1, preset


def test_another_task_or_metric_has_none():
    assert published("sine") == published("reptile-omniglot-5way-1shot", "inner_loss") == {}
    assert published("reptile-omniglot-5way-1shot", task={"ways": 7}) == {}
