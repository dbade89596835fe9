"""Meta-learning beside plain PyTorch and learn2learn, and beside what the processor can do.

    python benchmarks/metalearn.py [--data-root DIR] [--rounds N] [--seconds S] [--no-ray] [--quick]
        [--json FILE] [--markdown FILE]

Omniglot's network, 5-way. Reptile: 5 inner steps of Adam on batches of 10, 5 tasks a meta-iteration; FOMAML and MAML:
1-shot, 5 inner steps of SGD on the 5 support images, 5 queries. Sides take turns in one process and one thread, and
learn the same tasks; CPU time is that thread's. Without Omniglot the pixels are random, which costs the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import machine
import numpy as np
import torch
from comparison import markdown_table, ratio, short, show_ratio, show_spread, spread
from peers import plain_meta

from quadriga.metalearn import data_root, outer
from quadriga.metalearn.experiment import MetaExperiment
from quadriga.metalearn.products import product
from quadriga.metalearn.runner import SequentialRunner, training_task
from quadriga.metalearn.trainer import initial_weights
from quadriga.platform import experiment as experiments
from quadriga.platform.errors import UserError
from quadriga.platform.tables import print_table

# Times the peer's rate that is to be reached, and two workers' rate over one's.
GOALS = {"reptile": ("plain PyTorch", 2.0), "fomaml": ("learn2learn", 2.5), "maml": ("learn2learn", 1.5)}
WORKERS_GOAL = 1.8
WORKERS_BATCHES = (6, 24)
FORWARD_MACS = 14 * 14 * 9 * 64 + (7 * 7 + 4 * 4 + 2 * 2) * 576 * 64 + 256 * 5
FIRST_MACS = 14 * 14 * 9 * 64
# Forward, and backward for weights and, but in the first block, for inputs.
IMAGE_FLOP = 2 * (3 * FORWARD_MACS - FIRST_MACS)
BATCH, INNER_STEPS, META_BATCH, WAYS = 10, 5, 5, 5

SHARED: dict[str, Any] = {"steps": 1000, "evaluation": {"tasks": 0}}


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    known = machine.describe()
    seconds, rounds = (0.3, 2) if arguments.quick else (arguments.seconds, arguments.rounds)
    task = task_settings(arguments.data_root)
    results = {name: measure(name, task, seconds, rounds) for name in GOALS}
    bound = measure_bound(0.1 if arguments.quick else 1.0)
    batches = () if arguments.no_ray else WORKERS_BATCHES
    workers = {tasks: measure_workers(task, tasks, seconds, rounds) for tasks in batches}
    known["load_average_after"] = list(os.getloadavg())

    headers = ["", "meta-iterations / CPU s", "tasks / CPU s", "ours against it"]
    rows = [row for name, result in results.items() for row in table_rows(name, result)]
    step = spread([META_BATCH * rate for rate in results["reptile"]["ours"]]).median
    flops = step * INNER_STEPS * BATCH * IMAGE_FLOP / 1e9
    best = max(bound.values())
    lines = [verdict(name, result) for name, result in results.items() if len(result) > 1]
    lines.append(
        f"Reptile, all included: {flops:.0f} GFLOP/s, {flops / best:.0%} of the fastest measured "
        f"({', '.join(f'{what} {rate:.0f}' for what, rate in bound.items())} GFLOP/s)"
    )
    lines.extend(workers_line(tasks, rates) for tasks, rates in workers.items())
    print_table(headers, rows)
    print("\n" + "\n".join(lines) + "\n\n" + machine.sentence(known))
    if arguments.json:
        data = {"machine": known, "rates": results, "bound": bound, "workers": workers}
        arguments.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        bullets = "\n".join(f"- {line}" for line in lines)
        text = (
            f"### Meta-learning speed\n\n{machine.sentence(known)}.\n\n{markdown_table(headers, rows)}\n\n{bullets}\n"
        )
        arguments.markdown.write_text(text, encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Meta-learning beside plain PyTorch and learn2learn.")
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds omniglot/")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds of a side in a round (default: 3)")
    parser.add_argument("--no-ray", action="store_true", help="leave out one and two workers")
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a fragment for RESULTS.md")
    arguments = parser.parse_args()
    if arguments.seconds <= 0 or arguments.rounds < 1:
        parser.error("--seconds: expected more than 0; --rounds: expected 1 or more")
    return arguments


class RandomPixels:
    """Classes of random one-bit images."""

    def __init__(self) -> None:
        self._images = (np.random.default_rng(0).random((200, 20, 28, 28, 1)) < 0.92).astype(np.uint8)

    def sizes(self) -> Any:
        return np.full(200, 20, np.int64)

    def images(self, class_id: int, index: Any) -> Any:
        return self._images[class_id, index]


def random_tasks(ways: int) -> Any:
    """Stands in for Omniglot where it is not at hand."""
    from quadriga.metalearn.image_classes import ImageTasks
    from quadriga.metalearn.networks import ConvNet

    return ImageTasks(RandomPixels(), RandomPixels(), ways, ConvNet(ways), "random pixels")


def task_settings(root: str | None) -> dict[str, Any]:
    """Omniglot, or random pixels without it."""
    from quadriga.metalearn import omniglot

    try:
        omniglot.load(data_root.resolve(root))
    except UserError as error:
        print(f"random pixels: {error}", file=sys.stderr)
        here = str(Path(__file__).parent)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        return {"kind": "custom", "factory": "metalearn:random_tasks", "options": {"ways": WAYS}}
    return {"kind": "omniglot", "ways": WAYS, "data_root": str(data_root.resolve(root))}


def settings(name: str, task: dict[str, Any], meta_batch: int = META_BATCH, workers: int = 0) -> MetaExperiment:
    """The experiment of a measurement."""
    inner: dict[str, Any] = {"steps": INNER_STEPS, "batch_size": BATCH, "shots": 10}
    if name != "reptile":
        inner = {
            "optimizer": "sgd", "learning_rate": 0.1, "reduction": "mean", "steps": INNER_STEPS + 1,
            "batch_size": WAYS, "shots": 2, "tail_shots": 1,
        }  # fmt: skip
    update: dict[str, Any] = {"kind": name, "meta_batch": meta_batch}
    if name != "reptile":
        update |= {"optimizer": "adam", "step_size": 1e-3, "final_step_size": 1e-3}
    fields = {"preset": "reptile-omniglot-5way-1shot", **SHARED, "task": task, "inner": inner, "update": update}
    built = experiments.build({**fields, "compute": {"workers": workers}})
    assert isinstance(built, MetaExperiment)
    return built


def measure(name: str, task: dict[str, Any], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Meta-iterations a CPU second, by side and round."""
    experiment = settings(name, task)
    runner = SequentialRunner(experiment)
    phi = initial_weights(experiment, runner.distribution)
    optimizer = outer.MetaOptimizer(experiment.update, len(phi))

    def ours(iteration: int) -> None:
        learned = runner.train(phi, iteration, range(META_BATCH))
        optimizer.step(phi, learned.directions, outer.annealed(experiment.update, iteration % 1000, 1000))

    def tasks(iteration: int) -> list[Any]:
        return [training_task(experiment, runner.distribution, iteration, slot) for slot in range(META_BATCH)]

    sides: dict[str, Callable[[int], None]] = {"ours": ours}
    if name == "reptile":
        plain = plain_meta.Reptile(WAYS, experiment.inner.learning_rate)
        sides["plain PyTorch"] = lambda iteration: plain.iterate(tasks(iteration), 1.0)
    elif plain_meta.has_learn2learn():
        peer = plain_meta.Learn2Learn(WAYS, 0.1, 1e-3, first_order=name == "fomaml")
        sides["learn2learn"] = lambda iteration: peer.iterate(tasks(iteration))
    else:
        print("learn2learn is not there: benchmarks/peers/install_learn2learn.sh", file=sys.stderr)
    for side in sides.values():
        side(0)
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, iterate in sides.items():
            began, count = time.thread_time(), 0
            while time.thread_time() - began < seconds:
                iterate(count)
                count += 1
            rates[side].append(count / (time.thread_time() - began))
    return rates


