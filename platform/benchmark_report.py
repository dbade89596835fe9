"""What a benchmark found: its trials' numbers, tables with intervals beside published ones, learning curves.

    runs/<name>/results.md      tables for people
                results.csv     one row a task, variant and measure
                trials.csv      one row a trial
                curves-<task>.png, response-<task>.png

Everything is read from the trials' run folders, so a report can be made at any time, also of a grid that is not
finished: what is missing is named, never left out silently.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quadriga.platform import provenance, storage
from quadriga.platform.benchmark import TRIALS, read_records
from quadriga.platform.benchmark_trial import is_finished
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import Experiment
from quadriga.platform.lines import Line
from quadriga.platform.progress import number
from quadriga.platform.run_folder import RunFolder, list_runs
from quadriga.platform.statistics import Interval, bootstrap_interval, mean_interval
from quadriga.platform.suites import Benchmark

MARKDOWN, TABLE, TRIAL_TABLE = "results.md", "results.csv", "trials.csv"
ALL = "all"


@dataclass(frozen=True)
class Result:
    """A finished trial: its place in the grid, and its numbers.

    Attributes:
        measures: by the names of `Benchmark.measures`.
        normalised: by those of `Benchmark.normalised`; NaN where the task has no units for it.
    """

    variant: str
    task: str
    seed: int
    steps: int
    run: RunFolder
    experiment: Experiment
    measures: Mapping[str, float]
    normalised: Mapping[str, float]
    wall_time_s: float


@dataclass(frozen=True)
class Missing:
    """A trial that has not reached its end, and what is known of why."""

    name: str
    attempts: int
    reason: str


def collect(line: Line, benchmark: Benchmark, folder: str) -> tuple[list[Result], list[Missing]]:
    """The trials in a benchmark's folder: finished ones in the order they were declared, and the others.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    records = read_records(folder)
    if not records:
        raise UserError(f"{folder!r} holds no trials of a benchmark")
    runs_dir = storage.join(folder, TRIALS)
    begun = set(list_runs(runs_dir))
    results, missing = [], []
    for name, record in records.items():
        run = RunFolder.open(storage.join(runs_dir, name)) if name in begun else None
        experiment = run.experiment() if run is not None else None
        if run is None or experiment is None or not is_finished(run, experiment.steps):
            missing.append(Missing(name, record.attempts, record.error or "not run to its end yet"))
            continue
        table = run.metrics.read()
        columns = {
            field.name: np.array(table.column(field.name).to_pylist(), np.float64)
            for field in table.schema
            if str(field.type) != "string"
        }
        measures = {key: measure.of(columns, line.step_metric) for key, measure in benchmark.measures.items()}
        found = benchmark.normalise(record.task, measures)
        results.append(
            Result(
                record.variant,
                record.task,
                record.seed,
                experiment.steps,
                run,
                experiment,
                measures,
                {key: found.get(key, math.nan) for key in benchmark.normalised},
                float(columns["wall_time_s"][-1]),
            )
        )
    return results, missing


def write(line: Line, benchmark: Benchmark, name: str, folder: str, axis: str | None = None) -> str:
    """Writes the report of what lies in `folder` (a path or URI) and returns its Markdown.

    Args:
        line: the benchmark's.
        benchmark: says what to measure and to compare with.
        name: heads the report.
        folder: the benchmark's.
        axis: dotted field to draw response curves against.

    Raises:
        UserError: as `collect`, or a file cannot be written.
    """
    results, missing = collect(line, benchmark, folder)
    pictures = _pictures(line, benchmark, results, axis)
    text = markdown(benchmark, name, results, missing, list(pictures))
    files = {
        MARKDOWN: text.encode(),
        TABLE: _csv(table_rows(benchmark, results)),
        TRIAL_TABLE: _csv(trial_rows(benchmark, results)),
        **pictures,
    }
    filesystem, root = storage.resolve(folder)
    for file, data in files.items():
        try:
            storage.write(filesystem, storage.join(root, file), data)
        except OSError as error:
            raise UserError(f"cannot write {storage.join(folder, file)}: {storage.reason(error)}") from error
    return text


