"""What an iteration costs the driver, by the number of environment runners: CartPole, 1 to 64 actors on one machine.

    python benchmarks/scale.py [--runners 1,2,4,8,16,32,64] [--rounds N] [--markdown FILE]

Every measurement is a fresh process with a Ray of its own. The batch is the same for all, so learning (in the driver,
one epoch) costs the same, and what is left grows with the runners only. Counted are CPU milliseconds of all threads of
the driver's process, and of Ray's two daemons on its node; that the runners share few cores does not enter. The
broadcast of weights and the answers of the runners are measured in bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
import numpy as np
from comparison import markdown_table

from quadriga.platform import experiment as experiments
from quadriga.platform.runtime import ensure_ray
from quadriga.platform.tables import print_table
from quadriga.policies.trainer import RLTrainer

RUNNERS = (1, 2, 4, 8, 16, 32, 64)
BATCH, ENVS = 16_384, 4
WARM_UP, ITERATIONS = 3, 10
TICKS = os.sysconf("SC_CLK_TCK")
DAEMONS = ("raylet", "gcs_server")
MEASURES = ("driver", "sampling", *DAEMONS)


def daemons() -> dict[str, float]:
    """CPU seconds so far of the Ray daemons that this process has started."""
    found = dict.fromkeys(DAEMONS, 0.0)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, fields = (entry / "comm").read_text().strip(), (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if name in found and int(fields[1]) == os.getpid():
            found[name] += (int(fields[11]) + int(fields[12])) / TICKS
    return found


def measure(runners: int) -> dict[str, float]:
    """CPU milliseconds and bytes of an iteration, in this process."""
    import ray.cloudpickle

    ensure_ray("local", runners + 1)
    fields = {
        "preset": "ppo",
        "env": "CartPole-v1",
        "steps": 10**9,
        "rollout": {"env_runners": runners, "envs_per_runner": ENVS, "batch_size": BATCH},
        "update": {"epochs": 1, "minibatch_size": BATCH},
    }
    trainer = RLTrainer(experiments.build(fields))
    sample, spent, answers = trainer.algorithm._sample, [], []

    def timed() -> Any:
        began = time.process_time()
        rollouts = sample()
        spent.append(time.process_time() - began)
        answers.append(sum(len(ray.cloudpickle.dumps(rollout)) for rollout in rollouts))
        return rollouts

    for _ in range(WARM_UP):
        trainer.train_iteration()
    plain = _spent(trainer, ITERATIONS)
    trainer.algorithm._sample = timed  # type: ignore[method-assign]
    for _ in range(ITERATIONS):
        trainer.train_iteration()
    weights = sum(value.nbytes for value in trainer.algorithm.weights.values())
    trainer.stop()
    return {**plain, "sampling": 1e3 * median(spent), "weights_bytes": weights, "answers_bytes": median(answers)}


def _spent(trainer: RLTrainer, iterations: int) -> dict[str, float]:
    began, before = time.process_time(), daemons()
    for _ in range(iterations):
        trainer.train_iteration()
    driver, after = time.process_time() - began, daemons()
    taken = {"driver": driver, **{name: after[name] - before[name] for name in DAEMONS}}
    return {name: 1e3 * seconds / iterations for name, seconds in taken.items()}


def line(runners: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of the least squares line."""
    slope, intercept = np.polyfit(runners, values, 1)
    return float(intercept), float(slope)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", default=",".join(map(str, RUNNERS)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    known, sizes = machine.describe(), [int(size) for size in arguments.runners.split(",")]
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(arguments.rounds):
        for size in sizes:
            program = [sys.executable, __file__, "--one", str(size)]
            said = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[size].append(json.loads(said.splitlines()[-1]))
            print(f"{size} runners: {found[size][-1]}", file=sys.stderr, flush=True)
    known["load_average_after"] = list(os.getloadavg())
    medians = {size: {name: median(each[name] for each in rows) for name in rows[0]} for size, rows in found.items()}
    header = ["runners", "driver, ms", "of it sampling", "raylet, ms", "GCS, ms", "weights, KB", "answers, KB"]
    table = [
        [
            str(size),
            *(f"{row[name]:.1f}" for name in MEASURES),
            *(f"{row[name] / 1e3:.1f}" for name in ("weights_bytes", "answers_bytes")),
        ]
        for size, row in medians.items()
    ]
    verdict = []
    for name in MEASURES:
        intercept, slope = line(sizes, [row[name] for row in medians.values()])
        verdict.append(f"{name} {intercept:.1f} ms + {slope:.2f} ms a runner")
    sentence = f"Least squares over all sizes: {'; '.join(verdict)}."
    print(machine.sentence(known))
    print_table(header, table)
    print(sentence)
    if arguments.markdown:
        arguments.markdown.write_text(
            f"### The driver's cost by the number of runners\n\n{machine.sentence(known)}. CPU milliseconds an "
            f"iteration, median of {arguments.rounds} rounds; CartPole-v1, {BATCH:,} steps an iteration.\n\n"
            f"{markdown_table(header, table)}\n\n{sentence}\n"
        )


if __name__ == "__main__":
    main()
