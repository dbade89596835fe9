"""`env.sleeping`: how much faster, and whether returns and costs are the same in the mean. Needs MuJoCo 3.17.

    python benchmarks/sleeping.py [--task ID] [--episodes N] [--markdown FILE]

Two vectors of the native environment with the same seeds and the same smooth random actions, in turn, 10 steps each;
CPU time of this thread. Their episodes part once an object has slept, so returns and costs are compared by their means.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import environments
import machine
import numpy as np
from comparison import markdown_table

from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.statistics import mean_interval
from quadriga.platform.tables import print_table

TASKS = (*environments.GOALS, "SafetyPointButton2-v0", "SafetyCarGoal2-v0", "SafetyDoggoGoal2-v0")
ENVS = 16


def measure(id: str, episodes: int) -> dict[bool, dict[str, Any]]:
    """Microseconds a step, and returns and costs of whole episodes, without and with sleeping objects."""
    vectors = {sleeping: make_vector_env(EnvironmentSettings(id=id, sleeping=sleeping), ENVS) for sleeping in (0, 1)}
    space = vectors[0].single_action_space
    draw = environments.Actions(space.low, space.high, ENVS).draw
    results: dict[bool, dict[str, Any]] = {}
    sums = {sleeping: np.zeros((2, ENVS)) for sleeping in vectors}
    rows: dict[int, list[np.ndarray]] = {sleeping: [] for sleeping in vectors}
    seconds = dict.fromkeys(vectors, 0.0)
    for vector in vectors.values():
        vector.reset(seed=0)
    rounds = -(-episodes // ENVS)
    for _ in range(rounds * environments.EPISODE // environments.CHUNK):
        actions = draw(environments.CHUNK)
        for sleeping, vector in vectors.items():

            def play(vector: Any = vector, sleeping: int = sleeping) -> None:
                for action in actions:  # noqa: B023
                    _, rewards, _, truncations, infos = vector.step(action)
                    sums[sleeping] += rewards, infos["cost"]
                    if truncations.any():
                        rows[sleeping].append(sums[sleeping].copy())
                        sums[sleeping][:] = 0.0

            seconds[sleeping] += environments.timed(play)
    for sleeping in vectors:
        returns, costs = np.concatenate(rows[sleeping], axis=1)
        results[bool(sleeping)] = {
            "us": 1e6 * seconds[sleeping] / (rounds * environments.EPISODE * ENVS),
            "return": mean_interval(returns),
            "cost": mean_interval(costs),
        }
    return results


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    where = machine.sentence(machine.describe())
    header = ["task", "us a step", "sleeping", "faster", "return", "sleeping", "cost", "sleeping"]
    table = []
    for id in [arguments.task] if arguments.task else TASKS:
        results = measure(id, arguments.episodes)
        awake, asleep = results[False], results[True]
        times = [f"{awake['us']:.0f}", f"{asleep['us']:.0f}", f"{awake['us'] / asleep['us']:.2f}x"]
        means = [_show(side[name]) for name in ("return", "cost") for side in (awake, asleep)]
        table.append([id, *times, *means])
    print(where)
    print_table(header, table)
    if arguments.markdown:
        arguments.markdown.write_text(f"{where}\n\n{markdown_table(header, table)}\n")


def _show(interval: Any) -> str:
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


if __name__ == "__main__":
    main()
