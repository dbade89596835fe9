"""A line of work that a test can train in milliseconds: noisy descent on a quadratic, with all the state of a real one.

Weights, a momentum, a normalizer's statistics and a random stream: forget one on resume and the
continued run is another run. Switches in the experiment make it fail in the ways real runs do.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from quadriga.platform.errors import TrainingStopped, UserError, WorkersLost, unknown
from quadriga.platform.experiment import Experiment, Section
from quadriga.platform.lines import EvaluationRequest, Line, Preset
from quadriga.platform.suites import Benchmark, Measure, Publication, Suite, at_the_end, last

BATCH = 1000
ENVIRONMENTS = ("Bowl-v0", "Trough-v0")


class Env(Section):
    """Where the minimum lies."""

    id: Annotated[str, Field(min_length=1)] = "Bowl-v0"
    dim: Annotated[int, Field(ge=1)] = 3


class Faults(Section):
    """What goes wrong, and in which iteration."""

    nan_at: int | None = None
    raise_at: int | None = None
    defect_at: int | None = None
    lost_at: Annotated[int | None, Field(description="unless it goes on from a checkpoint")] = None
    interrupt_at: int | None = None
    signal: str = "SIGINT"
    interrupt_twice: bool = False


class WalkExperiment(Experiment):
    """Noisy descent on a quadratic; `steps` counts gradient samples."""

    SHORTHAND: ClassVar[Mapping[str, str]] = {"env": "id"}

    steps: Annotated[int, Field(gt=0)] = 20_000
    env: Env = Env()
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    pause: Annotated[float, Field(ge=0, description="seconds that an iteration rests")] = 0.0
    faults: Faults = Faults()


class WalkTrainer:
    """Momentum descent towards 1 with a normalized noisy gradient."""

    def __init__(self, experiment: WalkExperiment) -> None:
        if experiment.env.dim > 1000:
            raise UserError(f"environment 'Bowl-v0' cannot be made: {experiment.env.dim} dimensions")
        self.experiment = experiment
        self.rng = np.random.default_rng(experiment.seed)
        self.x = self.rng.normal(size=experiment.env.dim)
        self.momentum = np.zeros_like(self.x)
        self.scale = 1.0
        self.steps = 0
        self.stopped = 0
        self.restored = False

    def train_iteration(self) -> dict[str, float]:
        faults, iteration = self.experiment.faults, self.steps // BATCH + 1
        time.sleep(self.experiment.pause)
        if iteration == faults.interrupt_at:
            for _ in range(1 + faults.interrupt_twice):
                signal.raise_signal(getattr(signal, faults.signal))
        if iteration == faults.nan_at:
            raise TrainingStopped("the loss is NaN")
        if iteration == faults.raise_at:
            raise UserError("environment Bowl-v0 number 3 raised OSError: no bowl")
        if iteration == faults.lost_at and not self.restored:
            raise WorkersLost("all env runners are gone")
        if iteration == faults.defect_at:
            raise ZeroDivisionError("a defect")
        gradient = (self.x - 1) + self.rng.normal(size=(BATCH, self.x.size)).mean(axis=0)
        self.scale = 0.9 * self.scale + 0.1 * float(np.linalg.norm(gradient))
        self.momentum = 0.9 * self.momentum - self.experiment.learning_rate * gradient / self.scale
        self.x = self.x + self.momentum
        self.steps += BATCH
        distance = float(np.linalg.norm(self.x - 1))
        return {
            "env_steps": self.steps,
            "episode_return_mean": -distance,
            "episode_cost_mean": math.nan if iteration == 1 else distance / 2,
        }

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        return (metrics["episode_return_mean"],)

    def save(self, folder: Path) -> None:
        np.savez(folder / "arrays.npz", x=self.x, momentum=self.momentum)
        state = {"steps": self.steps, "scale": self.scale, "rng": self.rng.bit_generator.state}
        (folder / "state.json").write_text(json.dumps(state))

    def restore(self, folder: Path) -> None:
        arrays = np.load(folder / "arrays.npz")
        self.x, self.momentum = arrays["x"], arrays["momentum"]
        state = json.loads((folder / "state.json").read_text())
        self.steps, self.scale = state["steps"], state["scale"]
        self.rng.bit_generator.state = state["rng"]
        self.restored = True

    def stop(self) -> None:
        self.stopped += 1


def _check(experiment: WalkExperiment) -> None:
    if experiment.env.id not in ENVIRONMENTS:
        raise unknown("environment", experiment.env.id, ENVIRONMENTS)


def evaluate(experiment: WalkExperiment, checkpoint: Path, request: EvaluationRequest) -> Mapping[str, Sequence[float]]:
    """Distances of noisy copies of the saved point; the same ones for the same seed."""
    x = np.load(checkpoint / "arrays.npz")["x"]
    rng = np.random.default_rng(request.seed)
    noise = 0.1 * rng.normal(size=(request.episodes, x.size)) * (1 if request.deterministic else 10)
    if request.video is not None:
        request.video.write_bytes(b"film" + bytes(experiment.seed))
    distances = np.linalg.norm(x + noise - 1, axis=1)
    return {"return": (-distances).tolist(), "cost": (distances / 2).tolist(), "length": [5.0] * request.episodes}


def _reference(experiment: Any, metric: str) -> float | None:
    return 0.5 if metric == "episode_cost_mean" else None


BOWL = Benchmark(
    "how near the bottom a walk ends",
    "nobody",
    suites={
        "small": Suite(
            "one bowl",
            ["Bowl-v0"],
            {"walk": {"preset": "walk"}, "walk-fast": {"preset": "walk-fast"}},
            5_000,
            axis="learning_rate",
        )
    },
    measures={
        "return": Measure("return", at_the_end("episode_return_mean", 0.4)),
        "cost": Measure("cost", last("episode_cost_mean"), better="lower"),
    },
    normalised={"return": "return / half"},
    normalise=lambda task, measures: {"return": measures["return"] / 0.5},
    normalised_by="a half",
    published=[Publication("Robbins", "1951", {"Bowl-v0": {"walk": {"return": (-0.1, 0.01)}}})],
)

LINE = Line(
    name="walk",
    summary="descent on a quadratic",
    experiment=WalkExperiment,
    presets={
        "walk": Preset("noisy descent", "Robbins and Monro 1951"),
        "walk-fast": Preset("noisy descent in leaps", "nobody", {"learning_rate": 0.5}),
    },
    make_trainer=WalkTrainer,
    evaluate=evaluate,
    step_metric="env_steps",
    task=lambda experiment: str(experiment.env.id),
    curves={"episode_return_mean": "Return", "episode_cost_mean": "Cost"},
    reference=_reference,
    headline=("episode_return_mean", "episode_cost_mean"),
    components={"update rule": {"momentum": "heavy ball"}},
    benchmarks={"bowl": BOWL},
    cpus=lambda experiment: 0,
    check=_check,
)
