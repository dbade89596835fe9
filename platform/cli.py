"""The command line. Thin: every command turns its flags into a call and says the result.

What is heavy (Ray, torch, gymnasium, matplotlib) is imported by the command that needs it. Lines of
work add commands with the entry-point group `quadriga.commands`.
"""

from __future__ import annotations

import importlib.metadata
import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

from quadriga.platform.benchmark_command import benchmark
from quadriga.platform.errors import TrainingInterrupted, UserError, one_line
from quadriga.platform.options import (
    Address,
    AsJson,
    Name,
    Quiet,
    Resume,
    RunsDir,
    Seed,
    Steps,
    complete_environment,
    complete_source,
)
from quadriga.platform.result_commands import evaluate, export, plot, report
from quadriga.platform.runs_commands import runs, show
from quadriga.platform.tables import print_table
from quadriga.platform.train_command import train_or_resume

COMMANDS = "quadriga.commands"
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


class Listing(StrEnum):
    """What `quadriga list` lists."""

    algorithms = "algorithms"
    benchmarks = "benchmarks"
    environments = "environments"
    presets = "presets"


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks of errors, and all output of workers.")] = False,
) -> None:
    """Quadriga: distributed training on Ray.

    \b
    quadriga train ppo --env CartPole-v1
    quadriga train pid-lagrangian --env SafetyPointGoal1-v0 --steps 300k
    quadriga list presets
    """
    context.obj = {"debug": debug}
    if version:
        print(f"quadriga {importlib.metadata.version('quadriga')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


@app.command(short_help="Train an algorithm, or continue a run.")
def train(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET|FILE.yaml",
            help="Algorithm or experiment file.",
            show_default=False,
            autocompletion=complete_source,
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Environment; see: quadriga list environments.", autocompletion=complete_environment
        ),
    ] = None,
    steps: Steps = None,
    seed: Seed = None,
    env_runners: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that collect; 0 collects in this one.")
    ] = None,
    envs_per_runner: Annotated[int | None, typer.Option(metavar="N", help="Environments in each of them.")] = None,
    learners: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that learn; 0 learns in this one.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field: --set update.epochs=4. May be repeated."),
    ] = None,
    name: Name = None,
    runs_dir: RunsDir = "runs",
    resume: Resume = None,
    address: Address = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="A local Ray serves its dashboard.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train an algorithm by name or from an experiment file, or continue a run.

    \b
    quadriga train ppo --env CartPole-v1 --steps 100k
    quadriga train my-experiment.yaml --seed 1 --set constraint.cost_limit=10
    quadriga train --resume my-run --steps 2M
    """
    train_or_resume(
        context,
        source,
        {
            "--env": ("env.id", env),
            "--steps": ("steps", steps),
            "--seed": ("seed", seed),
            "--env-runners": ("rollout.env_runners", env_runners),
            "--envs-per-runner": ("rollout.envs_per_runner", envs_per_runner),
            "--learners": ("learner.learners", learners),
            "--name": ("name", name),
        },
        assignments,
        resume=resume,
        runs_dir=runs_dir,
        address=address,
        as_json=as_json,
        quiet=quiet,
        missing="what is to be trained? e.g. quadriga train ppo --env CartPole-v1, or quadriga train --resume RUN; "
        "see: quadriga list presets",
        dashboard=dashboard,
    )


app.command(short_help="Play a trained run.")(evaluate)
app.command(short_help="Draw the learning curves of runs.")(plot)
app.command(short_help="Write an HTML report of runs.")(report)
app.command(short_help="Write a policy for other programs.")(export)
app.add_typer(runs, name="runs")
app.command(short_help="Show a run.")(show)
app.command(short_help="Run a benchmark: algorithms x tasks x seeds.")(benchmark)


@app.command("list", short_help="List algorithms, benchmarks, environments or presets.")
def list_(
    what: Annotated[Listing, typer.Argument(help="What to list.", show_default=False)],
    filter_text: Annotated[str, typer.Option("--filter", metavar="TEXT", help="Only rows that contain this.")] = "",
    as_json: AsJson = False,
) -> None:
    """List presets (whole algorithms), the building blocks of algorithms, benchmarks, or environments.

    \b
    quadriga list presets
    quadriga list environments --filter PointGoal
    """
    from quadriga.platform import lines
    from quadriga.platform.progress import json_line

    if what is Listing.environments:
        from quadriga.platform.environments.registry import list_environments

        headers: tuple[str, ...] = ("environment", "family", "what it is")
        rows = [tuple(map(str, row)) for row in list_environments()]
    elif what is Listing.presets:
        headers = ("preset", "what it is", "published in")
        rows = [
            (name, preset.summary, preset.source)
            for line in lines.all_lines().values()
            for name, preset in line.presets.items()
        ]
    elif what is Listing.benchmarks:
        headers = ("benchmark", "suite", "tasks", "what it is")
        rows = [
            (name, suite_name, str(len(suite.tasks)), suite.summary)
            for line in lines.all_lines().values()
            for name, found in line.benchmarks.items()
            for suite_name, suite in found.suites.items()
        ]
    else:
        headers = ("part", "name", "what it is")
        rows = [
            (kind, name, summary)
            for line in lines.all_lines().values()
            for kind, names in line.components.items()
            for name, summary in names.items()
        ]
    rows = [row for row in rows if filter_text.lower() in " ".join(row).lower()]
    if as_json:
        for row in rows:
            print(json_line(dict(zip(headers, row, strict=True))))
    else:
        print_table(headers, rows)
        if not rows:
            print(f"no {what.value} contain {filter_text!r}" if filter_text else f"no {what.value}")
    _warn_of_broken_lines()


@app.command(short_help="Check the installation.")
def doctor(runs_dir: RunsDir = "runs", as_json: AsJson = False) -> None:
    """Check the installation: what is there, what is missing, how to fix it.

    \b
    quadriga doctor
    """
    from quadriga.platform.doctor import examine, is_healthy
    from quadriga.platform.progress import json_line

    checks = examine(runs_dir)
    healthy = is_healthy(checks)
    if as_json:
        print(json_line({"healthy": healthy, "checks": [check.as_json() for check in checks]}))
    else:
        print_table(("status", "what", "found"), [(check.status, check.name, check.found) for check in checks])
        to_do = [check for check in checks if check.fix]
        print("\nto put right:" if to_do else "\neverything is there")
        for check in to_do:
            print(f"  {check.name}: {check.fix}")
    if not healthy:
        raise typer.Exit(1)


def _warn_of_broken_lines() -> None:
    from quadriga.platform import lines
    from quadriga.platform.doctor import explain_import

    for name, error in lines.broken_lines().items():
        _complain(f"the line of work {name!r} is off: {explain_import(error)}", kind="warning")


class _Warnings(logging.Handler):
    """What the platform logs, as the command line says it."""

    def emit(self, record: logging.LogRecord) -> None:
        _complain(record.getMessage(), kind=record.levelname.lower())


def _complain(text: str, *, kind: str = "error") -> None:
    print(f"quadriga: {kind}: {text}", file=sys.stderr, flush=True)


def _plugins() -> None:
    """Adds the commands of other packages; one that cannot be imported says why when it is called."""
    known = {command.name or (command.callback and command.callback.__name__) for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    for point in importlib.metadata.entry_points(group=COMMANDS):
        if point.name in known:
            continue
        try:
            loaded = point.load()
            if [command.name for command in loaded.registered_commands] == [point.name]:
                app.registered_commands += loaded.registered_commands  # a command, and no group
            else:
                app.add_typer(loaded, name=point.name)
        except Exception as error:
            app.command(point.name, help="(cannot be imported)", context_settings={"ignore_unknown_options": True})(
                _broken_command(point.name, error)
            )


def _broken_command(name: str, error: Exception) -> Any:
    def command(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> NoReturn:
        from quadriga.platform.doctor import explain_import

        raise UserError(f"the command {name!r} is off: {explain_import(error)}") from error

    return command


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; a defect is raised.

    2: the user can put it right (one line on stderr says how); 128 + signal: interrupted, with a checkpoint saved
    where it trained; 130: left at a question; 1: `doctor` found something missing.
    """
    debug = "--debug" in arguments  # valid at any place, not only before the command
    arguments = ["--debug"] * debug + [argument for argument in arguments if argument != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")
    logger = logging.getLogger("quadriga")
    logger.handlers = [_Warnings()]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    _plugins()
    try:
        code = typer.main.get_command(app)(arguments, prog_name="quadriga", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except TrainingInterrupted as interrupted:
        _complain(str(interrupted), kind="interrupted")
        return 128 + interrupted.signum
    except typer.Abort:  # Ctrl-C at a question, or nobody to answer it
        print(file=sys.stderr)
        return 128 + signal.SIGINT
    except typer.TyperException as error:
        _complain(" ".join(error.format_message().replace("Value error, ", "").split()))
        return 2
    except (UserError, ImportError) as error:
        if _is_defect(error):
            raise
        from quadriga.platform.doctor import explain_import

        if debug:
            traceback.print_exc()
        _complain(one_line(error) if isinstance(error, UserError) else explain_import(error))
        return 2


def _is_defect(error: Exception) -> bool:
    """An import that fails inside our own package is our fault; a package that is not there is not."""
    return isinstance(error, ImportError) and (error.name or "").partition(".")[0] in ("", "quadriga")


def main() -> NoReturn:
    """The console script `quadriga`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
