"""`quadriga code ...`: thin; turns flags into calls and says the result."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quadriga.codegen.corpus_command import app as corpus
from quadriga.codegen.describe_command import describe
from quadriga.codegen.finetune_command import export, finetune
from quadriga.codegen.new_command import new
from quadriga.codegen.options import (
    Address,
    AsJson,
    Ks,
    Problems,
    TierOption,
    Timeout,
    Unsafe,
    Where,
    Workers,
    cpus,
    parse_ks,
    parse_mode,
    parse_tier,
    warn,
)
from quadriga.codegen.rank_command import rank
from quadriga.codegen.sample_command import evaluate, sample
from quadriga.codegen.sandbox.limits import KINDS, MEGABYTE, Limits, Mode, Tier
from quadriga.platform.errors import UserError
from quadriga.platform.interrupts import resumable

if TYPE_CHECKING:
    from quadriga.codegen.execution import Plan, Summary
    from quadriga.codegen.pool import Pool

INTERVAL_S = 5.0

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Code: run it, judge it.")

app.add_typer(corpus, name="corpus")
app.command(short_help="Make a small model and a tokenizer for code.")(new)
app.command(short_help="Fine-tune a model.")(finetune)
app.command(short_help="Write a fine-tuned model.")(export)
app.command(short_help="Let a model write solutions.")(sample)
app.command(short_help="Sample, execute, pass@k over temperatures.")(evaluate)
app.command(short_help="Choose one of n samples.")(rank)
app.command(short_help="Let a model write docstrings.")(describe)


@app.callback()
def _code() -> None:
    """Models of code: sample, execute where it can do no harm, judge.

    \b
    quadriga code evaluate --problems builtin
    quadriga code execute samples.jsonl
    quadriga code check
    """


@app.command(short_help="Judge samples; print pass@k.")
def execute(
    samples: Annotated[
        Path,
        typer.Argument(metavar="SAMPLES.jsonl", help="Samples: .jsonl, .jsonl.gz or TASK/N.py.", show_default=False),
    ],
    problems: Problems = "humaneval",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Results; by default SAMPLES.results.jsonl.")
    ] = None,
    k: Ks = "1,10,100",
    timeout: Timeout = 3.0,
    calibrate: Annotated[
        float | None,
        typer.Option("--calibrate", metavar="X", help="At least X times what the canonical solution takes here."),
    ] = None,
    memory: Annotated[int, typer.Option("--memory", metavar="MB", help="Memory of a sample.")] = 512,
    workers: Workers = None,
    mode: Where = "split",
    partial: Annotated[bool, typer.Option("--partial", help="Allow problems without a sample.")] = False,
    use_ray: Annotated[bool, typer.Option("--ray", help="Run on Ray: a local one, or that of RAY_ADDRESS.")] = False,
    address: Address = None,
    format_name: Annotated[
        str, typer.Option("--format", metavar="quadriga|human-eval", help="human-eval: its result file as well.")
    ] = "quadriga",
    tier: TierOption = "auto",
    unsafe: Unsafe = False,
    as_json: AsJson = False,
) -> None:
    """Run samples against their problems' tests and estimate pass@k.

    \b
    quadriga code execute samples.jsonl
    quadriga code execute samples.jsonl.gz --problems mbpp.jsonl --k 1,10 --timeout 5
    quadriga code execute samples.jsonl --address auto
    """
    from quadriga.codegen import execution
    from quadriga.codegen.problems import problems as load

    chosen_mode, chosen_tier = parse_mode(mode), parse_tier(tier)
    if format_name not in ("quadriga", "human-eval"):
        raise UserError(f"--format: expected quadriga or human-eval, got {format_name!r}")
    if calibrate is not None and not 1 <= calibrate <= 1000:
        raise UserError(f"--calibrate: expected a number from 1 to 1000, got {calibrate:g}")
    limits = Limits(wall_s=timeout, memory_bytes=memory * MEGABYTE)
    work = execution.plan(samples, load(problems), parse_ks(k), partial=partial)
    if work.left_out:
        warn(f"k = {', '.join(map(str, work.left_out))} left out: more than the samples of some problem")
    target = out or default_out(samples)
    with resumable(f"what was judged is in {target}; the same command goes on"):
        pool = None
        try:
            pool = _pool(workers, limits, chosen_mode, chosen_tier, unsafe, use_ray=use_ray, address=address)
            if pool.isolation.tier == "none":
                warn("samples run without isolation: they can do whatever you can")
            progress = _Progress(work, quiet=as_json)
            summary = execution.execute(
                work, pool, target, mode=chosen_mode, limits=limits, calibrate=calibrate, progress=progress.at
            )
        finally:
            if pool is not None:
                pool.close()
    if format_name == "human-eval":
        _write_human_eval(samples, work, target)
    if as_json:
        from quadriga.platform.progress import json_line

        print(json_line({**summary.as_json(), "out": str(target)}))
    else:
        _report(summary, target)
    if summary.verdicts["infrastructure_error"]:
        warn(
            f"{summary.verdicts['infrastructure_error']:,} samples were not judged (infrastructure_error) and are in "
            "no estimate; their lines say why"
        )
    if said := summary.left_out(work.ks):
        warn(said)


@app.command(short_help="Check the sandbox before trusting it.")
def check(
    problems: Annotated[
        str | None,
        typer.Option(
            "--problems", metavar="humaneval|builtin|FILE", help="By default builtin, and humaneval if installed."
        ),
    ] = None,
    timeout: Timeout = 3.0,
    workers: Workers = None,
    mode: Where = "split",
    tier: TierOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Check that right solutions pass, that none at all fails, and that hostile ones are contained.

    Exit code 0 only if all of it holds.

    \b
    quadriga code check
    quadriga code check --problems builtin --tier landlock
    """
    from quadriga.codegen.check import examine
    from quadriga.codegen.pool import LocalPool
    from quadriga.platform.progress import json_line

    chosen_mode = parse_mode(mode)
    limits = Limits(wall_s=timeout)
    pool = LocalPool(workers or cpus(), limits, chosen_mode, tier=parse_tier(tier))
    try:
        findings = examine(pool, limits, chosen_mode, problems)
    finally:
        pool.close()
    good = all(not finding.wrong for finding in findings)
    if as_json:
        parts = [finding._asdict() for finding in findings]
        print(json_line({"good": good, "isolation": str(pool.isolation), "mode": chosen_mode, "checks": parts}))
    else:
        print(f"isolation: {pool.isolation}; mode {chosen_mode}")
        for finding in findings:
            print(f"{'ok   ' if not finding.wrong else 'WRONG'} {finding.claim}: {finding.right}/{finding.total}")
            for line in finding.wrong[:20]:
                print(f"      {line}")
        print("the sandbox can be trusted" if good else "do not trust scores of this sandbox")
    if not good:
        raise typer.Exit(1)


