"""`quadriga evaluate`, `plot` and `report`: what is made of trained runs. Thin, as all commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quadriga.platform.options import AsJson, Chosen, Run, Runs, RunsDir, complete_run
from quadriga.platform.tables import print_table

REPORT = "report.html"


def evaluate(
    run: Run,
    episodes: Annotated[int, typer.Option(min=1, metavar="N", help="Episodes to play.")] = 20,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of the episodes and the actions.")] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--stochastic", help="The most likely actions, or sampled ones.")
    ] = True,
    checkpoint: Annotated[
        Chosen, typer.Option(help="Where training stands, or the best score seen while training.")
    ] = Chosen.latest,
    video: Annotated[Path | None, typer.Option(metavar="FILE.mp4|.gif", help="Film of the first episode.")] = None,
    runs_dir: RunsDir = "runs",
    as_json: AsJson = False,
) -> None:
    """Play a trained run's latest checkpoint: return, cost and length with 95% intervals.

    \b
    quadriga evaluate my-run --episodes 50
    quadriga evaluate my-run --checkpoint best --stochastic --video agent.mp4
    """
    from quadriga.platform.evaluation import EVALUATIONS
    from quadriga.platform.evaluation import evaluate as play
    from quadriga.platform.lines import EvaluationRequest
    from quadriga.platform.progress import json_line, number
    from quadriga.platform.run_folder import RunFolder

    folder = RunFolder.open(run, runs_dir)
    result = play(folder, EvaluationRequest(episodes, seed, deterministic, video), checkpoint=checkpoint.value)
    if as_json:
        print(json_line(result.as_json()))
        return
    how = "deterministic" if deterministic else "stochastic"
    print(
        f"{result.run}: {result.checkpoint} checkpoint (step {result.step:,}), {episodes} episodes, {how}, seed {seed}"
    )
    rows = [
        (name, number(mean), f"{number(low)} to {number(high)}")
        for name, (mean, low, high, _) in result.intervals.items()
    ]
    print_table(("", "mean", "95% interval"), rows)
    print(f"kept in {folder.path}/{EVALUATIONS}")
    if video is not None:
        print(f"film of the first episode: {video}")


def plot(
    runs: Runs,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.png", help="Default: plot.png in the run, or here.")
    ] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Draw the learning curves of runs; several seeds of one setting become a mean with a band.

    \b
    quadriga plot my-run
    quadriga plot ppo-0 ppo-1 pid-0 pid-1 -o comparison.pdf
    """
    from quadriga.platform.run_folder import RunFolder

    folders = [RunFolder.open(run, runs_dir) for run in runs]
    inside = folders[0].local_path("plot.png") if len(folders) == 1 else None
    target = output or (Path(folders[0].path, "plot.png") if inside else Path("plot.png"))
    from quadriga.platform.plot import plot_runs

    plot_runs(folders, target)
    print(f"plot: {target}")
    from quadriga.platform.plot_visits import plot_visits

    visits = plot_visits(folders, target)
    if visits is not None:
        print(f"plot: {visits}")


def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|FILE...",
            help="Runs, by name or path, and results of code execute.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.html", help="Default: in the run's folder, or here.")
    ] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write a report of runs: one HTML file that needs no network.

    \b
    quadriga report my-run
    quadriga report ppo-0 ppo-1 pid-0 pid-1 -o comparison.html
    quadriga report samples.results.jsonl -o pass_at_k.html
    """
    from quadriga.platform.report import write_report
    from quadriga.platform.run_folder import RunFolder

    if output is None:
        output = Path(REPORT)
        if len(sources) == 1 and not Path(sources[0]).is_file():
            inside = RunFolder.open(sources[0], runs_dir)
            output = Path(inside.path, REPORT) if inside.local_path(REPORT) else output
    print(f"report: {write_report(sources, output, runs_dir)}")


def export(
    run: Run,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.pt|.pt2|.onnx", help="TorchScript, torch.export or ONNX.")
    ],
    checkpoint: Annotated[
        Chosen, typer.Option(help="Where training stands, or the best score seen while training.")
    ] = Chosen.latest,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write a run's policy as a file that needs neither Ray nor Quadriga.

    \b
    quadriga export my-run -o policy.pt
    quadriga export my-run -o policy.onnx --checkpoint best
    """
    from quadriga.platform.api import load_run

    print(f"policy: {load_run(run, runs_dir).export(output, checkpoint.value)}")
