"""Sampling during the update (`rollout.asynchronous`) beside sampling between updates: steps a second on this machine.

    python benchmarks/asynchrony.py [--rounds N] [--runners N] [--markdown FILE]

Every measurement is a fresh process with a Ray of its own; both kinds take turns. Time is wall-clock time, since what
is gained is that no core waits: measure on a machine with nothing else on it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
from comparison import markdown_table, ratio, show_ratio, show_spread, spread

from quadriga.platform import experiment as experiments
from quadriga.platform.runtime import ensure_ray
from quadriga.platform.tables import print_table

CASES = (
    ("pid-lagrangian", "SafetyPointGoal1-v0"),
    ("trpo-pid", "SafetyPointGoal1-v0"),
    ("ppo", "HalfCheetah-v5"),
)
KINDS = {"between updates": False, "during updates": True}
WARM_UP, ITERATIONS = 3, 20
ENDLESS = 2**40


def measure(preset: str, env: str, runners: int, asynchronous: bool) -> float:
    """Environment steps a second, in this process."""
    from quadriga.policies.trainer import RLTrainer

    rollout = {"env_runners": runners, "envs_per_runner": 4, "asynchronous": asynchronous}
    fields = {"preset": preset, "env": {"id": env}, "seed": 0, "steps": ENDLESS, "rollout": rollout}
    experiment = experiments.build(fields)
    ensure_ray()
    trainer = RLTrainer(experiment)
    for _ in range(WARM_UP):
        before = trainer.train_iteration()["env_steps"]
    began = time.perf_counter()
    for _ in range(ITERATIONS):
        after = trainer.train_iteration()["env_steps"]
    seconds = time.perf_counter() - began
    trainer.stop()
    return (after - before) / seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(*json.loads(arguments.one)))
        return
    known, table = machine.describe(), []
    for preset, env in CASES:
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(arguments.rounds):
            for kind, asynchronous in KINDS.items():
                program = [
                    sys.executable,
                    __file__,
                    "--one",
                    json.dumps([preset, env, arguments.runners, asynchronous]),
                ]
                said = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout
                rates[kind].append(float(said.splitlines()[-1]))
                print(f"{preset}, {env}, {kind}: {rates[kind][-1]:,.0f}", file=sys.stderr, flush=True)
        between, during = rates.values()
        # `ratio` takes costs, of which the smaller one wins: seconds a step.
        faster = ratio([1 / rate for rate in during], [1 / rate for rate in between])
        table.append([preset, env, show_spread(spread(between)), show_spread(spread(during)), show_ratio(faster)])
    known["load_average_after"] = list(os.getloadavg())
    header = ["preset", "environment", *(f"steps/s, {kind}" for kind in KINDS), "faster"]
    print(machine.sentence(known))
    print_table(header, table)
    if arguments.markdown:
        arguments.markdown.write_text(
            f"### Sampling during updates\n\n{machine.sentence(known)}. {arguments.runners} environment runners of 4 "
            f"environments, learner in the driver, {ITERATIONS} iterations, {arguments.rounds} rounds.\n\n"
            f"{markdown_table(header, table)}\n"
        )


if __name__ == "__main__":
    main()
