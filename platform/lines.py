"""The registry of lines of work: what each one offers to the shared runtime and the command line.

A line (safe RL with exploration, meta-learning, code models, or somebody else's package)
announces itself with an entry point of the group `quadriga.lines` that names a `Line`. So the
platform imports none of them, and `pip install` is all it takes to add one.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quadriga.platform.errors import UserError, unknown

if TYPE_CHECKING:
    from quadriga.platform.experiment import Experiment, Section
    from quadriga.platform.suites import Benchmark

GROUP = "quadriga.lines"


class Trainer(Protocol):
    """One run in progress: what the training driver asks of a line of work."""

    def train_iteration(self) -> dict[str, float]:
        """One iteration; its metrics, with the line's step metric (total so far) among them."""

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """How good the run is now, larger is better; `None` while nothing is known yet."""

    def save(self, folder: Path) -> None:
        """Writes everything that a bit-identical continuation needs into an existing empty folder."""

    def restore(self, folder: Path) -> None:
        """Continues from what `save` wrote."""

    def stop(self) -> None:
        """Ends all processes of the run. May be called twice."""


@dataclass(frozen=True)
class EvaluationRequest:
    """`episodes` to play; `video`, if given, is the file (`.mp4`, `.gif`) that shows the first of them.

    `options` are a line's own, e.g. meta-learning's `transductive`.
    """

    episodes: int = 20
    seed: int = 0
    deterministic: bool = True
    video: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A named algorithm: where it was published, and the values that differ from the model's defaults."""

    summary: str
    source: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def cpu_slots(experiment: Any) -> int:
    """One for the driver, and one for each environment runner and learner that the experiment asks for."""
    runners = getattr(getattr(experiment, "rollout", None), "env_runners", 0)
    learners = getattr(getattr(experiment, "learner", None), "learners", 0)
    return 1 + int(runners) + int(learners)


@dataclass(frozen=True)
class Demand:
    """What some of a run's actors occupy, each of them.

    Attributes:
        count: how many there are.
        cpus: CPU slots.
        gpus: GPUs.
        role: where they belong, of `quadriga.platform.placement`; `None`: anywhere.
    """

    count: int
    cpus: float = 1
    gpus: float = 0
    role: str | None = None


@dataclass(frozen=True)
class Line:
    """A line of work.

    Attributes:
        name: short name, e.g. `"rl"`.
        summary: one line for `quadriga list`.
        experiment: the experiment class; its `steps` count `step_metric`.
        presets: by name.
        make_trainer: builds the trainer of an experiment; imports what is heavy only when called.
        evaluate: plays or scores a checkpoint folder: `(experiment, checkpoint, request)` to one
            mapping of values a sample, e.g. `{"return": [...], "cost": [...], "length": [...]}`.
        step_metric: the metric that measures a run's progress.
        task: names what the experiment is about, for run names and titles, e.g. its environment.
        curves: the metrics that `quadriga plot` draws, in order, with a label each.
        reference: a horizontal line for a curve, e.g. the cost limit: `(experiment, metric)` to its value.
        headline: the metrics shown while training, in order.
        components: the building blocks that experiments combine: kind, e.g. `"constraint"`, to name to summary.
        benchmarks: what `quadriga benchmark` runs, by name.
        cpus: CPU slots of Ray that a run occupies at once; 0 if it runs without Ray.
        demands: what the actors of a run occupy, beside its driver; by default a CPU slot each.
        check: raises `UserError` for what is wrong with an experiment beyond its fields' types (an
            unknown environment, a missing package), as far as that can be seen at once; called
            before anything is started or written.
        published: numbers of the literature to compare a curve with: `(experiment, metric)` to value by source.
        policy: what a checkpoint folder holds, as a callable on observations: `(experiment, checkpoint)`.
        export: the same as a file for other programs: `(experiment, checkpoint, output)`.
        afterwards: commands of the line's own that a run suggests at its end, with `{run}` for it and `{name}`
            for its bare name.
    """

    name: str
    summary: str
    experiment: type[Experiment]
    presets: Mapping[str, Preset]
    make_trainer: Callable[[Any], Trainer]
    evaluate: Callable[[Any, Path, EvaluationRequest], Mapping[str, Sequence[float]]]
    step_metric: str
    task: Callable[[Any], str]
    curves: Mapping[str, str]
    reference: Callable[[Any, str], float | None]
    headline: Sequence[str]
    components: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    benchmarks: Mapping[str, Benchmark] = field(default_factory=dict)
    cpus: Callable[[Any], int] = cpu_slots
    demands: Callable[[Any], Sequence[Demand]] | None = None
    check: Callable[[Any], None] = lambda experiment: None
    published: Callable[[Any, str], Mapping[str, float]] = lambda experiment, metric: {}
    policy: Callable[[Any, Path], Callable[..., Any]] | None = None
    export: Callable[[Any, Path, Path], None] | None = None
    afterwards: Sequence[str] = ()

    def actors(self, experiment: Any) -> Sequence[Demand]:
        """What the actors of a run of `experiment` occupy, beside its driver."""
        if self.demands is not None:
            return self.demands(experiment)
        return [Demand(max(0, self.cpus(experiment) - 1))]

    def actor_slots(self, experiment: Any) -> int:
        """CPU slots that they occupy together."""
        return math.ceil(sum(each.count * each.cpus for each in self.actors(experiment)))

    def normalise(self, defaults: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """`fields` over the preset's `defaults`, each section brought to its full form first."""
        from quadriga.platform.experiment import merged

        return merged(expand(self.experiment, defaults), expand(self.experiment, fields))


def expand(model: type[Section] | type[Experiment], fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` with shorthands written out, so that layers merge: `env: CartPole-v1` is `env: {id: CartPole-v1}`."""
    shorthand: Mapping[str, str] = getattr(model, "SHORTHAND", {})
    return {
        key: {shorthand[key]: value} if key in shorthand and isinstance(value, str) else value
        for key, value in fields.items()
    }


@functools.cache
def _loaded() -> tuple[Mapping[str, Line], Mapping[str, Exception]]:
    """The lines that could be imported and, by entry point, why the others could not."""
    found: list[Line] = []
    broken: dict[str, Exception] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            found.append(point.load())
        except Exception as error:  # one line's missing package must not take the others down
            broken[point.name] = error
    return {line.name: line for line in sorted(found, key=lambda line: line.name)}, broken


def all_lines() -> Mapping[str, Line]:
    """Every installed line of work that can be imported, by name."""
    return _loaded()[0]


def broken_lines() -> Mapping[str, Exception]:
    """The installed lines of work that cannot be imported, and why."""
    return _loaded()[1]


def find_preset(name: str) -> tuple[Line, Mapping[str, Any]]:
    """The line that holds preset `name`, and the preset's fields.

    Raises:
        UserError: no line has it; names the nearest, and the lines that could not be imported.
    """
    for line in all_lines().values():
        if name in line.presets:
            return line, line.presets[name].fields
    for broken, error in broken_lines().items():
        from quadriga.platform.doctor import explain_import

        raise UserError(
            f"preset {name!r} not found; the line of work {broken!r} is off: {explain_import(error)}"
        ) from error
    choices = [preset for line in all_lines().values() for preset in line.presets]
    raise unknown("preset", name, choices, listing="quadriga list presets")


def line_of(experiment: Experiment) -> Line:
    """The line of work that `experiment` belongs to."""
    return next(line for line in all_lines().values() if isinstance(experiment, line.experiment))
