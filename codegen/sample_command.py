"""`quadriga code sample` and `quadriga code evaluate`: thin; they turn flags into calls and say the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quadriga.codegen.options import (
    AsJson,
    Ks,
    Samples,
    Temperature,
    Timeout,
    Unsafe,
    Workers,
    cpus,
    parse_ks,
    require_jsonl,
    warn,
)
from quadriga.codegen.sampling_options import SamplingOptions
from quadriga.platform.errors import UserError
from quadriga.platform.interrupts import resumable
from quadriga.platform.options import unfold

if TYPE_CHECKING:
    from quadriga.codegen.decoding import Decoding
    from quadriga.codegen.sampling import Plan
    from quadriga.codegen.sweep import Point


@unfold
def sample(
    options: SamplingOptions,
    samples: Samples = 1,
    temperature: Temperature = 0.2,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.jsonl", help="Samples.")] = Path("samples.jsonl"),
    as_json: AsJson = False,
) -> None:
    """Let a model write solutions, many of each problem, into a file for `quadriga code execute`.

    \b
    quadriga code sample --problems builtin -n 4 --temperature 0.8
    quadriga code sample --model runs/mine/export -n 20 --samplers 2 -o mine.jsonl
    """
    from quadriga.codegen import sampling
    from quadriga.codegen.samples import count_python

    require_jsonl(out)
    work, engines = options.prepare(samples, temperature)
    with resumable(f"what was made is in {out}; the same command goes on"):
        try:
            made = options.run(work, engines, out, quiet=as_json)
        finally:
            engines.close()
    python = count_python(out, work.problems)
    if as_json:
        from quadriga.platform.progress import json_line

        fields = {"samples": made.samples, "resumed": made.resumed, "tokens": made.tokens, "python": python}
        print(json_line({**fields, "out": str(out), **work.settings.as_json()}))
        return
    again = f", {made.resumed:,} of them by an earlier run" if made.resumed else ""
    print(f"{made.samples:,} samples of {len(work.problems):,} problems{again}")
    print(f"{python:,} of them ({python / made.samples:.1%}) are Python")
    print(f"samples: {out}\nsettings: {sampling.settings_path(out)}")
    print(f"next: quadriga code execute {out} --problems {options.problems}")


@unfold
def evaluate(
    options: SamplingOptions,
    samples: Samples = 10,
    temperatures: Annotated[
        str, typer.Option("--temperatures", metavar="T,T,...", help="Each gets its own samples.")
    ] = "0.2,0.8",
    k: Ks = "1,10,100",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Samples, results, picture.")] = Path(
        "code-evaluation"
    ),
    timeout: Timeout = 3.0,
    workers: Workers = None,
    unsafe: Unsafe = False,
    as_json: AsJson = False,
) -> None:
    """Sample, execute and estimate pass@k at several temperatures; draw the paper's figure 5.

    \b
    quadriga code evaluate --problems builtin -n 10 --temperatures 0.2,0.6,0.8
    """
    from quadriga.codegen import pictures, sweep
    from quadriga.platform.tables import print_table

    asked, ks = sweep.temperatures(temperatures), parse_ks(k)
    if any(each < 1 for each in ks):
        raise UserError(f"--k: expected 1 or more, got {min(ks)}")
    kept = sorted({each for each in ks if each <= samples})
    if len(kept) < len(set(ks)):
        warn(f"k = {', '.join(str(each) for each in sorted(set(ks) - set(kept)))} left out: more than --samples")
    work, engines = options.prepare(samples, asked[0])
    works = [_at(work, temperature) for temperature in asked]
    points: list[Point] = []
    with resumable(f"what was made is in {out}; the same command goes on"):
        try:
            for part in works:
                path = sweep.samples_path(out, part.settings.decoding.temperature)
                options.run(part, engines, path, quiet=as_json)
                points.append(_judge(part, path, kept, timeout, workers or cpus(), unsafe))
        finally:
            engines.close()
    settings = {name: value for name, value in work.settings.as_json().items() if name != "temperature"}
    sweep.write(out, points, {**settings, "problems": options.problems, "samples_per_problem": samples})
    plural = "s" if samples > 1 else ""
    title = f"{Path(options.model).name} on {Path(options.problems).name}, {samples} sample{plural} a problem"
    pictures.save(pictures.pass_at_k(points, title), out / sweep.PICTURE)
    if as_json:
        from quadriga.platform.progress import json_line

        print(json_line({**sweep.as_json(points, settings), "out": str(out)}))
        return
    rows = []
    for point in points:
        values = [point.pass_at_k.get(each) for each in kept]
        shown = [f"{each.estimate:.4f} [{each.low:.4f}, {each.high:.4f}]" if each else "" for each in values]
        rows.append((f"{point.temperature:g}", *shown))
    print_table(("temperature", *(f"pass@{each}" for each in kept)), rows)
    for each, point in sweep.best(points).items():
        if each in kept:
            print(f"best for k = {each}: temperature {point.temperature:g}")
    print(f"numbers: {out / sweep.SUMMARY}\npicture: {out / sweep.PICTURE}")


def _at(work: Plan, temperature: float) -> Plan:
    from dataclasses import replace

    decoding: Decoding = replace(work.settings.decoding, temperature=temperature)
    return replace(work, settings=replace(work.settings, decoding=decoding))


def _judge(work: Plan, path: Path, kept: list[int], timeout: float, workers: int, unsafe: bool) -> Point:
    from quadriga.codegen import execution, sweep
    from quadriga.codegen.command import default_out
    from quadriga.codegen.pool import LocalPool
    from quadriga.codegen.sandbox.limits import Limits

    limits = Limits(wall_s=timeout)
    judged = execution.plan(path, work.problems, sorted({*kept, *sweep.curve_ks(work.samples)}), partial=False)
    pool = LocalPool(workers, limits, "split", unsafe=unsafe)
    try:
        summary = execution.execute(judged, pool, default_out(path), mode="split", limits=limits)
    finally:
        pool.close()
    if summary.verdicts["infrastructure_error"]:
        warn(f"{summary.verdicts['infrastructure_error']:,} samples of {path.name} were not judged; see {path.parent}")
    if said := summary.left_out(kept):
        warn(f"{said} in {path.name}")
    return sweep.Point(work.settings.decoding.temperature, summary.pass_at_k, summary.samples)