def measure_bound(seconds: float) -> dict[str, float]:
    """GFLOP a CPU second of the largest work that inner steps consist of, the best of many tries."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    x = torch.randn(10, 64, 28, 28).to(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 3, 3).to(memory_format=torch.channels_last)
    work: dict[str, tuple[Callable[[], Any], float]] = {
        "MKL product 1024": (lambda: torch.mm(a, b), 2.0 * 1024**3),
        "oneDNN product 1024": (lambda: product(a, b), 2.0 * 1024**3),
        "oneDNN convolution": (lambda: torch.conv2d(x, w, padding=1), 2.0 * 10 * 28 * 28 * 576 * 64),
    }
    best = {}
    with torch.no_grad():
        for name, (function, flop) in work.items():
            times, began = [], time.thread_time()
            while time.thread_time() - began < seconds:
                at = time.thread_time()
                function()
                times.append(time.thread_time() - at)
            best[name] = flop / min(times) / 1e9
    return best


def measure_workers(task: dict[str, Any], meta_batch: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Tasks a second of wall time with one Ray worker and with two."""
    from quadriga.metalearn.pools import RayPool
    from quadriga.platform.runtime import ensure_ray

    ensure_ray("local", 4)
    pools, phi, step = {}, np.zeros(0, np.float32), None
    for count in (1, 2):
        experiment = settings("reptile", task, meta_batch, count)
        pools[str(count)] = RayPool(experiment)
        phi = initial_weights(experiment, SequentialRunner(experiment).distribution)
        step = outer.MetaOptimizer(experiment.update, len(phi))
    assert step is not None
    rates: dict[str, list[float]] = {count: [] for count in pools}
    for pool in pools.values():
        pool.train(phi, 0)
    for _ in range(rounds):
        for count, pool in pools.items():
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                step.step(phi, pool.train(phi, done).directions, 0.01)
                done += 1
            rates[count].append(meta_batch * done / (time.perf_counter() - began))
    for pool in pools.values():
        pool.stop()
    return rates


