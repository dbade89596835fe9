"""Options that commands share are stated once, as a dataclass, and typer sees every one of them."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from quadriga.platform.options import unfold


@dataclass(frozen=True)
class Shared:
    first: Annotated[int, typer.Option("--first", "-f", min=1)] = 1
    second: Annotated[str | None, typer.Option("--second", metavar="WORD", help="A word.")] = None


def test_a_dataclass_becomes_an_option_for_each_of_its_fields():
    app, seen = typer.Typer(), []

    @app.command()
    @unfold
    def command(name: str, shared: Shared, last: Annotated[bool, typer.Option("--last")] = False) -> None:
        """What it does."""
        seen.append((name, shared, last))

    def run(*words):
        return CliRunner().invoke(app, words)

    assert run("x").exit_code == run("x", "-f", "3", "--second", "two", "--last").exit_code == 0
    assert seen == [("x", Shared(), False), ("x", Shared(3, "two"), True)]
    assert run("x", "--first", "0").exit_code == 2 and len(seen) == 2
    said = run("--help").output
    assert (
        "What it does." in said
        and "WORD" in said
        and "A word." in said
        and said.index("--first") < said.index("--last")
    )
