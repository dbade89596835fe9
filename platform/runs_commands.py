"""`quadriga runs` and `quadriga show`: thin; lists, compares, shows and removes runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quadriga.platform.errors import UserError
from quadriga.platform.options import AsJson, Run, Runs, RunsDir
from quadriga.platform.tables import print_table

if TYPE_CHECKING:
    from quadriga.platform.run_folder import RunFolder
    from quadriga.platform.run_summary import RunSummary

runs = typer.Typer(
    add_completion=False, rich_markup_mode=None, invoke_without_command=True, help="List, compare and remove runs."
)


@runs.callback()
def list_runs(
    context: typer.Context,
    filter_text: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help="Only runs whose name, preset, task or state contains this.")
    ] = "",
    runs_dir: RunsDir = "runs",
    as_json: AsJson = False,
) -> None:
    """List runs: what each is, how far it is and where it stands; newest last.

    \b
    quadriga runs
    quadriga runs --filter PointGoal
    quadriga runs compare ppo-0 pid-0
    quadriga runs remove old-run
    """
    if context.invoked_subcommand is not None:
        return
    from quadriga.platform import run_folder
    from quadriga.platform.progress import json_line
    from quadriga.platform.run_folder import RunFolder
    from quadriga.platform.run_summary import summarize

    found = []
    for name in run_folder.list_runs(runs_dir):
        try:
            found.append(summarize(RunFolder.open(name, runs_dir)))
        except UserError as error:
            typer.echo(f"quadriga: warning: {name}: {error}", err=True)
    found = [run for run in found if filter_text.lower() in _searched(run)]
    found.sort(key=lambda run: (run.began or "", run.name))
    if as_json:
        for run in found:
            print(json_line(run.as_json()))
        return
    if not found:
        print(f"no runs in {runs_dir!r}" + (f" contain {filter_text!r}" if filter_text else ""))
    headers = ("run", "preset", "task", "seed", "steps", "state", "begun (UTC)", "newest")
    print_table(headers, [_row(run) for run in found])


@runs.command(short_help="Show in what runs differ.")
def compare(names: Runs, runs_dir: RunsDir = "runs", as_json: AsJson = False) -> None:
    """Show the fields in which runs differ, and their newest metrics, beside each other.

    \b
    quadriga runs compare ppo-0 pid-0
    """
    from quadriga.platform.progress import json_line, number
    from quadriga.platform.run_folder import RunFolder
    from quadriga.platform.run_summary import differing_fields, summarize

    folders = [RunFolder.open(name, runs_dir) for name in names]
    if len(folders) < 2:
        raise UserError("runs compare: give two runs or more")
    summaries = [summarize(folder) for folder in folders]
    differing = differing_fields([folder.experiment() for folder in folders])
    metrics = list(dict.fromkeys(name for run in summaries for name in run.metrics))
    if as_json:
        parts = {"runs": [run.name for run in summaries], "fields": differing}
        print(json_line({**parts, "metrics": {name: [run.metrics.get(name) for run in summaries] for name in metrics}}))
        return
    rows = [[field, *(_value(value) for value in values)] for field, values in differing.items()]
    rows += [["state", *(run.state for run in summaries)]]
    rows += [[name, *(number(run.metrics.get(name)) for run in summaries)] for name in metrics]
    print_table(("", *(run.name for run in summaries)), rows)


@runs.command(short_help="Delete runs.")
def remove(
    names: Runs,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Delete runs with their metrics and checkpoints, after asking; not one that is being trained.

    \b
    quadriga runs remove old-run
    quadriga runs remove old-run older-run --yes
    """
    from quadriga.platform.run_folder import RunFolder
    from quadriga.platform.run_summary import summarize

    folders = [RunFolder.open(name, runs_dir) for name in dict.fromkeys(names)]
    for folder in folders:
        if not yes and not _agreed(folder, summarize(folder)):
            print(f"kept: {folder.path}")
            continue
        with folder.writing():
            folder.remove()
        print(f"deleted: {folder.path}")