def default_out(samples: Path) -> Path:
    """`samples.jsonl.gz` has its results in `samples.results.jsonl`."""
    name = samples.name.removesuffix(".gz").removesuffix(".jsonl")
    return samples.with_name(f"{name or 'samples'}.results.jsonl")


class _Progress:
    """A line on standard error every few seconds."""

    def __init__(self, work: Plan, *, quiet: bool) -> None:
        self._total, self._quiet = work.total, quiet
        self._said = self._began = time.monotonic()
        self._first: int | None = None

    def at(self, done: int, verdicts: Counter[str]) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if self._quiet or now - self._said < INTERVAL_S:
            return
        self._said = now
        rate = (done - self._first) / (now - self._began)
        tally = ", ".join(f"{verdicts[kind]:,} {kind}" for kind in KINDS if verdicts[kind])
        print(f"{done:,}/{self._total:,} samples, {rate:,.0f}/s: {tally}", file=sys.stderr, flush=True)


def _pool(
    workers: int | None,
    limits: Limits,
    mode: Mode,
    tier: Tier | None,
    unsafe: bool,
    *,
    use_ray: bool,
    address: str | None,
) -> Pool:
    if not use_ray and address is None:
        from quadriga.codegen.pool import LocalPool

        return LocalPool(workers or cpus(), limits, mode, tier=tier, unsafe=unsafe)
    from quadriga.platform.runtime import ensure_ray

    cluster = ensure_ray(address, num_cpus=workers)
    from quadriga.codegen.workers import RayPool

    return RayPool(workers or max(1, int(cluster.cpus)), limits, mode, tier=tier, unsafe=unsafe)


def _report(summary: Summary, target: Path) -> None:
    partial = f" (partial: {summary.missing:,} more have no sample)" if summary.missing else ""
    again = f", {summary.resumed:,} of them by an earlier run" if summary.resumed else ""
    print(f"{summary.samples:,} samples of {summary.problems:,} problems{partial}{again}")
    for k, value in summary.pass_at_k.items():
        interval = "" if value.low != value.low else f"  [{value.low:.4f}, {value.high:.4f}] 95% over problems"
        print(f"  pass@{k:<6} {value.estimate:.4f}{interval}")
    for kind in KINDS:
        if summary.verdicts[kind]:
            print(f"  {kind:<20} {summary.verdicts[kind]:,}")
    print(f"conditions: {summary.conditions}")
    print(f"results: {target}")


def _write_human_eval(samples: Path, work: Plan, target: Path) -> None:
    from quadriga.codegen.results import HUMAN_EVAL_SUFFIX, write_human_eval
    from quadriga.codegen.samples import read_samples

    write_human_eval(read_samples(samples, work.problems), target, samples.with_name(samples.name + HUMAN_EVAL_SUFFIX))
