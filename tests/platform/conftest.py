"""A small line of work, so that the platform is tested without any of the real ones."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import hypothesis
import pytest
import walk_site
from pydantic import Field, model_validator

from quadriga.platform import lines
from quadriga.platform.experiment import Experiment, Section
from quadriga.platform.lines import Line, Preset

# A time limit an example would fail on a busy machine; speed is no test's business.
hypothesis.settings.register_profile("quadriga", deadline=None)
hypothesis.settings.load_profile("quadriga")


class ToyTask(Section):
    """What is learned."""

    id: Annotated[str, Field(min_length=1)]
    difficulty: Annotated[float, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _fixed_is_fixed(self) -> Self:
        if self.id == "Fixed-v0" and self.difficulty != 0.5:
            raise ValueError("Fixed-v0 has no difficulty")
        return self


class NoBrake(Section):
    """No constraint."""

    kind: Literal["none"] = "none"


class FixedBrake(Section):
    """A fixed multiplier."""

    kind: Literal["fixed"] = "fixed"
    strength: Annotated[float, Field(ge=0)] = 1.0
    limit: Annotated[float, Field(ge=0)] = 25.0


class AdaptiveBrake(Section):
    """A multiplier that adapts."""

    kind: Literal["adaptive"] = "adaptive"
    gain: Annotated[float, Field(gt=0)] = 0.1
    limit: Annotated[float, Field(ge=0)] = 25.0


class ToyExperiment(Experiment):
    """Learns nothing."""

    SHORTHAND: ClassVar[Mapping[str, str]] = {"task": "id", "brake": "kind"}

    steps: Annotated[int, Field(gt=0)] = 1000
    task: ToyTask = ToyTask(id="Toy-v0")
    brake: Annotated[NoBrake | FixedBrake | AdaptiveBrake, Field(discriminator="kind")] = NoBrake()
    hidden: Annotated[tuple[int, ...], Field(min_length=1)] = (64, 64)
    mode: Literal["fast", "exact"] = "fast"
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    patience: Annotated[int | None, Field(ge=1)] = None

    @model_validator(mode="after")
    def _exact_is_deep(self) -> Self:
        if self.mode == "exact" and len(self.hidden) < 2:
            raise ValueError("mode exact needs two hidden layers")
        return self


class ToyTrainer:
    """Counts to the end."""

    def __init__(self, experiment: ToyExperiment) -> None:
        self.experiment, self.steps = experiment, 0

    def train_iteration(self) -> dict[str, float]:
        self.steps += 100
        return {"env_steps": self.steps, "episode_return_mean": self.steps / 10}

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        return (metrics["episode_return_mean"],)

    def save(self, folder: Path) -> None:
        (folder / "steps.txt").write_text(str(self.steps))

    def restore(self, folder: Path) -> None:
        self.steps = int((folder / "steps.txt").read_text())

    def stop(self) -> None: ...


def _evaluate(experiment: ToyExperiment, checkpoint: Path, request: Any) -> Mapping[str, Sequence[float]]:
    return {"return": [1.0] * request.episodes}


def _reference(experiment: ToyExperiment, metric: str) -> float | None:
    limit: float | None = getattr(experiment.brake, "limit", None)
    return limit if metric == "episode_cost_mean" else None


TOY = Line(
    name="toy",
    summary="a line for tests",
    experiment=ToyExperiment,
    presets={
        "toy": Preset("nothing special", "nowhere"),
        "toy-fixed": Preset(
            "a fixed brake", "nowhere", {"brake": {"kind": "fixed", "strength": 2.0}, "learning_rate": 1e-3}
        ),
        "toy-adaptive": Preset("an adaptive brake", "nowhere", {"brake": "adaptive"}),
    },
    make_trainer=ToyTrainer,
    evaluate=_evaluate,
    step_metric="env_steps",
    task=lambda experiment: str(experiment.task.id),
    curves={"episode_return_mean": "Return", "episode_cost_mean": "Cost", "lagrange_multiplier": "Multiplier"},
    reference=_reference,
    headline=("episode_return_mean",),
)


@pytest.fixture
def toy_line(monkeypatch: pytest.MonkeyPatch) -> Line:
    """The toy line, as the only one installed."""
    monkeypatch.setattr(lines, "all_lines", lambda: {"toy": TOY})
    monkeypatch.setattr(lines, "broken_lines", dict)
    return TOY


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def walk_line(monkeypatch: pytest.MonkeyPatch) -> Line:
    """The line of `walk_line.py`, which can be trained and resumed, as the only one installed."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    line: Line = importlib.import_module("walk_line").LINE
    monkeypatch.setattr(lines, "all_lines", lambda: {"walk": line})
    monkeypatch.setattr(lines, "broken_lines", dict)
    return line


@pytest.fixture
def walk_package(tmp_path: Path) -> dict[str, str]:
    """An environment for subprocesses in which the line of `walk_line.py` is installed, by its entry point."""
    site = walk_site.install(tmp_path / "site")
    return {**os.environ, "PYTHONPATH": str(site)}
