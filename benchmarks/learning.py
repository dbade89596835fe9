"""Learning curves over several seeds, trained one after the other as `quadriga train` would.

    python benchmarks/learning.py [--task NAME ...] [--seeds N] [--steps N] [--set key=value ...]
                                  [--runs-dir DIR] [--picture FILE] [--markdown FILE]

The runs stay in the folder, so that `quadriga plot` and `quadriga evaluate` go on from them.
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
from quadriga.platform.experiment import parse_assignments
from quadriga.platform.plot import plot_runs
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.statistics import mean_interval
from quadriga.platform.tables import print_table
from quadriga.policies.presets import PRESETS

LAST_SHARE = 0.1
EPISODES = 100
NEAR = 10.0
CONTROL = (
    "task",
    "seed",
    f"cost, last {EPISODES} episodes",
    "swing of the cost (deviation)",
    "lowest, highest",
    "distance from the limit (rms)",
    "share of iterations above the limit",
    f"share further than {NEAR:.0f} from it",
    "mean excess, first quarter",
    "multiplier's peak",
)
METRICS = ("episode_return_mean", "episode_cost_mean", "lagrange_multiplier", "cost_rate", "env_steps_per_second")


@dataclass(frozen=True)
class Task:
    """One setting: what is trained, how long, over how many seeds, and the return that is aimed at."""

    preset: str
    env: str
    steps: int
    seeds: int
    goal: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


# The update of the preset pid-lagrangian, for a preset that is not made for Safety-Gymnasium.
SAFETY = {name: PRESETS["pid-lagrangian"].fields[name] for name in ("rollout", "update")}
# Cost advantages in units of cost, for which these gains were chosen; the preset standardizes them.
CENTERED = {"advantage": {"cost": "center"}}
INTEGRAL = {**CENTERED, "constraint": {"kp": 0.0, "kd": 0.0}}
# An integral fast enough to swing more than once in a run, alone and damped.
FAST_INTEGRAL = {**CENTERED, "constraint": {"ki": 0.01, "kp": 0.0, "kd": 0.0}}
FAST_PID = {**CENTERED, "constraint": {"ki": 0.01, "kp": 0.2, "kd": 0.1, "d_delay": 5}}

TASKS = {
    "cartpole": Task("ppo", "CartPole-v1", 80_000, 3, goal=450.0),
    "halfcheetah": Task("ppo", "HalfCheetah-v5", 1_000_000, 3, goal=1685.0),
    "pointgoal-ppo": Task("ppo", "SafetyPointGoal1-v0", 1_000_000, 3, fields=SAFETY),
    "pointgoal-pid": Task("pid-lagrangian", "SafetyPointGoal1-v0", 1_000_000, 3),
    "pointgoal-pid-centered": Task("pid-lagrangian", "SafetyPointGoal1-v0", 1_000_000, 3, fields=CENTERED),
    "pointgoal-integral": Task("pid-lagrangian", "SafetyPointGoal1-v0", 1_000_000, 3, fields=INTEGRAL),
    "pointgoal-fast-integral": Task("pid-lagrangian", "SafetyPointGoal1-v0", 1_600_000, 3, fields=FAST_INTEGRAL),
    "pointgoal-fast-pid": Task("pid-lagrangian", "SafetyPointGoal1-v0", 1_600_000, 3, fields=FAST_PID),
}


def main() -> None:
    """Trains and prints."""
    arguments = parse_arguments()
    known = machine.describe()
    rows: list[list[str]] = []
    runs: dict[str, list[RunFolder]] = {}
    headers: tuple[str, ...] = ()
    try:
        overrides = parse_assignments(arguments.set)
        for name in arguments.task:
            task = TASKS[name]
            seeds = range(arguments.seeds or task.seeds)
            runs[name] = [train(name, task, seed, arguments, overrides) for seed in seeds]
            headers, row = summary(name, task, runs[name])
            rows.append(row)
        if arguments.picture:
            for path in draw(runs, arguments.picture):
                print(f"picture: {path}")
    except UserError as error:
        sys.exit(f"error: {error}")
    print_table(headers, rows)
    constrained = [[name, *control_row(run)] for name, of in runs.items() for run in of if _limit(run) is not None]
    if constrained:
        print()
        print_table(CONTROL, constrained)
    print("\n" + machine.sentence(known))
    if arguments.markdown:
        text = f"### Learning\n\n{machine.sentence(known)}.\n\n{markdown_table(headers, rows)}\n"
        if constrained:
            text += f"\n{markdown_table(CONTROL, constrained)}\n"
        arguments.markdown.write_text(text, encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Learning curves of Quadriga over several seeds.")
    parser.add_argument("--task", choices=TASKS, action="append", help="may be given several times (default: all)")
    parser.add_argument("--seeds", type=int, help="how many, counted from 0 (default: each task's own)")
    parser.add_argument("--steps", type=int, help="environment steps of a run (default: each task's own)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of quadriga train")
    parser.add_argument("--runs-dir", default="runs/learning", help="folder of the run folders (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curves, a file an environment")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a fragment for RESULTS.md")
    arguments = parser.parse_args()
    arguments.task = arguments.task or list(TASKS)
    for option in ("seeds", "steps"):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            parser.error(f"--{option}: expected 1 or more")
    return arguments


def train(name: str, task: Task, seed: int, arguments: argparse.Namespace, overrides: Mapping[str, Any]) -> RunFolder:
    """One run to its end."""
    fields: dict[str, Any] = {"preset": task.preset, "env": task.env, "seed": seed, "steps": task.steps}
    if arguments.steps:
        fields["steps"] = arguments.steps
    fields = experiments.merged(experiments.merged(fields, task.fields), overrides)
    began = time.monotonic()
    run = training.train(experiments.build(fields), runs_dir=arguments.runs_dir, progress="quiet")
    returns = run.metrics.read().column("episode_return_mean").to_numpy(zero_copy_only=False)
    print(
        f"{name} seed {seed}: {run.path}: return {last_mean(returns, LAST_SHARE):.1f} "
        f"({time.monotonic() - began:.0f} s)",
        file=sys.stderr,
    )
    return run


def summary(name: str, task: Task, runs: Sequence[RunFolder]) -> tuple[tuple[str, ...], list[str]]:
    """Headers and the row of one task: means of each run's last tenth, over the seeds, with a 95% interval."""
    columns = [
        {metric: table.column(metric).to_numpy(zero_copy_only=False) for metric in table.column_names}
        for table in (run.metrics.read() for run in runs)
    ]
    reached = "no goal"
    if task.goal is not None:
        steps = [first_reached(c["env_steps"], c["episode_return_mean"], task.goal) for c in columns]
        reached = f"{task.goal:,.0f}: " + ", ".join("never" if at is None else f"{at:,}" for at in steps)
    cells = [
        show_interval(mean_interval([last_mean(column[metric], LAST_SHARE) for column in columns]))
        if all(metric in column for column in columns)
        else "-"
        for metric in METRICS
    ]
    length = int(np.max([column["env_steps"][-1] for column in columns]))
    headers = (
        "task",
        "steps",
        "seeds",
        "goal first reached at step",
        *(metric.replace("_", " ") for metric in METRICS),
    )
    return headers, [f"{task.preset} on {task.env} ({name})", f"{length:,}", str(len(runs)), reached, *cells]


