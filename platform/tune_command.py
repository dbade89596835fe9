"""`quadriga tune`. Thin, as all commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from quadriga.platform.errors import UserError
from quadriga.platform.options import Address, AsJson, Name, Quiet, RunsDir, Steps
from quadriga.platform.tables import print_table

app = typer.Typer(rich_markup_mode=None)
SHOWN = 5


@app.command("tune", short_help="Search over fields of an experiment.")
def tune(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="FILE.yaml", help="Experiment with a search: section.", show_default=False)
    ] = None,
    steps: Steps = None,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="Draws (search.trials).")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Trials at once (search.concurrency).")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field: --set search.seed=1. May be repeated."),
    ] = None,
    name: Name = None,
    runs_dir: RunsDir = "runs",
    resume: Annotated[str | None, typer.Option(metavar="SEARCH", help="Take this search up where it was.")] = None,
    address: Address = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search over fields of an experiment with Ray Tune; ends with the best one as a file ready to train.

    \b
    quadriga tune examples/tune/pid_gains.yaml
    quadriga tune --resume tune-pid-lagrangian-SafetyPointGoal1-v0
    """
    from quadriga.platform import experiment as experiments
    from quadriga.platform import search, storage, tuning, tuning_results
    from quadriga.platform.progress import json_line, number, words
    from quadriga.platform.tuning_table import shown

    if as_json and quiet:
        raise UserError("--json and --quiet: give one of them")
    options: dict[str, Any] = {
        "runs_dir": runs_dir,
        "progress": "json" if as_json else "quiet" if quiet else "auto",
        "address": address,
        "worker_output": bool((context.obj or {}).get("debug")),
    }
    varied = {"trials": trials, "concurrency": concurrency}
    overrides: dict[str, Any] = {"search": {key: value for key, value in varied.items() if value is not None}}
    overrides |= {"steps": steps} if steps is not None else {}
    overrides = experiments.merged(overrides, experiments.parse_assignments(assignments or []))
    if resume is not None:
        if source is not None or name or assignments or overrides != {"search": {}}:
            raise UserError("--resume goes on with the search as it was begun and takes no other field")
        outcome = tuning.resume(resume, **options)
    elif source is None:
        raise UserError("what is to be searched? e.g. quadriga tune examples/tune/pid_gains.yaml")
    else:
        fields, settings = search.load(source, overrides)
        outcome = tuning.tune(fields, settings, name=name, **options)
    best = outcome.best()
    path = outcome.folder.path
    failed = f"{outcome.failed} of {len(outcome.trials)} trials failed; "
    failed += f"see {storage.join(path, tuning_results.RESULTS)}"
    if as_json:
        result = None if best is None else {"trial": best.name, "point": dict(best.point), **best.means}
        print(json_line({"search": path, "best": result}))
    if best is None:
        raise UserError(f"no trial has a result: {failed}")
    if as_json or quiet:
        return
    if outcome.failed:
        print(failed)
    headers = ("trial", *outcome.settings.parameters, "steps", *map(words, outcome.settings.objective.metrics))
    rows = [
        (
            each.name,
            *(shown(each.point.get(field, "")) for field in outcome.settings.parameters),
            f"{each.step:,}",
            *(number(each.means[metric]) for metric in outcome.settings.objective.metrics),
        )
        for each in outcome.ranking()[:SHOWN]
    ]
    print(f"best of {len(outcome.trials)} trials:")
    print_table(headers, rows)
    print(f"picture: {storage.join(path, tuning_results.PICTURE)}")
    print("next:")
    print(f"  quadriga train {storage.join(path, tuning_results.BEST)}")
    print(f"  quadriga plot {storage.join(storage.join(path, tuning.TRIALS), best.name)}")
