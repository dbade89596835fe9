"""`quadriga code corpus ...`: thin; turns flags into a corpus and says what was dropped."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from quadriga.codegen.options import Address, AsJson, Timeout, Workers, cpus, require_jsonl
from quadriga.platform.errors import UserError
from quadriga.platform.interrupts import resumable

INTERVAL_S = 5.0

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Code to learn from.")


@app.callback()
def _corpus() -> None:
    """Code to learn from."""


@app.command(short_help="Collect Python files and functions.")
def build(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Folders, wheels, sdists.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The corpus.")] = Path("corpus"),
    licences: Annotated[
        str | None, typer.Option("--licences", metavar="L,L,...", help="Only these, e.g. MIT,BSD,Apache.")
    ] = None,
    against: Annotated[
        str, typer.Option("--against", metavar="P,P,...", help="Problem sets that it must not hold; or none.")
    ] = "builtin,humaneval",
    near: Annotated[float, typer.Option("--near", metavar="S", help="Similarity of near duplicates.")] = 0.85,
    max_bytes: Annotated[int, typer.Option("--max-bytes", metavar="N", help="Of a file.")] = 1_000_000,
    max_mean_line: Annotated[float, typer.Option("--max-mean-line", metavar="N", help="Characters.")] = 100,
    max_line: Annotated[int, typer.Option("--max-line", metavar="N", help="Characters.")] = 1000,
    min_alphanumeric: Annotated[
        float, typer.Option("--min-alphanumeric", metavar="X", help="Share of letters and digits.")
    ] = 0.25,
    workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Ray tasks at once; 0: this process.")
    ] = 0,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Collect Python files and their functions with docstrings, without duplicates and without the answers.

    \b
    quadriga code corpus build .venv/lib/python3.11/site-packages -o corpus
    quadriga code corpus build a.whl b.tar.gz src --licences MIT,BSD,Apache --workers 2
    """
    from quadriga.codegen import corpus
    from quadriga.codegen.filters import Filters

    sets = () if against == "none" else tuple(against.split(","))
    names = tuple(each.strip() for each in licences.split(",")) if licences else ()
    limits = Filters(max_bytes, max_mean_line, max_line, min_alphanumeric)
    settings = corpus.Settings(tuple(map(str, sources)), limits, names, near, sets)
    for each in sets:
        from quadriga.codegen.problems import problems

        problems(each)
    if address is not None and not workers:
        raise UserError("--address: a cluster needs --workers, the number of tasks at once")
    if workers:
        from quadriga.platform.runtime import ensure_ray

        ensure_ray(address, num_cpus=workers)
    said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if not as_json and time.monotonic() - said >= INTERVAL_S:
            said = time.monotonic()
            print(f"{done:,}/{total:,} packages", file=sys.stderr, flush=True)

    with resumable(f"what was read is in {out}; the same command goes on"):
        report = corpus.build(settings, out, corpus.on_ray if workers else None, progress)
    if as_json:
        from quadriga.platform.progress import json_line

        print(json_line({**report.as_json(), "resumed": report.resumed, "out": str(out)}))
        return
    again = f", {report.resumed:,} of them by an earlier run" if report.resumed else ""
    print(f"{report.seen:,} files of {report.packages:,} packages{again}")
    print(f"  {'kept':<20} {report.files:,} files, {report.bytes / 1e6:,.1f} MB, {report.functions:,} functions")
    for reason, count in report.dropped.most_common():
        print(f"  {reason:<20} {count:,}  ({corpus.REASONS[reason]})")
    print(f"corpus: {out / corpus.FILES}, {out / corpus.FUNCTIONS}\nreport: {out / corpus.REPORT}")


@app.command(short_help="Make problems of functions with examples.")
def problems(
    corpus_folder: Annotated[Path, typer.Argument(metavar="CORPUS", help="Of code corpus build.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.jsonl", help="Problems.")] = Path("problems.jsonl"),
    timeout: Timeout = 3.0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Make problems of self-contained functions whose docstring shows calls, and keep those that hold in the sandbox.

    \b
    quadriga code corpus problems corpus -o problems.jsonl
    quadriga code finetune codex-s --problems problems.jsonl
    """
    import json

    from quadriga.codegen import corpus, doctest_problems, sampling
    from quadriga.codegen.pool import LocalPool
    from quadriga.codegen.sandbox.limits import Limits

    require_jsonl(out)
    columns = ["package", "name", "prompt", "body", "docstring", "imports", "outside"]
    rows = corpus.table(corpus_folder / corpus.FUNCTIONS, columns).to_pylist()
    made = list(doctest_problems.problems(rows))
    if not made:
        raise UserError(f"{corpus_folder}: no self-contained function shows a call whose result is a literal")
    limits = Limits(wall_s=timeout)
    pool = LocalPool(workers or cpus(), limits)
    try:
        kept = list(doctest_problems.verified(made, pool, limits))
    finally:
        pool.close()
    if not kept:
        raise UserError(f"{corpus_folder}: none of {len(made):,} functions gives what its examples show")
    sampling.replace_file(out, "".join(json.dumps(row) + "\n" for row in kept).encode())
    if as_json:
        from quadriga.platform.progress import json_line

        print(json_line({"functions": len(rows), "problems": len(made), "kept": len(kept), "out": str(out)}))
        return
    print(f"{len(made):,} of {len(rows):,} functions are self-contained and show a call")
    print(
        f"problems: {out} ({len(kept):,}; the others do not give what they show, or a function that does nothing does)"
    )