def control_row(run: RunFolder) -> list[str]:
    """How well the multiplier held the limit; `CONTROL` names the columns.

    All but the first are of the cost's running mean over 5 iterations; lowest and highest without the first ten.
    """
    table = run.metrics.read()
    costs, episodes, multiplier = (
        table.column(name).to_numpy(zero_copy_only=False).astype(float)
        for name in ("constraint_cost", "episodes_this_iteration", "lagrange_multiplier")
    )
    limit = _limit(run)
    assert limit is not None
    last = int(np.searchsorted(np.cumsum(episodes[::-1]), EPISODES)) + 1
    smooth = np.convolve(costs, np.full(5, 0.2), "valid")
    return [
        str(run.experiment().seed),
        f"{np.average(costs[-last:], weights=episodes[-last:]):.1f}",
        f"{smooth.std():.1f}",
        f"{smooth[10:].min():.0f}, {smooth[10:].max():.0f}",
        f"{np.sqrt(np.mean((smooth - limit) ** 2)):.1f}",
        f"{np.mean(smooth > limit):.2f}",
        f"{np.mean(np.abs(smooth - limit) > NEAR):.2f}",
        f"{np.mean(np.maximum(smooth[: len(smooth) // 4] - limit, 0.0)):.1f}",
        f"{multiplier.max():.1f}",
    ]


def _limit(run: RunFolder) -> float | None:
    limit: float | None = getattr(getattr(run.experiment(), "constraint", None), "cost_limit", None)
    return limit


def draw(runs: Mapping[str, Sequence[RunFolder]], picture: Path) -> list[Path]:
    """A picture an environment, with all tasks on it."""
    by_env: dict[str, list[RunFolder]] = {}
    for name, of in runs.items():
        by_env.setdefault(TASKS[name].env, []).extend(of)
    return [
        plot_runs(of, picture if len(by_env) == 1 else picture.with_stem(f"{picture.stem}-{env}"))
        for env, of in by_env.items()
    ]


if __name__ == "__main__":
    main()