def table_rows(name: str, result: dict[str, list[float]]) -> list[list[str]]:
    """A row a side."""
    rows = []
    for side, rates in result.items():
        against = "1" if side == "ours" else show_ratio(ratio(rates, result["ours"]))
        tasks = [META_BATCH * rate for rate in rates]
        rows.append([f"{name}, {side}", show_spread(spread(rates)), show_spread(spread(tasks)), against])
    return rows


def workers_line(meta_batch: int, rates: dict[str, list[float]]) -> str:
    """What a second worker brings, and whether the goal was reached."""
    gain = spread([two / one for one, two in zip(rates["1"], rates["2"], strict=True)])
    word = "reached" if gain.median >= WORKERS_GOAL else "MISSED"
    shown = ", ".join(f"{count}: {show_spread(spread(rate))}" for count, rate in rates.items())
    return (
        f"Ray workers, {meta_batch} tasks a meta-iteration, tasks a second of wall time ({shown}): two over one "
        f"{show_spread(gain)}x, goal {WORKERS_GOAL}x: {word}"
    )


def verdict(name: str, result: dict[str, list[float]]) -> str:
    """The goal, and whether it was reached."""
    peer, goal = GOALS[name]
    gain = ratio(result[peer], result["ours"]).of_medians
    return f"{name}: {short(gain)}x {peer}, goal {goal:g}x: {'reached' if gain >= goal else 'MISSED'}"


if __name__ == "__main__":
    main()
