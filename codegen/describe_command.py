"""`quadriga code describe`: thin; a model writes docstrings for solutions, which become problems of their own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from quadriga.codegen.options import AsJson, Samples, Temperature, require_jsonl
from quadriga.codegen.sampling_options import SamplingOptions
from quadriga.platform.interrupts import resumable
from quadriga.platform.options import unfold


@unfold
def describe(
    options: SamplingOptions,
    samples: Samples = 1,
    temperature: Temperature = 0.2,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.jsonl", help="Problems with these docstrings.")
    ] = Path("described.jsonl"),
    as_json: AsJson = False,
) -> None:
    """Let a model write docstrings for the problems' solutions; solving from them grades them.

    \b
    quadriga code describe --problems builtin -o described.jsonl
    quadriga code evaluate --problems described.jsonl --temperatures 0.2 -o graded
    """
    from quadriga.codegen import described, sampling
    from quadriga.codegen.problems import parse_object
    from quadriga.codegen.problems import problems as load_problems

    require_jsonl(out)
    if options.stop is None:
        options = dataclasses.replace(options, stop=",".join(described.STOPS))
    known = load_problems(options.problems)
    asked = described.to_describe(known)
    work, engines = options.prepare(samples, temperature, asked, described.PROMPTING)
    texts = out.with_name(f"{out.name.removesuffix('.jsonl')}.docstrings.jsonl")
    with resumable(f"what was made is in {texts}; the same command goes on"):
        try:
            made = options.run(work, engines, texts, quiet=as_json)
        finally:
            engines.close()
    lines = texts.read_bytes().splitlines()
    found = [parse_object(line, f"{texts}, line {number}") for number, line in enumerate(lines, 1)]
    rows = described.described(known, ((row["task_id"], row["sample"], row["completion"]) for row in found))
    sampling.replace_file(out, "".join(json.dumps(row) + "\n" for row in rows).encode())
    if as_json:
        from quadriga.platform.progress import json_line

        counts = {"docstrings": made.samples, "resumed": made.resumed, "tokens": made.tokens, "out": str(out)}
        print(json_line({**counts, **work.settings.as_json()}))
        return
    print(f"{made.samples:,} docstrings of {len(known):,} problems: {texts}")
    print(f"problems with them: {out}\nnext: quadriga code evaluate --problems {out}")
