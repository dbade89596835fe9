"""Settings of the property tests, and small experiments that need no data."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest

from quadriga.metalearn.experiment import MetaExperiment
from quadriga.platform import experiment as experiments

# A time limit an example would fail on a busy machine; speed is no test's business.
hypothesis.settings.register_profile("quadriga", deadline=None)
hypothesis.settings.load_profile("quadriga")


@pytest.fixture
def make_experiment():
    """Builds an experiment of small tasks: sine waves, or a few drawn characters with `task="glyphs"`."""

    def make(task: str = "sine", preset: str = "sine", **fields: Any) -> MetaExperiment:
        given: dict[str, Any] = {"preset": preset, "steps": 6, "report_every": 3, "evaluation": {"tasks": 4}}
        if task == "sine":
            given["task"] = {"kind": "sine", "hidden": [8, 8]}
            given["inner"] = {"shots": 20}
        else:
            given["task"] = {"kind": "custom", "factory": "small_images:tasks", "options": {"ways": 3}}
            given["inner"] = {"shots": 4, "batch_size": 6}
            given["evaluation"] |= {"shots": 1, "steps": 3}
        return experiments.build(experiments.merged(given, fields))  # type: ignore[return-value]

    return make
