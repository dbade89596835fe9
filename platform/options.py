"""Options that several commands of `quadriga` share: one name, one meaning, one help text.

Knows nothing of any command.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

COUNT = re.compile(r"(\d[\d_,]*(?:\.\d+)?(?:e[+]?\d+)?|\.\d+e[+]?\d+)([kmb]?)", re.IGNORECASE)
FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


class Chosen(StrEnum):
    """Which checkpoint is evaluated."""

    latest = "latest"
    best = "best"


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """The names of runs that begin with what was typed, for the shell's completion."""
    from quadriga.platform.errors import UserError
    from quadriga.platform.run_folder import list_runs

    try:
        names = list_runs(context.params.get("runs_dir") or "runs")
    except UserError:  # a shell that completes has no place for it
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_source(incomplete: str) -> list[str]:
    """The names of presets that begin with what was typed, and files where none does."""
    from quadriga.platform.lines import all_lines

    presets = [preset for line in all_lines().values() for preset in line.presets]
    files = [path.as_posix() for path in sorted(Path().glob(f"{incomplete}*")) if path.suffix in (".yaml", ".yml", "")]
    return [preset for preset in presets if preset.startswith(incomplete)] or files


def complete_environment(incomplete: str) -> list[str]:
    """The ids of environments that begin with what was typed."""
    from quadriga.platform.environments.registry import list_environments

    return [row.id for row in list_environments() if row.id.startswith(incomplete)]


Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Run folder, by name or path.", show_default=False, autocompletion=complete_run),
]
Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Runs, by name or path.", show_default=False, autocompletion=complete_run),
]
RunsDir = Annotated[str, typer.Option("--runs-dir", metavar="DIR", help="Folder or URI (s3://...) of all runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
# Of every command that trains.
Seed = Annotated[int | None, typer.Option(metavar="S", help="Every random stream derives from it.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the run folder.")]
Resume = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Continue this run; --steps is then its new total.", autocompletion=complete_run),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Join this Ray cluster (default: RAY_ADDRESS, else a local Ray)."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def unfold(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer is to see it: a parameter that is a dataclass becomes an option for each of its fields.

    So commands with many options in common state them once, and are handed one object. Every field needs a default, and
    an annotation such as those of this module.
    """
    groups: dict[str, type] = {}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind
        hints = get_type_hints(kind, include_extras=True)
        shown += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in dataclasses.fields(kind)
        ]

    @functools.wraps(command)
    def unfolded(**values: Any) -> None:
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **made)

    unfolded.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    unfolded.__annotations__ = {each.name: each.annotation for each in shown}
    del unfolded.__wrapped__
    return unfolded


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
