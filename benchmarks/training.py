"""Training speed of ours beside its peers: one run, everything in turn, one thread each.

    python benchmarks/training.py [--only rllib|omnisafe|omnisafe-defaults|bonus] [--case NAME] [--rounds N] [--quick]
                                   [--iterations N] [--json FILE] [--markdown FILE]

Every measurement is a fresh process that builds one trainer, warms up, and measures whole iterations: CPU seconds
of all its threads and wall seconds, as a mean over the iterations. With no remote runners and no remote learners
the whole run is in that process; Ray's daemons stand by and are not counted. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
from cases import CASES, HERE, HOW_TO_INSTALL_OMNISAFE, OMNISAFE_PYTHON, Case, Side
from comparison import markdown_table, ratio, short, show_ratio, show_spread, spread
from phases import BONUS, LEARNING, SAMPLING, SYNC

from quadriga.platform.tables import print_table

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
HEADERS = (
    "",
    "steps / iteration",
    "CPU s / iteration",
    "wall s / iteration",
    "CPU ms / 1,000 steps",
    "sampling + learning + sync + rest, CPU s",
    "CPU time against ours",
)

Round = dict[str, float]  # means over the iterations of one measurement


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    cases = [case for case in CASES if arguments.only in (None, case.group)]
    if arguments.case:
        cases = [case for case in cases if case.name in arguments.case]
    if arguments.quick:
        cases = [case for case in cases if case.settings is not None or case.group == "bonus"]
    known = machine.describe()
    results = [measure(case, arguments) for case in cases]
    known["load_average_after"] = list(os.getloadavg())
    for case, rounds in zip(cases, results, strict=True):
        print(f"\n{case.title}")
        print_table(HEADERS, table(case, rounds))
        for line in verdict(case, rounds):
            print(line)
    print("\n" + machine.sentence(known))
    if arguments.json:
        data = {
            "machine": known,
            "options": {"rounds": arguments.rounds, "iterations": arguments.iterations, "quick": arguments.quick},
            "cases": [
                {"name": case.name, "title": case.title, "settings": case.settings, "goal": case.goal, "rounds": rounds}
                for case, rounds in zip(cases, results, strict=True)
            ],
        }
        arguments.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(cases, results, known), encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed of Quadriga beside RLlib's PPO and OmniSafe.")
    groups = ("rllib", "omnisafe", "omnisafe-defaults", "bonus")
    parser.add_argument("--only", choices=groups, help="one group of peers")
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append", help="these cases only")
    parser.add_argument("--rounds", type=int, help="rounds of every case (default: each case's own)")
    parser.add_argument("--iterations", type=int, help="measured iterations of every run (default: each one's own)")
    parser.add_argument("--quick", action="store_true", help="one round of one iteration, to see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a fragment for RESULTS.md")
    arguments = parser.parse_args()
    for name in ("rounds", "iterations"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name}: expected 1 or more")
    return arguments


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, list[Round]]:
    """The rounds of every side by its label; none for a peer that is not installed."""
    rounds: dict[str, list[Round]] = {side.label: [] for side in case.sides}
    count = arguments.rounds or (1 if arguments.quick else case.rounds)
    for number in range(count):
        for side in case.sides:
            if side.is_omnisafe and not OMNISAFE_PYTHON.exists():
                continue
            iterations = arguments.iterations or (1 if arguments.quick else side.iterations)
            specification = side.specification(case, number, warmup=side.warmup, iterations=iterations)
            began = time.monotonic()
            measured = run_measurement(side, specification)
            rounds[side.label].append(measured)
            print(
                f"{case.name} round {number + 1}/{count}: {side.label}: {short(measured['cpu_s'])} CPU s, "
                f"{short(measured['wall_s'])} s an iteration ({time.monotonic() - began:.0f} s in all)",
                file=sys.stderr,
            )
    return rounds


def run_measurement(side: Side, specification: dict[str, Any]) -> Round:
    """One fresh process; means over its iterations, `passes` over the batch, and the load when it began."""
    python = str(OMNISAFE_PYTHON) if side.is_omnisafe else sys.executable
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        done = subprocess.run(
            [python, str(HERE / side.script), json.dumps(specification), str(output)],
            env=os.environ | ONE_THREAD | {"PYTHONPATH": str(HERE)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not output.exists():
            sys.exit(f"{side.label} failed with {specification}:\n{done.stdout[-4000:]}")
        measured = json.loads(output.read_text(encoding="utf-8"))
    iterations = measured["iterations"]
    means = {key: statistics.fmean(iteration[key] for iteration in iterations) for key in iterations[0]}
    return means | {"passes": measured["passes"], "load_average": load}


def cost(measured: Round) -> float:
    """CPU milliseconds of 1,000 environment steps, the work that belongs to them included."""
    return 1e6 * measured["cpu_s"] / measured["env_steps"]


def table(case: Case, rounds: dict[str, list[Round]]) -> list[list[str]]:
    """A row a side."""
    ours = [cost(measured) for measured in rounds[case.ours.label]]
    rows = []
    for side in case.sides:
        measured = rounds[side.label]
        if not measured:
            rows.append([side.label, HOW_TO_INSTALL_OMNISAFE, *[""] * (len(HEADERS) - 2)])
            continue
        split = {
            phase: statistics.median(m[f"{phase}_cpu_s"] for m in measured) for phase in (SAMPLING, LEARNING, SYNC)
        }
        rest = statistics.median(
            m["cpu_s"] - sum(m[f"{phase}_cpu_s"] for phase in (SAMPLING, LEARNING, SYNC)) for m in measured
        )
        costs = [cost(m) for m in measured]
        rows.append(
            [
                side.label,
                short(statistics.median(m["env_steps"] for m in measured)),
                show_spread(spread([m["cpu_s"] for m in measured])),
                show_spread(spread([m["wall_s"] for m in measured])),
                show_spread(spread(costs)),
                " + ".join(f"{seconds:.3f}" for seconds in (*split.values(), max(0.0, rest))),
                "1" if side is case.ours else show_ratio(ratio(ours, costs)),
            ]
        )
    return rows


def verdict(case: Case, rounds: dict[str, list[Round]]) -> list[str]:
    """Passes over the batch on each side, wall time against ours and, where there is one, the goal."""
    own = rounds[case.ours.label]
    lines = []
    for side in case.peers:
        measured = rounds[side.label]
        if not measured:
            continue
        walls = [[m["wall_s"] / m["env_steps"] for m in of] for of in (own, measured)]
        line = f"{side.label}: wall time {show_ratio(ratio(*walls))}"
        if case.goal is not None and not side.is_floor:
            reached = ratio([cost(m) for m in own], [cost(m) for m in measured]).of_medians
            line += f"; CPU time {reached:.2f}x, goal {case.goal:g}x: {'reached' if reached >= case.goal else 'MISSED'}"
        lines.append(line)
    lines += bonuses(rounds)
    passes = ", ".join(f"{label} {of[-1]['passes']:.3g}" for label, of in rounds.items() if of)
    return [*lines, f"passes over a batch: {passes}; rounds: {len(own)}"]


def bonuses(rounds: dict[str, list[Round]]) -> list[str]:
    """What fitting a model and evaluating its bonus take, of sides that do, and beside the cheapest of them."""
    key = f"{BONUS}_cpu_s"
    taken = {label: [m[key] for m in of] for label, of in rounds.items() if of and key in of[0]}
    cheapest = min(taken, key=lambda label: statistics.median(taken[label]), default="")
    lines = []
    for label, seconds in taken.items():
        share = spread([m[key] / (m["cpu_s"] - m[key]) for m in rounds[label]])
        line = f"{label}: the model's fit and the bonus take {show_spread(spread(seconds))} CPU s an iteration, "
        line += f"{show_spread(share)} of the rest of it"
        if label != cheapest:
            line += f"; {show_ratio(ratio(taken[cheapest], seconds))} {cheapest}'s"
        lines.append(line)
    return lines


def markdown(cases: list[Case], results: list[dict[str, list[Round]]], known: dict[str, Any]) -> str:
    """The fragment for RESULTS.md."""
    parts = [f"### Training speed\n\n{machine.sentence(known)}.\n"]
    for case, rounds in zip(cases, results, strict=True):
        parts.append(f"**{case.title}**\n\n{markdown_table(HEADERS, table(case, rounds))}\n")
        parts.append("\n".join(f"- {line}" for line in verdict(case, rounds)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