def show(
    run: Run,
    runs_dir: RunsDir = "runs",
    as_json: AsJson = False,
) -> None:
    """Show a run: what it changes of its preset, where it comes from, how it stands, what it has saved.

    \b
    quadriga show my-run
    quadriga show my-run --json
    """
    from quadriga.platform.evaluation import evaluations
    from quadriga.platform.progress import json_line
    from quadriga.platform.run_folder import RunFolder
    from quadriga.platform.run_summary import changes_from_preset, last_values, provenance_of, summarize

    folder = RunFolder.open(run, runs_dir)
    checkpoints = folder.checkpoints.list()
    best = folder.checkpoints.best(verify=False)
    found: dict[str, Any] = {
        **summarize(folder).as_json(),
        "changed": {
            key: {"preset": old, "here": new} for key, (old, new) in changes_from_preset(folder.experiment()).items()
        },
        "provenance": provenance_of(folder),
        "metrics": last_values(folder),
        "checkpoints": [
            {"step": each.step, "score": each.score, "best": best is not None and each.path == best.path}
            for each in checkpoints
        ],
        "evaluations": evaluations(folder),
    }
    if as_json:
        print(json_line(found))
    else:
        _print_run(found)


def _print_run(found: dict[str, Any]) -> None:
    from quadriga.platform.progress import number, words

    origin = found["provenance"]
    git = origin.get("git") or {}
    commit = f", commit {git['commit'][:12]}{' with changes' if git.get('dirty') else ''}" if git else ""
    print(f"{found['name']}: {found['preset']} on {found['task']}, seed {found['seed']}")
    print(f"  folder      {found['path']}")
    print(f"  state       {found['state']}, {found['step']:,} of {found['steps']:,} steps")
    print(f"  begun       {found['began'] or '-'}, Quadriga {origin.get('version', '-')}{commit}")
    hardware = origin.get("hardware", {})
    if hardware:
        print(
            f"  machine     {', '.join([hardware['cpu'], str(hardware['usable_cores']) + ' cores', *hardware['gpus']])}"
        )
    saved = [f"{each['step']:,}{' (best)' if each['best'] else ''}" for each in found["checkpoints"]]
    print(f"  checkpoints {', '.join(saved) or '-'}")
    _titled("changed from the preset")
    changes = [(key, _value(both["preset"]), _value(both["here"])) for key, both in found["changed"].items()]
    print_table(("field", "preset", "here"), changes)
    if not changes:
        print("nothing")
    _titled("newest metrics")
    print_table(("metric", "value"), [(name, number(value)) for name, value in found["metrics"].items()])
    if found["evaluations"]:
        _titled("evaluations")
        rows = []
        for result in found["evaluations"]:
            how = f"{result['checkpoint']}, step {result['step']:,}, {result['episodes']} samples"
            for name, measure in result.items():
                if isinstance(measure, dict) and "mean" in measure:
                    interval = f"{number(measure['low'])} to {number(measure['high'])}"
                    rows.append((how, words(name), number(measure["mean"]), interval))
        print_table(("checkpoint", "", "mean", "95% interval"), rows)


def _titled(title: str) -> None:
    print(f"\n{title}")


def _agreed(folder: RunFolder, summary: RunSummary) -> bool:
    what = f"{summary.preset} on {summary.task}, {summary.step:,} steps"
    return typer.confirm(f"delete {folder.path} ({what})?", default=False)


def _searched(run: RunSummary) -> str:
    return " ".join((run.name, run.preset, run.task, run.state)).lower()


def _row(run: RunSummary) -> tuple[str, ...]:
    from quadriga.platform.progress import label, number

    newest = ", ".join(f"{label(name)} {number(value)}" for name, value in list(run.metrics.items())[:3])
    began = (run.began or "-")[:16].replace("T", " ")
    return run.name, run.preset, run.task, str(run.seed), f"{run.step:,}", run.state, began, newest


def _value(value: Any) -> str:
    return "-" if value is None else str(value)
