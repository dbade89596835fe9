"""Trainers that end with the test that made them."""

from collections.abc import Iterator

import pytest
from small_trainers import Trainers


@pytest.fixture
def make_trainer() -> Iterator[Trainers]:
    trainers = Trainers()
    yield trainers
    for trainer in trainers.made:
        trainer.stop()