def cells(results: Sequence[Result]) -> dict[tuple[str, int, str], list[Result]]:
    """The trials by task, length and variant: what differs in the seed alone."""
    found: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.task, result.steps, result.variant), []).append(result)
    return dict(sorted(found.items(), key=lambda item: (_order(results, item[0]), item[0][1])))


def _order(results: Sequence[Result], cell: tuple[str, int, str]) -> tuple[int, int]:
    """By first appearance of the task, then of the variant."""
    tasks = list(dict.fromkeys(result.task for result in results))
    variants = list(dict.fromkeys(result.variant for result in results))
    return tasks.index(cell[0]), variants.index(cell[2])


def over_tasks(results: Sequence[Result], measure: str) -> dict[tuple[int, str], Interval]:
    """The interquartile mean of a normalised measure over tasks and seeds, tasks as strata, by length and variant."""
    strata: dict[tuple[int, str], dict[str, list[float]]] = {}
    for result in results:
        tasks = strata.setdefault((result.steps, result.variant), {})
        tasks.setdefault(result.task, []).append(result.normalised[measure])
    return {key: bootstrap_interval(list(tasks.values())) for key, tasks in strata.items()}


def trial_rows(benchmark: Benchmark, results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a trial."""
    return [
        {
            "task": result.task,
            "variant": result.variant,
            "seed": result.seed,
            "steps": result.steps,
            **result.measures,
            **{f"normalised_{name}": value for name, value in result.normalised.items()},
            "wall_time_s": result.wall_time_s,
        }
        for result in results
    ]


def table_rows(benchmark: Benchmark, results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a task, variant and measure, with what was published; normalised measures over all tasks at the end."""
    rows = []
    for (task, steps, variant), trials in cells(results).items():
        for measure in benchmark.measures:
            samples = [trial.measures[measure] for trial in trials]
            row: dict[str, Any] = {"task": task, "steps": steps, "variant": variant, "measure": measure}
            row |= _numbers(mean_interval(samples), bootstrap_interval([samples]))
            for publication in benchmark.published:
                mean, deviation = publication.results.get(task, {}).get(variant, {}).get(measure, (None, None))
                row |= {f"{publication.name}_mean": mean, f"{publication.name}_sd": deviation}
            rows.append(row)
    for measure in benchmark.normalised:
        for (steps, variant), interval in over_tasks(results, measure).items():
            trials = [each for each in results if (each.steps, each.variant) == (steps, variant)]
            row = {"task": ALL, "steps": steps, "variant": variant, "measure": f"normalised_{measure}"}
            rows.append(row | _numbers(mean_interval([each.normalised[measure] for each in trials]), interval))
    return rows


def _numbers(mean: Interval, middle: Interval) -> dict[str, Any]:
    return {
        "trials": mean.n,
        "mean": mean.mean,
        "mean_low": mean.low,
        "mean_high": mean.high,
        "iqm": middle.mean,
        "iqm_low": middle.low,
        "iqm_high": middle.high,
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def markdown(
    benchmark: Benchmark, name: str, results: Sequence[Result], missing: Sequence[Missing], pictures: Sequence[str]
) -> str:
    """The report as people read it."""
    made = provenance.collect(0, [])
    commit = f", commit {made['git']['commit'][:8]}" if made["git"] else ""
    said = [
        f"# {name}",
        f"{benchmark.summary} ({benchmark.source}).",
        f"{len(results)} of {len(results) + len(missing)} trials finished; report of {made['time_utc']}, Quadriga "
        f"{made['version']}{commit}, {made['hardware']['cpu']}.",
    ]
    for task in dict.fromkeys(result.task for result in results):
        said += [f"## {task}", task_table(benchmark, task, results)]
        said += [f"![{task}]({picture})" for picture in pictures if picture.endswith(f"-{_in_a_name(task)}.png")]
    if benchmark.normalised and any(not math.isnan(v) for result in results for v in result.normalised.values()):
        said += ["## All tasks, normalised", _normalised_table(benchmark, results)]
        said += [f"Units: {benchmark.normalised_by}."] if benchmark.normalised_by else []
    if missing:
        rows = [(each.name, str(each.attempts), each.reason) for each in missing]
        said += ["## Not finished", _grid(("trial", "attempts", "why"), rows)]
    said += [
        "Brackets hold 95% intervals: Student's t of a mean over seeds, percentiles of a stratified bootstrap of an "
        "interquartile mean (IQM); `±` is the standard deviation over seeds that was published."
    ]
    said += [f"{each.name}: {each.source}." for each in benchmark.published]
    return "\n\n".join(said) + "\n"


def task_table(benchmark: Benchmark, task: str, results: Sequence[Result]) -> str:
    """What was found on `task`, as a table in Markdown: a row a variant and length, published numbers beside it."""
    publications = [each for each in benchmark.published if task in each.results]
    headers = ["algorithm", "steps", "seeds", *(measure.label for measure in benchmark.measures.values())]
    known = {
        publication.name: [m for m in benchmark.measures if any(m in v for v in publication.results[task].values())]
        for publication in publications
    }
    headers += [f"{name}: {benchmark.measures[m].label}" for name, measures in known.items() for m in measures]
    rows = []
    for (of, steps, variant), trials in cells(results).items():
        if of != task:
            continue
        row = [variant, f"{steps:,}", str(len(trials))]
        row += [_over_seeds([trial.measures[measure] for trial in trials]) for measure in benchmark.measures]
        for publication in publications:
            published = publication.results[task].get(variant, {})
            row += [_published(published.get(measure)) for measure in known[publication.name]]
        rows.append(row)
    return _grid(headers, rows)


def _normalised_table(benchmark: Benchmark, results: Sequence[Result]) -> str:
    columns = {measure: over_tasks(results, measure) for measure in benchmark.normalised}
    rows = []
    for steps, variant in next(iter(columns.values())):
        count = sum((each.steps, each.variant) == (steps, variant) for each in results)
        intervals = [_interval(column[steps, variant]) for column in columns.values()]
        rows.append([variant, f"{steps:,}", str(count), *intervals])
    return _grid(
        ["algorithm", "steps", "trials", *(f"IQM of {label}" for label in benchmark.normalised.values())], rows
    )


def _over_seeds(values: Sequence[float]) -> str:
    """Mean and interval; of what not every trial came to (an infinite number), the median of those that did."""
    reached = [value for value in values if not math.isinf(value)]
    if len(reached) == len(values):
        return _interval(mean_interval(values))
    return f"{number(float(np.median(reached)))} in {len(reached)} of {len(values)}" if reached else "never"


def _interval(interval: Interval) -> str:
    if math.isnan(interval.low):
        return number(interval.mean)
    return f"{number(interval.mean)} [{number(interval.low)}, {number(interval.high)}]"


def _published(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{number(value[0])} ± {number(value[1])}"


def _grid(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headers, ["---"] * len(headers), *cells))


def _in_a_name(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", task)


def _pictures(line: Line, benchmark: Benchmark, results: Sequence[Result], axis: str | None) -> dict[str, bytes]:
    """Learning curves of each task, and response curves if there is an axis; as PNG by file name."""
    from quadriga.platform import benchmark_picture, plot

    pictures = {}
    for task in dict.fromkeys(result.task for result in results):
        trials = [result for result in results if result.task == task]
        figures = {f"curves-{_in_a_name(task)}.png": plot.figure([t.run for t in trials], [t.variant for t in trials])}
        if axis is not None:
            figures[f"response-{_in_a_name(task)}.png"] = benchmark_picture.responses(benchmark, trials, axis)
        for file, figure in figures.items():
            data = io.BytesIO()
            figure.savefig(data, format="png", dpi=160)
            pictures[file] = data.getvalue()
    return pictures
