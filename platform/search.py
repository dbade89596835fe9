"""A search: which fields of an experiment vary, what is good, which trials end early. Settings and points; no Ray.

The `search:` section of an experiment file becomes a `SearchSettings`; the rest of the file is the
experiment that every trial starts from. A point is a mapping of dotted fields to values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from quadriga.platform import experiment as experiments
from quadriga.platform import lines
from quadriga.platform.errors import UserError, nearest
from quadriga.platform.experiment import Experiment, Section
from quadriga.platform.metrics import METRICS

Point = Mapping[str, Any]
Range = Annotated[tuple[float, float], Field(description="low, high")]

UNKNOWN = -1e30
"""Objective of a trial of which nothing is known yet, or that could not go on."""


class Parameter(Section):
    """Where a field's values come from; exactly one kind, and optionally when it counts at all."""

    uniform: Range | None = None
    loguniform: Range | None = None
    randint: Annotated[tuple[int, int] | None, Field(description="low, high, both included")] = None
    choice: Annotated[tuple[Any, ...] | None, Field(min_length=1)] = None
    grid: Annotated[tuple[Any, ...] | None, Field(min_length=1, description="each value once, with every draw")] = None
    when: Annotated[dict[str, Any], Field(description="values of other searched fields that it takes to count")] = {}

    @property
    def kind(self) -> str:
        """The one that is given."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one_kind_with_order(self) -> Parameter:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(KINDS)}, got {' and '.join(given) or 'none'}")
        if given[0] in ("uniform", "loguniform", "randint"):
            low, high = getattr(self, given[0])
            if low >= high:
                raise ValueError(f"{given[0]}: expected low < high, got {low:g} and {high:g}")
            if given[0] == "loguniform" and low <= 0:
                raise ValueError(f"loguniform: expected low > 0, got {low:g}")
        return self

    def draw(self, rng: np.random.Generator) -> Any:
        """A value; of a grid none is drawn."""
        if self.uniform:
            return float(rng.uniform(*self.uniform))
        if self.loguniform:
            low, high = self.loguniform
            return float(min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high))
        if self.randint:
            return int(rng.integers(self.randint[0], self.randint[1], endpoint=True))
        assert self.choice is not None
        return self.choice[int(rng.integers(len(self.choice)))]

    def bounds(self) -> Sequence[Any]:
        """The extremes of a range, or all values."""
        return next(tuple(getattr(self, name)) for name in KINDS if getattr(self, name) is not None)

    def clip(self, value: Any) -> Any:
        """The nearest allowed value."""
        if self.choice or self.grid:
            return value
        low, high = self.bounds()
        return min(max(value, low), high)


KINDS = ("uniform", "loguniform", "randint", "choice", "grid")


class Objective(Section):
    """What is good: a metric, within limits on others."""

    maximize: str | None = None
    minimize: str | None = None
    subject_to: Annotated[dict[str, float], Field(description="largest allowed value by metric")] = {}
    penalty: Annotated[
        float | None, Field(gt=0, description="of a unit above a limit; without it the limits come first")
    ] = None
    average: Annotated[int, Field(ge=1, description="iterations that are averaged")] = 5

    @model_validator(mode="after")
    def _one_metric(self) -> Objective:
        if (self.maximize is None) == (self.minimize is None):
            raise ValueError("expected one of maximize and minimize")
        return self

    @property
    def metric(self) -> str:
        """Its name."""
        return self.maximize or self.minimize or ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that it reads."""
        return (self.metric, *self.subject_to)

    def value(self, rows: Sequence[Mapping[str, float]]) -> float:
        """One number, larger is better, of the last `average` rows that have the metric; `UNKNOWN` before there is one.

        Without a penalty a point within the limits beats every other: it gets 1/2 + atan(m)/pi of
        its metric m, in (0, 1), the others minus their excess over the limits, in units of these.
        """
        means = self.means(rows)
        if any(math.isnan(mean) for mean in means.values()):
            return UNKNOWN
        sign = 1.0 if self.maximize else -1.0
        excess = {name: max(0.0, means[name] - limit) for name, limit in self.subject_to.items()}
        if self.penalty is not None:
            return sign * means[self.metric] - self.penalty * sum(excess.values())
        if not self.subject_to:
            return sign * means[self.metric]
        if not any(excess.values()):
            return 0.5 + math.atan(sign * means[self.metric]) / math.pi
        return -sum(amount / max(abs(self.subject_to[name]), 1e-12) for name, amount in excess.items())

    def needed(self, rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
        """What `means` reads of `rows`: of each metric the last `average` rows that have it, and nothing else."""
        wanted: set[int] = set()
        for name in self.metrics:
            wanted.update([n for n, row in enumerate(rows) if not math.isnan(row.get(name, math.nan))][-self.average :])
        return [{name: rows[n][name] for name in self.metrics if name in rows[n]} for n in sorted(wanted)]

    def means(self, rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Of each metric over its last values; NaN where there are none."""
        found = {}
        for name in self.metrics:
            values = [row[name] for row in rows if name in row and not math.isnan(row[name])][-self.average :]
            found[name] = math.fsum(values) / len(values) if values else math.nan
        return found


class NoScheduler(Section):
    """Every trial runs to its end."""

    kind: Literal["none"] = "none"


class AshaSettings(Section):
    """Asynchronous successive halving (Li et al. 2018): at each rung the worse trials end."""

    kind: Literal["asha"] = "asha"
    grace: Annotated[int | None, Field(gt=0, description="steps before a trial may end; by default a tenth")] = None
    reduction: Annotated[float, Field(gt=1, description="of a rung's trials one in so many goes on")] = 3.0


class HyperBandSettings(Section):
    """HyperBand (Li et al. 2016): brackets of synchronous halving; trials pause at rungs."""

    kind: Literal["hyperband"] = "hyperband"
    grace: Annotated[int | None, Field(gt=0, description="steps before a trial may end; by default a tenth")] = None
    reduction: Annotated[float, Field(gt=1)] = 3.0

    def lengths(self, steps: int) -> int:
        """The paper's R: how many times the shortest trial fits into a trial of `steps` steps."""
        return max(1, round(steps / (self.grace or max(1, steps // 10))))


class MedianSettings(Section):
    """Median stopping (Golovin et al. 2017): a trial ends when its best is below the others' running median."""

    kind: Literal["median"] = "median"
    grace: Annotated[int | None, Field(gt=0, description="steps before a trial may end; by default a tenth")] = None
    least_trials: Annotated[int, Field(ge=1, description="others that must have come as far")] = 3


class PBTSettings(Section):
    """Population-based training (Jaderberg et al. 2017): the worst go on from the best, with changed values."""

    kind: Literal["pbt"] = "pbt"
    every: Annotated[int | None, Field(gt=0, description="steps between changes; by default a tenth")] = None
    quantile: Annotated[float, Field(gt=0, le=0.5, description="share that is replaced, and that is copied")] = 0.25
    resample: Annotated[float, Field(ge=0, le=1, description="probability of a fresh draw instead of a nudge")] = 0.25


PAUSING = ("hyperband", "pbt")
"""Schedulers under which a trial waits for others, and goes on from its last checkpoint."""


class TrialResources(Section):
    """What a trial's driver occupies; its runners, learners and workers come on top."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0, description="may be a fraction")] = 0.0


class SearchSettings(Section):
    """The `search:` section of an experiment file."""

    SHORTHAND: ClassVar[Mapping[str, str]] = {"scheduler": "kind"}

    parameters: Annotated[dict[str, Parameter], Field(min_length=1, description="by dotted field: constraint.kp")]
    objective: Objective
    trials: Annotated[int | None, Field(ge=1, description="draws, for each point of the grid if there is one")] = None
    seed: Annotated[int, Field(ge=0, description="of the draws")] = 0
    searcher: Annotated[Literal["random", "optuna", "bohb"], Field(description="who draws")] = "random"
    scheduler: Annotated[
        NoScheduler | AshaSettings | HyperBandSettings | MedianSettings | PBTSettings, Field(discriminator="kind")
    ] = NoScheduler()
    concurrency: Annotated[int | None, Field(ge=1, description="trials at once; by default as many as fit")] = None
    resources: TrialResources = TrialResources()
    retries: Annotated[int, Field(ge=0, description="of a trial whose process or node died")] = 2

    @model_validator(mode="after")
    def _parts_go_together(self) -> SearchSettings:
        grids = [name for name, parameter in self.parameters.items() if parameter.grid is not None]
        for name, parameter in self.parameters.items():
            for other in parameter.when:
                if other == name or other not in self.parameters:
                    raise ValueError(f"parameters.{name}.when: {other!r} is no other searched field")
                if self.parameters[other].when:
                    raise ValueError(f"parameters.{name}.when: {other!r} has a condition itself")
            if parameter.when and parameter.grid is not None:
                raise ValueError(f"parameters.{name}: a grid has no condition; use choice")
        if self.searcher != "random" and grids:
            raise ValueError(f"searcher: expected 'random' with a grid ({grids[0]}), got {self.searcher!r}")
        if self.searcher == "bohb":
            if self.scheduler.kind != "hyperband":
                raise ValueError("searcher: 'bohb' learns from HyperBand's rungs; it goes with scheduler 'hyperband'")
            if conditional := [name for name, each in self.parameters.items() if each.when]:
                raise ValueError(f"searcher: 'bohb' has no conditional fields ({conditional[0]}); 'optuna' has")
        if self.scheduler.kind in PAUSING and self.concurrency is not None:
            raise ValueError(
                f"concurrency: {self.scheduler.kind!r} pauses trials to compare all of them, so it takes no limit; "
                "resources says what a trial occupies"
            )
        if self.scheduler.kind == "pbt":
            if self.searcher != "random":
                raise ValueError("scheduler.kind: 'pbt' draws its own values; it goes with searcher 'random'")
            if grids or any(parameter.when for parameter in self.parameters.values()):
                raise ValueError("scheduler.kind: 'pbt' changes ranges and choices, not grids or conditional fields")
        return self

    @property
    def draws(self) -> int:
        """Per point of the grid: 12, or 1 if there is nothing but a grid."""
        if self.trials is not None:
            return self.trials
        return 1 if all(parameter.grid is not None for parameter in self.parameters.values()) else 12

    @property
    def total(self) -> int:
        """Trials in all."""
        return self.draws * math.prod(len(each.grid) for each in self.parameters.values() if each.grid is not None)


def load(source: str, overrides: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], SearchSettings]:
    """The experiment's fields and the search of a YAML file.

    Raises:
        UserError: no such file, no `search:` in it, or a field of it is wrong.
    """
    document = experiments.read_document(source)
    if "search" not in document:
        raise UserError(f"{source}: no search: section; to train it: quadriga train {source}")
    document = experiments.merged(document, overrides or {})
    section = document.pop("search")
    if not isinstance(section, Mapping):
        raise UserError(f"{source}: search: expected a section with parameters and objective")
    search = experiments.validate(SearchSettings, lines.expand(SearchSettings, section), prefix=f"{source}: search: ")
    return document, search


def points(search: SearchSettings) -> list[dict[str, Any]]:
    """All points of a random search, the same for the same seed: the grid, and `draws` draws at each of its points."""
    rng = np.random.default_rng(search.seed)
    grids = {name: parameter.grid for name, parameter in search.parameters.items() if parameter.grid is not None}
    found = []
    for _ in range(search.draws):
        drawn = {name: each.draw(rng) for name, each in search.parameters.items() if each.grid is None}
        for values in itertools.product(*grids.values()):
            found.append(active(search, {**drawn, **dict(zip(grids, values, strict=True))}))
    return found


def active(search: SearchSettings, point: Point) -> dict[str, Any]:
    """The point without the fields whose condition it does not meet, in the order of the search."""
    return {
        name: point[name]
        for name, parameter in search.parameters.items()
        if name in point and all(point.get(other) == value for other, value in parameter.when.items())
    }


def corners(search: SearchSettings) -> Iterator[dict[str, Any]]:
    """Points that show what can go wrong: each parameter at each of its bounds, the others at their first."""
    first = {name: parameter.bounds()[0] for name, parameter in search.parameters.items()}
    for name, parameter in search.parameters.items():
        for value in parameter.bounds():
            yield active(search, {**first, **parameter.when, name: value})


def experiment_at(fields: Mapping[str, Any], point: Point) -> Experiment:
    """The experiment of a point.

    Raises:
        UserError: it is not valid; names the field.
    """
    for name, value in point.items():
        fields = experiments.merged(fields, experiments.nested(name, value))
    return experiments.build(fields)


def check(fields: Mapping[str, Any], search: SearchSettings) -> list[dict[str, Any]]:
    """Validates every point before anything starts; of a searcher that draws as it goes, the bounds of every parameter.

    Returns:
        The points of a random search; none of another.

    Raises:
        UserError: a point is not valid, says which; or the objective or the scheduler does not go with the experiment.
    """
    drawn = points(search) if search.searcher == "random" else []
    fixed = search.scheduler.kind != "pbt" and search.searcher == "random"
    tried = drawn if fixed else [*drawn, *corners(search)]
    seen: set[str] = set()
    for point in tried:
        try:
            experiment = experiment_at(fields, point)
        except UserError as error:
            shown = ", ".join(f"{name}={value}" for name, value in point.items())
            raise UserError(f"search point {shown}: {error}") from None
        line = lines.line_of(experiment)
        _check_objective(search.objective, experiment)
        grace = getattr(search.scheduler, "grace", None)
        if grace is not None and grace > experiment.steps:
            raise UserError(f"search.scheduler.grace: expected at most steps ({experiment.steps:,}), got {grace:,}")
        # What takes time to check (an environment, data) is checked once for each that the search has.
        what = str([value for name, value in point.items() if name.partition(".")[0] in ("env", "task", "preset")])
        if what not in seen:
            line.check(experiment)
            seen.add(what)
    return drawn


def _check_objective(objective: Objective, experiment: Experiment) -> None:
    """Refuses metrics that the experiment will not log; custom parts may log any."""
    fields = experiments.flattened(experiment.model_dump(mode="json"))
    if any(name.rpartition(".")[2] == "kind" and value == "custom" for name, value in fields.items()):
        return
    line = lines.line_of(experiment)
    known = {*METRICS, *line.curves, *line.headline, line.step_metric}
    given = {"maximize": objective.maximize, "minimize": objective.minimize}
    named = [(where, name) for where, name in given.items() if name] + [("subject_to", n) for n in objective.subject_to]
    for where, name in named:
        if name not in known:
            hint = nearest(name, known) or "; a run's are shown by: quadriga show RUN"
            raise UserError(f"search.objective.{where}: unknown metric {name!r}{hint}")
