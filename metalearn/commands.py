"""`quadriga meta`: train, evaluate and plot meta-learning runs, and fetch their data. Thin, as all commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from quadriga.platform.errors import UserError
from quadriga.platform.options import Address, AsJson, Chosen, Name, Quiet, Resume, RunsDir, Seed, Steps
from quadriga.platform.tables import print_table
from quadriga.platform.train_command import train_or_resume

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Meta-learning: Reptile, first-order MAML, MAML.")


class DataSet(StrEnum):
    """What `quadriga meta download` fetches."""

    omniglot = "omniglot"


DataRoot = Annotated[
    str | None, typer.Option("--data-root", metavar="DIR", help="Folder of the data sets (default: QUADRIGA_DATA).")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, by name or path.", show_default=False)]


@app.command(short_help="Meta-train by preset or experiment file.")
def train(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="[PRESET|FILE.yaml]", help="Preset name or experiment file.")
    ] = None,
    steps: Steps = None,
    seed: Seed = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that learn tasks; 0 learns in this one.")
    ] = None,
    data_root: DataRoot = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field: --set inner.steps=8. May be repeated."),
    ] = None,
    name: Name = None,
    runs_dir: RunsDir = "runs",
    resume: Resume = None,
    address: Address = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Meta-train by preset or from an experiment file, or continue a run.

    \b
    quadriga meta train sine
    quadriga meta train reptile-omniglot-5way-1shot --workers 2 --data-root data
    quadriga meta train --resume my-run --steps 200k
    """
    train_or_resume(
        context,
        source,
        {
            "--steps": ("steps", steps),
            "--seed": ("seed", seed),
            "--workers": ("compute.workers", workers),
            "--data-root": ("task.data_root", data_root),
            "--name": ("name", name),
        },
        assignments,
        resume=resume,
        runs_dir=runs_dir,
        address=address,
        as_json=as_json,
        quiet=quiet,
        missing="what is to be trained? e.g. quadriga meta train sine; see: quadriga list presets",
    )


@app.command(short_help="Test a run on unseen tasks.")
def evaluate(
    run: Run,
    tasks: Annotated[int, typer.Option(min=1, metavar="N", help="Test tasks.")] = 1000,
    transductive: Annotated[
        bool | None,
        typer.Option(
            "--transductive/--no-transductive",
            help="All queries of a task in one batch, or each by itself; both if not given.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, metavar="K", help="Inner steps (default: the run's).")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of the test tasks.")] = 0,
    checkpoint: Annotated[
        Chosen, typer.Option(help="Where training stands, or the best score seen while training.")
    ] = Chosen.latest,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Ray workers that share the tasks.")] = 0,
    data_root: DataRoot = None,
    runs_dir: RunsDir = "runs",
    as_json: AsJson = False,
) -> None:
    """Test a run's weights on unseen tasks: accuracy, or squared error, with 95% intervals.

    \b
    quadriga meta evaluate my-run --tasks 10000
    quadriga meta evaluate my-run --no-transductive --checkpoint best
    """
    from quadriga.platform.evaluation import EVALUATIONS
    from quadriga.platform.evaluation import evaluate as measure
    from quadriga.platform.lines import EvaluationRequest
    from quadriga.platform.progress import json_line, number
    from quadriga.platform.run_folder import RunFolder

    folder = RunFolder.open(run, runs_dir)
    _require_meta(folder)
    if workers:
        from quadriga.platform.runtime import ensure_ray

        ensure_ray(num_cpus=workers)
    options = {"transductive": transductive, "steps": steps, "workers": workers, "data_root": data_root}
    given = {name: value for name, value in options.items() if value is not None}
    result = measure(folder, EvaluationRequest(tasks, seed, options=given), checkpoint=checkpoint.value)
    if as_json:
        print(json_line(result.as_json()))
        return
    print(f"{result.run}: {result.checkpoint} checkpoint (meta-iteration {result.step:,}), {tasks:,} unseen tasks")
    rows = []
    for name, (mean, low, high, _) in result.intervals.items():
        if name.startswith("accuracy"):
            rows.append((name.replace("_", ", "), f"{mean:.2%}", f"{low:.2%} to {high:.2%}"))
        else:
            rows.append((name.replace("_", " "), number(mean), f"{number(low)} to {number(high)}"))
    print_table(("", "mean", "95% interval"), rows)
    print(f"kept in {folder.path}/{EVALUATIONS}")


@app.command(short_help="Draw waves or learning curves.")
def plot(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs, by name or path.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.png", help="Default: in the run's folder, or here.")
    ] = None,
    curves: Annotated[bool, typer.Option("--curves", help="Learning curves of a sine run too.")] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of the wave that is learned.")] = 0,
    runs_dir: RunsDir = "runs",
) -> None:
    """Draw a sine run's fit of a fresh wave, before and after meta-training; of other runs the learning curves.

    \b
    quadriga meta plot waves
    quadriga meta plot waves --curves -o curves.svg
    """
    from quadriga.metalearn.experiment import SineSettings
    from quadriga.platform.run_folder import RunFolder

    folders = [RunFolder.open(run, runs_dir) for run in runs]
    experiments = [_require_meta(folder) for folder in folders]
    waves = len(folders) == 1 and isinstance(experiments[0].task, SineSettings) and not curves
    inside = folders[0].local_path("plot.png") if len(folders) == 1 else None
    default = "waves.png" if waves else "plot.png"
    target = output or (Path(folders[0].path, default) if inside else Path(default))
    if waves:
        from quadriga.metalearn.wave_picture import draw

        draw(folders[0], target, seed)
    else:
        from quadriga.platform.plot import plot_runs

        plot_runs(folders, target)
    print(f"plot: {target}")


@app.command(short_help="Fetch a data set.")
def download(
    data_set: Annotated[DataSet, typer.Argument(help="What to fetch.", show_default=False)],
    data_root: DataRoot = None,
) -> None:
    """Fetch a data set from its publisher, check it and make its compact copy.

    \b
    quadriga meta download omniglot --data-root data
    """
    from quadriga.metalearn import data_root as roots
    from quadriga.metalearn import omniglot

    print(f"{data_set.value}: {omniglot.download(roots.resolve(data_root))}")


def _require_meta(folder: Any) -> Any:
    from quadriga.metalearn.experiment import MetaExperiment

    experiment = folder.experiment()
    if not isinstance(experiment, MetaExperiment):
        raise UserError(f"run {folder.path!r} is no meta-learning run; see: quadriga evaluate, quadriga plot")
    return experiment
