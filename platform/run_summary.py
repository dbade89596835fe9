"""What a run is in a few words: for lists of runs, for `quadriga show` and for reports.

Reads a run folder and changes nothing in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from quadriga.platform import experiment as experiments
from quadriga.platform import run_folder
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import Experiment, flattened
from quadriga.platform.lines import line_of

if TYPE_CHECKING:
    from quadriga.platform.run_folder import RunFolder

OF_THE_RUN = {"name", "seed", "steps"}


@dataclass(frozen=True)
class RunSummary:
    """A run in a few words.

    Attributes:
        name: of its folder.
        path: folder or URI.
        line: name of its line of work.
        preset: algorithm.
        task: what it is about, e.g. its environment.
        seed: of all its random streams.
        step: progress of the last logged row, 0 before the first.
        steps: length of the run.
        state: `done`, the share that is done, or `empty`.
        began: time in UTC (ISO 8601), `None` if unknown.
        metrics: the newest value of each headline metric that was logged.
    """

    name: str
    path: str
    line: str
    preset: str
    task: str
    seed: int
    step: int
    steps: int
    state: str
    began: str | None
    metrics: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "metrics": dict(self.metrics)}


def summarize(run: RunFolder) -> RunSummary:
    """The summary of a run.

    Raises:
        UserError: its experiment or its metrics cannot be read.
    """
    experiment = run.experiment()
    line = line_of(experiment)
    newest = last_values(run)
    step = int(newest.get(line.step_metric, 0))
    state = "empty" if not step else "done" if step >= experiment.steps else f"{step / experiment.steps:.0%}"
    return RunSummary(
        name=run.name,
        path=run.path,
        line=line.name,
        preset=experiment.preset,
        task=line.task(experiment),
        seed=experiment.seed,
        step=step,
        steps=experiment.steps,
        state=state,
        began=provenance_of(run).get("time_utc"),
        metrics={name: newest[name] for name in line.headline if name in newest},
    )


def last_values(run: RunFolder) -> dict[str, float]:
    """The newest value of every number that the run has logged.

    Raises:
        UserError: the metrics cannot be read.
    """
    rows = run.metrics.read()
    newest = {}
    for name in rows.column_names:
        known = [value for value in rows.column(name).to_pylist() if isinstance(value, int | float)]
        if known and math.isfinite(known[-1]):
            newest[name] = known[-1]
    return newest


def provenance_of(run: RunFolder) -> dict[str, Any]:
    """What `provenance.json` says; nothing if it is missing or damaged."""
    try:
        found = json.loads(run.read_text(run_folder.PROVENANCE))
    except (UserError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def changes_from_preset(experiment: Experiment) -> dict[str, tuple[Any, Any]]:
    """The fields that differ from the preset's, by dotted name: the preset's value and the experiment's.

    A field that only one of the two has (of another `kind`) stands beside `None`. Name, seed and length belong to the
    run and are left out, as is what the preset leaves open and the run has to give.
    """
    own = flattened(experiment.model_dump(mode="json", exclude=OF_THE_RUN))
    try:
        preset = experiments.build({**_required(experiment), "preset": experiment.preset})
    except UserError:  # a preset that is gone, or stands only with more than the required fields
        base: dict[str, Any] = {}
    else:
        base = flattened(preset.model_dump(mode="json", exclude=OF_THE_RUN))
    names = [*own, *(name for name in base if name not in own)]
    return {name: (base.get(name), own.get(name)) for name in names if base.get(name) != own.get(name)}


def _required(section: BaseModel) -> dict[str, Any]:
    """The values of the fields that have no default, sections written out as far."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.is_required():
            found[name] = _required(value) if isinstance(value, BaseModel) else value
    return found


def differing_fields(experiments_: Sequence[Experiment]) -> dict[str, list[Any]]:
    """The fields in which experiments differ, by dotted name: a value an experiment, `None` where it has no such field.

    Names are left out.
    """
    flat = [flattened(each.model_dump(mode="json", exclude={"name"})) for each in experiments_]
    fields = list(dict.fromkeys(field for each in flat for field in each))
    table = {field: [each.get(field) for each in flat] for field in fields}
    return {field: values for field, values in table.items() if len(set(map(repr, values))) > 1}
