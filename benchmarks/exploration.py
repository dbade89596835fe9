"""Learning curves of the bonuses on the sparse tasks, as in figure 1 of Achiam & Sastry 2017.

    python benchmarks/exploration.py [--task NAME ...] [--bonus NAME ...] [--seeds N] [--runs-dir DIR] [--report]
                                     [--picture FILE] [--markdown FILE]

Runs are those of `quadriga train`, seed by seed; what is in the folder already is not trained again, and a run that was
stopped is continued. `--report` trains nothing. All columns of a task differ in nothing but the bonus.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import numpy as np
from comparison import first_reached, last_mean, markdown_table, show_interval

from quadriga.platform import experiment as experiments
from quadriga.platform import training
from quadriga.platform.errors import UserError
from quadriga.platform.plot import plot_runs
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.statistics import mean_interval
from quadriga.platform.tables import print_table
from quadriga.policies.presets import PRESETS

LAST_SHARE = 0.1
HEADERS = (
    "task",
    "bonus",
    "steps",
    "seeds",
    "reward first found at step",
    "return, last tenth",
    "mean return, all steps",
)

PAPER = PRESETS["surprisal"].fields
# By the name of the bonus: a preset, and what is set besides.
BONUSES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("trpo", {name: PAPER[name] for name in ("rollout", "advantage", "update")}),
    "prediction-error": ("surprisal", {"bonus": {"kind": "prediction-error"}}),
    "surprisal": ("surprisal", {}),
    "learning-progress": ("learning-progress", {}),
}


@dataclass(frozen=True)
class Task:
    """An environment, how long it is trained, with which bonuses, and what is set in all runs, or those with one."""

    env: str
    steps: int
    bonuses: tuple[str, ...] = tuple(BONUSES)
    fields: Mapping[str, Any] = field(default_factory=dict)
    with_bonus: Mapping[str, Any] = field(default_factory=dict)


TASKS = {
    "mountain-car": Task("SparseMountainCar-v0", 200_000),
    "cartpole-swingup": Task("SparseCartPoleSwingup-v0", 1_000_000, ("none", "prediction-error", "surprisal")),
    "half-cheetah": Task("SparseHalfCheetah-v0", 1_000_000, ("none", "prediction-error", "surprisal")),
}


def main() -> None:
    """Trains what is missing and prints."""
    arguments = parse_arguments()
    known = machine.describe()
    try:
        if not arguments.report:
            for seed in range(arguments.seeds):
                for name in arguments.task:
                    for bonus in TASKS[name].bonuses:
                        if bonus in arguments.bonus:
                            train(name, bonus, seed, arguments.runs_dir)
        runs = {name: finished(name, arguments) for name in arguments.task}
        if arguments.picture:
            for name, of in runs.items():
                picture = arguments.picture.with_stem(f"{arguments.picture.stem}_{name.replace('-', '_')}")
                print(f"picture: {plot_runs([run for each in of.values() for run in each], picture)}")
    except UserError as error:
        sys.exit(f"error: {error}")
    rows = [row(name, bonus, of) for name, each in runs.items() for bonus, of in each.items()]
    print_table(HEADERS, rows)
    print("\n" + machine.sentence(known))
    if arguments.markdown:
        text = f"### Exploration\n\n{machine.sentence(known)}.\n\n{markdown_table(HEADERS, rows)}\n"
        arguments.markdown.write_text(text, encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Learning curves of the bonuses on sparse tasks.")
    parser.add_argument("--task", choices=TASKS, action="append", help="may be given several times (default: all)")
    parser.add_argument("--bonus", choices=BONUSES, action="append", help="likewise")
    parser.add_argument("--seeds", type=int, default=5, help="how many, counted from 0 (default: %(default)s)")
    parser.add_argument("--runs-dir", default="runs/exploration", help="of the run folders (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="train nothing, report what is there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curves, a file a task")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a fragment for RESULTS.md")
    arguments = parser.parse_args()
    arguments.task = arguments.task or list(TASKS)
    arguments.bonus = arguments.bonus or list(BONUSES)
    if arguments.seeds < 1:
        parser.error("--seeds: expected 1 or more")
    return arguments


def experiment(name: str, bonus: str, seed: int) -> experiments.Experiment:
    """The experiment of one run."""
    task = TASKS[name]
    preset, fields = BONUSES[bonus]
    common = {"preset": preset, "env": task.env, "seed": seed, "steps": task.steps, "name": run_name(name, bonus, seed)}
    fields = experiments.merged(experiments.merged(common, task.fields), fields)
    return experiments.build(fields if bonus == "none" else experiments.merged(fields, task.with_bonus))


def run_name(name: str, bonus: str, seed: int) -> str:
    return f"{name}-{bonus}-{seed}"


def train(name: str, bonus: str, seed: int, runs_dir: str) -> None:
    """One run to its end, unless it is there."""
    began = time.monotonic()
    folder = run_name(name, bonus, seed)
    found = find(folder, runs_dir)
    if found is not None and steps_done(found) >= TASKS[name].steps:
        return
    if found is not None and found.checkpoints.latest() is not None:
        run = training.resume(folder, runs_dir=runs_dir, progress="quiet")
    else:
        run = training.train(experiment(name, bonus, seed), runs_dir=runs_dir, progress="quiet")
    print(
        f"{run.path}: return {last_mean(returns(run), LAST_SHARE):.2f} ({time.monotonic() - began:.0f} s)", flush=True
    )


def find(folder: str, runs_dir: str) -> RunFolder | None:
    try:
        return RunFolder.open(folder, runs_dir)
    except UserError:
        return None


def finished(name: str, arguments: argparse.Namespace) -> dict[str, list[RunFolder]]:
    """The runs of a task that reached its last step, by their bonus."""
    found: dict[str, list[RunFolder]] = {}
    for bonus in TASKS[name].bonuses:
        for seed in range(arguments.seeds):
            run = find(run_name(name, bonus, seed), arguments.runs_dir)
            if bonus in arguments.bonus and run is not None and steps_done(run) >= TASKS[name].steps:
                found.setdefault(bonus, []).append(run)
    return found


def column(run: RunFolder, metric: str) -> np.ndarray:
    table = run.metrics.read()
    return table.column(metric).to_numpy(zero_copy_only=False) if metric in table.column_names else np.zeros(0)


def steps_done(run: RunFolder) -> int:
    steps = column(run, "env_steps")
    return int(steps[-1]) if len(steps) else 0


def returns(run: RunFolder) -> np.ndarray:
    return column(run, "episode_return_mean")


def row(name: str, bonus: str, runs: Sequence[RunFolder]) -> list[str]:
    """One line of the table: over the seeds, with Student's 95% interval."""
    found = [first_reached(column(run, "env_steps"), returns(run), 1e-9) for run in runs]
    return [
        name,
        bonus,
        f"{TASKS[name].steps:,}",
        str(len(runs)),
        ", ".join("never" if at is None else f"{at:,}" for at in found),
        show_interval(mean_interval([last_mean(returns(run), LAST_SHARE) for run in runs])),
        show_interval(mean_interval([last_mean(returns(run), 1.0) for run in runs])),
    ]


if __name__ == "__main__":
    main()
