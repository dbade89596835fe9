"""Ours beside a peer's, in turn, in CPU milliseconds a token: rounds, and one report of a table, a ratio and the goal.

What a side does, and how many tokens that was, is the benchmark's own business.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import machine
from comparison import markdown_table, ratio, show_ratio, show_spread, spread

from quadriga.platform.tables import print_table

OURS = "ours"


def add_options(parser: argparse.ArgumentParser, quick: str) -> None:
    """The options of every such benchmark; `quick` says what `--quick` makes less of."""
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a fragment for RESULTS.md")


def measure(sides: Mapping[str, Callable[[int], int]], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds a token of each side, round by round; a side is told the round and says how many tokens."""
    results: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            began = time.process_time()
            tokens = side(number)
            results[name].append(1000 * (time.process_time() - began) / tokens)
        print(f"round {number + 1} of {rounds} measured", file=sys.stderr, flush=True)
    return results


def report(
    title: str,
    results: Mapping[str, list[float]],
    goal: float,
    asked: str,
    known: dict[str, Any],
    arguments: argparse.Namespace,
) -> None:
    """Prints, and writes the files that were asked for.

    Args:
        title: of the fragment.
        results: from `measure`, of `OURS` and one peer.
        goal: how many times the peer's tokens a CPU second.
        asked: what was measured, in words.
        known: from `machine.describe` before the rounds.
        arguments: with the options of `add_options`.
    """
    known["load_average_after"] = list(os.getloadavg())
    headers = ("side", "CPU ms a token")
    rows = [(name, show_spread(spread(values))) for name, values in results.items()]
    print_table(headers, rows)
    peer = next(name for name in results if name != OURS)
    gained = ratio(results[OURS], results[peer])
    reached = "reached" if gained.of_medians >= goal else "missed"
    said = f"{show_ratio(gained)} the tokens of {peer} a CPU second (goal {goal:g}x: {reached})"
    print(f"\n{said}\n{asked}\n{machine.sentence(known)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": known, "asked": asked, "ms": results}, indent=1) + "\n")
    if arguments.markdown:
        parts = [f"### {title}\n\n{machine.sentence(known)}. {asked}.\n"]
        parts += [markdown_table(headers, rows) + f"\n\n- {said}\n"]
        arguments.markdown.write_text("\n".join(parts), encoding="utf-8")
