"""`quadriga benchmark`: a grid of algorithms, tasks and seeds, and its report. Thin, as all commands."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from quadriga.platform.errors import UserError, unknown
from quadriga.platform.options import Address, Quiet, RunsDir, Steps

SEEDS = re.compile(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*")


def parse_seeds(text: str | None) -> list[int]:
    """`0,1,2`, `0-4` or `0-4,10`; none of `None`.

    Raises:
        typer.BadParameter: anything else.
    """
    if text is None:
        return []
    seeds: list[int] = []
    if SEEDS.fullmatch(text.strip()):
        for part in text.strip().split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    if not seeds:
        raise typer.BadParameter(f"--seeds: expected seeds such as 0,1,2 or 0-4, got {text!r}")
    return list(dict.fromkeys(seeds))


def parse_names(text: str | None) -> list[str]:
    """`ppo,cpo`, blanks around a name do not count; none of `None`.

    Raises:
        typer.BadParameter: a name is empty.
    """
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if not all(names):
        raise typer.BadParameter(f"expected names separated by commas, got {text!r}")
    return list(dict.fromkeys(names))


def benchmark(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="BENCHMARK", help="See: quadriga list benchmarks.", show_default=False)
    ],
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="Part of the benchmark (default: its first).")
    ] = None,
    presets: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Algorithms: the suite's, presets, FILE.yaml (default: the suite's)."),
    ] = None,
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="Instead of the suite's tasks.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="0,1|0-4", help="Of each algorithm on each task.")] = None,
    steps: Steps = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Trials at once (default: what the CPUs hold).")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, metavar="N", help="Further attempts of a trial that fails.")] = 1,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A field of every trial. May be repeated."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the folder; the same one goes on with it.")
    ] = None,
    runs_dir: RunsDir = "runs",
    report: Annotated[bool, typer.Option("--report", help="Run nothing; write the report of what is there.")] = False,
    address: Address = None,
    quiet: Quiet = False,
) -> None:
    """Run a benchmark's algorithms on its tasks, several seeds each, and report; called again, it goes on.

    \b
    quadriga benchmark safety-gym --suite sg1 --presets pid-lagrangian,cpo --seeds 0-2 --steps 1M
    quadriga benchmark safety-gym --suite sg1 --report
    """
    from quadriga.platform import benchmark as benchmarks
    from quadriga.platform import benchmark_report, storage
    from quadriga.platform import experiment as experiments
    from quadriga.platform.benchmark_trial import Trial

    line, found = benchmarks.find_benchmark(source)
    suite = suite or next(iter(found.suites))
    if suite not in found.suites:
        raise unknown("suite", suite, found.suites)
    chosen = found.suites[suite]
    folder = storage.join(runs_dir, name or f"{source}-{suite}")
    say = (lambda text: None) if quiet else (lambda text: print(text, flush=True))
    failed: list[Trial] = []
    try:
        if not report:
            trials = benchmarks.grid(
                line,
                found,
                benchmarks.choose_variants(line, chosen, parse_names(presets)),
                parse_names(tasks) or chosen.tasks,
                parse_seeds(seeds) or found.seeds,
                steps or chosen.steps,
                experiments.parse_assignments(assignments or []),
            )
            debug = bool((context.obj or {}).get("debug"))
            session = benchmarks.Session(folder, trials, say)
            failed = session.run(address=address, concurrent=concurrent, retries=retries, worker_output=debug)
    finally:
        # Also of a grid that was stopped: what it has is worth its table.
        if benchmarks.read_records(folder):
            say(benchmark_report.write(line, found, f"{source}, suite {suite}", folder, chosen.axis))
            say(f"report: {storage.join(folder, benchmark_report.MARKDOWN)}")
        elif report:
            raise UserError(f"{folder!r} holds no trials of a benchmark")
    if failed:
        names = ", ".join(trial.name for trial in failed)
        raise UserError(f"{len(failed)} of the trials failed: {names}; the report says why")
