"""Learning curves that outlive their runs: a benchmark's trials as one table a task, its picture and its numbers.

    python benchmarks/curves.py keep runs/safety-gym-sg1     # adds finished trials to benchmarks/curves/<task>.csv
    python benchmarks/curves.py show SafetyPointGoal1-v0 [--picture FILE] [--markdown FILE]

A row is an iteration. A trial that is kept again takes its own rows' place. `show` draws what `quadriga benchmark`
draws; the experiments that it needs for this (limit, task) are those of the algorithms as they are now, so what was
trained with other settings does not belong here.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import machine
import numpy as np
from numpy.typing import NDArray

from quadriga.platform import benchmark_report, plot
from quadriga.platform.benchmark import choose_variants, find_benchmark, grid
from quadriga.platform.benchmark_report import Result
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import dump_yaml
from quadriga.platform.run_folder import EXPERIMENT, PROVENANCE, RunFolder

KEPT = Path(__file__).parent / "curves"
TRIAL = ("algorithm", "seed", "commit")
METRICS = ("env_steps", "episode_return_mean", "episode_cost_mean", "lagrange_multiplier", "cost_rate")
BENCHMARK = "safety-gym"

Key = tuple[str, int]
Rows = list[dict[str, str]]


def main() -> None:
    """Keeps or shows."""
    parser = argparse.ArgumentParser(description="Learning curves that outlive their runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    keep_parser = commands.add_parser("keep", help="add the finished trials of benchmarks' folders")
    keep_parser.add_argument("folder", nargs="+")
    show_parser = commands.add_parser("show", help="table and picture of a task")
    show_parser.add_argument("task")
    show_parser.add_argument("--picture", type=Path, help="a .png, .svg or .pdf")
    show_parser.add_argument("--markdown", type=Path, help="where to write the table, too")
    arguments = parser.parse_args()
    try:
        if arguments.command == "keep":
            for path in keep(arguments.folder):
                print(path)
        else:
            print(show(arguments.task, arguments.picture, arguments.markdown))
    except UserError as error:
        sys.exit(f"error: {error}")


def keep(folders: Sequence[str]) -> list[Path]:
    """Adds the finished trials of `folders` to their tasks' files, and returns these."""
    line, benchmark = find_benchmark(BENCHMARK)
    files: dict[Path, dict[Key, Rows]] = {}
    for folder in folders:
        for trial in benchmark_report.collect(line, benchmark, folder)[0]:
            path = KEPT / f"{trial.task}.csv"
            files.setdefault(path, read(path))[trial.variant, trial.seed] = rows_of(trial)
    for path, trials in files.items():
        write(path, trials)
    return list(files)


def rows_of(trial: Result) -> Rows:
    """A trial's iterations, numbers with five digits, as its steps need not more."""
    git = json.loads(trial.run.read_text(PROVENANCE))["git"]
    head = {"algorithm": trial.variant, "seed": str(trial.seed), "commit": git["commit"][:7] if git else ""}
    table = trial.run.metrics.read()
    columns = {name: table.column(name).to_pylist() for name in METRICS if name in table.column_names}
    return [
        head | {name: shown(name, columns[name][row]) if name in columns else "" for name in METRICS}
        for row in range(table.num_rows)
    ]


def shown(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return str(int(value)) if name == "env_steps" else f"{value:.5g}"


def read(path: Path) -> dict[Key, Rows]:
    """The trials in a file, none if there is none."""
    found: dict[Key, Rows] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                found.setdefault((row["algorithm"], int(row["seed"])), []).append(row)
    return found


def write(path: Path, trials: Mapping[Key, Iterable[Mapping[str, str]]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*TRIAL, *METRICS], lineterminator="\n")
        writer.writeheader()
        for key in sorted(trials):
            writer.writerows(trials[key])


def show(task: str, picture: Path | None, markdown: Path | None) -> str:
    """The table of what is kept of a task, as Markdown; draws and writes it where that is asked for."""
    kept = read(KEPT / f"{task}.csv")
    if not kept:
        known = ", ".join(sorted(path.stem for path in KEPT.glob("*.csv"))) or "nothing else either"
        raise UserError(f"task {task!r}: nothing is kept of it; there is {known}")
    with tempfile.TemporaryDirectory(prefix="quadriga-curves-") as folder:
        results = restore(task, kept, folder)
        if picture is not None:
            plot.plot_runs([each.run for each in results], picture, [each.variant for each in results])
    commits = sorted({row["commit"] for rows in kept.values() for row in rows})
    table = benchmark_report.task_table(find_benchmark(BENCHMARK)[1], task, results)
    text = f"{table}\n\nTrained at {', '.join(commits)}."
    if markdown is not None:
        markdown.write_text(f"### {task}\n\n{machine.sentence(machine.describe())}.\n\n{text}\n", encoding="utf-8")
    return text


def restore(task: str, kept: Mapping[Key, Rows], folder: str) -> list[Result]:
    """Run folders in `folder` with the kept metrics, and their numbers, in the order of the suite's algorithms."""
    line, benchmark = find_benchmark(BENCHMARK)
    suite = next((suite for suite in benchmark.suites.values() if task in suite.tasks), None)
    if suite is None:
        raise UserError(f"task {task!r}: expected one of the suites {', '.join(benchmark.suites)}")
    variants = choose_variants(line, suite, [name for name in suite.variants if any(name == key[0] for key in kept)])
    seeds = sorted({seed for _, seed in kept})
    steps = {key: int(rows[-1]["env_steps"]) for key, rows in kept.items()}
    results = []
    for trial in grid(line, benchmark, variants, [task], seeds, max(steps.values())):
        key = (trial.variant, trial.experiment.seed)
        if key not in kept:
            continue
        run = RunFolder.create(folder, trial.name)
        run.write_text(EXPERIMENT, dump_yaml(trial.experiment.model_dump(mode="json")))
        columns = columns_of(kept[key])
        for row in range(len(kept[key])):
            run.metrics.append({name: float(values[row]) for name, values in columns.items()})
        measures = {name: measure.of(columns, line.step_metric) for name, measure in benchmark.measures.items()}
        results.append(Result(trial.variant, task, key[1], steps[key], run, trial.experiment, measures, {}, math.nan))
    return sorted(results, key=lambda result: list(variants).index(result.variant))


def columns_of(rows: Rows) -> dict[str, NDArray[np.float64]]:
    """Each metric over the iterations, NaN where there was none."""
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in METRICS}


if __name__ == "__main__":
    main()
