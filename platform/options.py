"""Options that several commands of `quadriga` share: one name, one meaning, one help text.

Knows nothing of any command.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer

COUNT = re.compile(r"(\d[\d_,]*(?:\.\d+)?(?:e[+]?\d+)?|\.\d+e[+]?\d+)([kmb]?)", re.IGNORECASE)
FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


class Chosen(StrEnum):
    """Which checkpoint is evaluated."""

    latest = "latest"
    best = "best"


RunsDir = Annotated[str, typer.Option("--runs-dir", metavar="DIR", help="Folder or URI (s3://...) of all runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
# Of every command that trains.
Seed = Annotated[int | None, typer.Option(metavar="S", help="Every random stream derives from it.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the run folder.")]
Resume = Annotated[str | None, typer.Option(metavar="RUN", help="Continue this run; --steps is then its new total.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Join this Ray cluster (default: RAY_ADDRESS, else a local Ray)."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def parse_count(text: str) -> int:
    """A number of steps as people write it: `200000`, `1_000_000`, `1e6`, `1.5M`, `300k`.

    Raises:
        typer.BadParameter: it is none, or not whole.
    """
    match = COUNT.fullmatch(text.strip())
    if match:
        value = float(match[1].replace("_", "").replace(",", "")) * FACTORS[match[2].lower()]
        if value >= 1 and value.is_integer():
            return int(value)
    raise typer.BadParameter(f"expected a number such as 200000, 1_000_000, 1e6 or 1.5M, got {text!r}")


Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", parser=parse_count, help="Length of the run in steps: 200000, 1e6, 1.5M."),
]
