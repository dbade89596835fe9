"""Options that several commands of `quadriga code` share, and how their texts are read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from quadriga.codegen.sandbox.limits import Mode, Tier
from quadriga.platform.errors import UserError

Workers = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="Samples at once; by default the CPUs.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
Problems = Annotated[
    str, typer.Option("--problems", metavar="humaneval|builtin|FILE", help="What the samples are solutions of.")
]
Where = Annotated[str, typer.Option("--mode", metavar="split|inproc", help="Tests in their own process, or not.")]
TierOption = Annotated[
    str, typer.Option("--tier", metavar="auto|namespaces|landlock", help="Insist on a kind of isolation.")
]
Unsafe = Annotated[bool, typer.Option("--unsafe", help="Where no isolation is to be had, run without any.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", help="Wall seconds of a sample.")]
Address = Annotated[str | None, typer.Option("--address", metavar="HOST:PORT", help="Run on this Ray cluster.")]
Ks = Annotated[str, typer.Option("--k", metavar="K,K,...", help="For pass@k.")]

# Of every command that loads a model.
Model = Annotated[
    str, typer.Option("--model", metavar="smollm2|DIR|FILE.gguf|HUB/NAME", help="A causal language model.")
]
Dtype = Annotated[str, typer.Option("--dtype", metavar="auto|float32|bfloat16", help="What is computed in.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where.")]
Slots = Annotated[int, typer.Option("--slots", min=1, metavar="N", help="Sequences at once in one process.")]
Samplers = Annotated[
    int, typer.Option("--samplers", min=0, metavar="N", help="Ray actors that hold a model; 0: this process does.")
]
EngineKind = Annotated[str, typer.Option("--engine", metavar="quadriga|vllm", help="What makes the samples.")]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="S", help="Of all random streams.")]
Samples = Annotated[int, typer.Option("--samples", "-n", min=1, metavar="N", help="Of each problem.")]
Temperature = Annotated[float, typer.Option("--temperature", metavar="T", help="0 is greedy.")]
TopP = Annotated[float, typer.Option("--top-p", metavar="P", help="Probability that the nucleus holds.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, metavar="N", help="Of a sample.")]
Stop = Annotated[
    str | None,
    typer.Option(
        "--stop", metavar="S,S,...", help=r"Where a sample ends; by default the paper's \nclass,\ndef,\n#,\nif,\nprint."
    ),
]


def require_jsonl(out: Path) -> None:
    """Before anything is made.

    Raises:
        UserError: `--out` has another ending.
    """
    if not out.name.endswith(".jsonl"):
        raise UserError(f"--out: expected a name that ends with .jsonl, got {out.name!r}")


def parse_ks(text: str) -> list[int]:
    """Numbers for pass@k.

    Raises:
        UserError: they are none.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--k: expected numbers such as 1,10,100, got {text!r}") from None


def parse_mode(text: str) -> Mode:
    """Where tests run.

    Raises:
        UserError: neither place.
    """
    if text == "split" or text == "inproc":
        return "split" if text == "split" else "inproc"
    raise UserError(f"--mode: expected split or inproc, got {text!r}")


def parse_tier(text: str) -> Tier | None:
    """The kind of isolation that is insisted on.

    Raises:
        UserError: no such kind.
    """
    known: dict[str, Tier | None] = {"auto": None, "namespaces": "namespaces", "landlock": "landlock"}
    if text not in known:
        raise UserError(f"--tier: expected {', '.join(known)}, got {text!r}")
    return known[text]


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def warn(text: str) -> None:
    """A line on standard error."""
    print(f"quadriga: warning: {text}", file=sys.stderr, flush=True)
