"""Environment steps: ours beside the unmodified environments, and beside the physics that both must do.

    python benchmarks/environments.py [--task ID] [--steps N] [--rounds N] [--quick] [--json FILE] [--markdown FILE]

Everything of a task happens in one process, in turn, on the same trajectories: the same seeds, the same actions,
chunk by chunk. CPU time is this thread's. Physics only is what no environment can do without: 10 `mj_step` of the
model with all that the package puts into it, one simulation after the other, and where gremlins move, putting
their targets where they belong. The generic path is compared with gymnasium's own vectors on any id.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import machine
import mujoco
import numpy as np
from comparison import markdown_table, ratio, short, show_ratio, show_spread, spread

from quadriga.platform.environments.registry import make_env, make_vector_env
from quadriga.platform.environments.safety_gremlins import Circle
from quadriga.platform.environments.safety_model import world_xml
from quadriga.platform.environments.safety_navigation import SafetyNavigationEnv
from quadriga.platform.environments.safety_tasks import SUBSTEPS
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.tables import print_table

# Task: how many times faster than the unmodified environment with its resets, and how long a reset may take in ms.
GOALS = {
    "SafetyPointGoal1-v0": (7.0, 2.0),
    "SafetyPointGoal2-v0": (3.0, 2.0),
    "SafetyCarGoal1-v0": (3.0, 2.0),
    "SafetyDoggoGoal1-v0": (3.0, 2.0),
    "SafetyPointButton1-v0": (9.0, 12.0),
    "SafetyPointPush1-v0": (3.0, 2.0),
}
BOUND_GOAL = 0.85
MEMORY_GOAL = 1.0
SIZES = (32, 8, 1)
UNMODIFIED = 2
CHUNK = 10
EPISODE = 1000
VELOCITY = ("SafetyHalfCheetahVelocity-v1", "SafetyAntVelocity-v1", "SafetyHumanoidVelocity-v1")
GENERIC = ("CartPole-v1", "HalfCheetah-v5")
GENERIC_ENVS = 8

Measured = dict[str, list[float]]

MEMORY = """
import sys
import numpy as np
from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.environments.settings import EnvironmentSettings

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def play(num_envs):
    env = make_vector_env(EnvironmentSettings(id=sys.argv[1], native=sys.argv[2] == "native"), num_envs)
    for inner in getattr(env, "_envs", ()):
        inner.unwrapped.task.world = None  # the package's own, with its textures
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.zeros(env.action_space.shape, np.float32))
    return env

first = play(1)
before = resident()
second = play(int(sys.argv[3]))
print((resident() - before) / int(sys.argv[3]) / 1e6)
"""


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    known = machine.describe()
    tasks = [arguments.task] if arguments.task else list(GOALS)
    steps, rounds = (CHUNK, 2) if arguments.quick else (arguments.steps, arguments.rounds)
    results = {}
    for task in tasks:
        results[task] = measure_task(task, steps, rounds, resets=3 if arguments.quick else 30)
        print(f"{task} measured", file=sys.stderr)
    velocity = {id: measure_pair(id, steps, rounds) for id in ([] if arguments.task else VELOCITY)}
    generic = {id: measure_generic(id, 4 * steps, rounds) for id in ([] if arguments.task else GENERIC)}
    known["load_average_after"] = list(os.getloadavg())

    sections = [
        ("Safety-Gymnasium's navigation tasks, CPU microseconds an environment step", *navigation_table(results)),
        ("Resets and memory", *reset_table(results)),
        ("Safety-Gymnasium's velocity tasks, CPU microseconds an environment step, N = 8", *velocity_table(velocity)),
        (f"Any id of gymnasium, microseconds an environment step, N = {GENERIC_ENVS}", *generic_table(generic)),
    ]
    sections = [section for section in sections if section[2]]
    verdicts = [line for task in results for line in verdict(task, results[task])]
    for title, headers, rows in sections:
        print(f"\n{title}")
        print_table(headers, rows)
    print("\n" + "\n".join(verdicts) + "\n\n" + machine.sentence(known))
    if arguments.json:
        data = {"machine": known, "navigation": results, "velocity": velocity, "generic": generic}
        arguments.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        parts = [f"### Environment steps\n\n{machine.sentence(known)}.\n"]
        parts += [f"**{title}**\n\n{markdown_table(headers, rows)}\n" for title, headers, rows in sections]
        parts.append("\n".join(f"- {line}" for line in verdicts) + "\n")
        arguments.markdown.write_text("\n".join(parts), encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Environment steps beside the unmodified environments and physics.")
    parser.add_argument("--task", choices=tuple(GOALS), help="one task only")
    parser.add_argument("--steps", type=int, default=100, help="steps of a round (default: 100)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a fragment for RESULTS.md")
    arguments = parser.parse_args()
    if arguments.steps < CHUNK or arguments.rounds < 1:
        parser.error(f"--steps: expected {CHUNK} or more; --rounds: expected 1 or more")
    return arguments


class Physics:
    """The simulations of a vector once more, with everything in their models and nothing around them."""

    def __init__(self, env: SafetyNavigationEnv) -> None:
        layouts = zip(env.places, env._yaws, strict=True)
        xml = [world_xml(env.task, places, yaws, markers=True) for places, yaws in layouts]
        self._models = [mujoco.MjModel.from_xml_string(text) for text in xml]
        self.data = [mujoco.MjData(model) for model in self._models]
        for model, data in zip(self._models, self.data, strict=True):
            mujoco.mj_forward(model, data)
        self._circle = Circle(float(self._models[0].opt.timestep))
        self._length = 0

    def step(self, actions: np.ndarray) -> None:
        """10 physics steps each: `actions` `[N, nu]`."""
        step = mujoco.mj_step
        targets = self._circle.targets(self.data[0].time, self._length)
        for model, data, action in zip(self._models, self.data, actions, strict=True):
            data.ctrl[:] = action
            if model.nmocap:
                mocap = data.mocap_pos
                for target in targets:
                    mocap[:] = target
                    step(model, data)
            else:
                step(model, data, SUBSTEPS)
        self._length += 1


class Actions:
    """Smooth random actions that move a robot about."""

    def __init__(self, low: np.ndarray, high: np.ndarray, num_envs: int) -> None:
        self._low, self._high = low, high
        self._random = np.random.default_rng(0)
        self._drift = np.zeros((num_envs, len(low)))

    def draw(self, count: int) -> list[np.ndarray]:
        """Actions float32 `[N, nu]` of `count` steps."""
        actions = []
        for _ in range(count):
            self._drift = 0.95 * self._drift + 0.3 * self._random.normal(size=self._drift.shape)
            actions.append(np.clip(self._drift * self._high, self._low, self._high).astype(np.float32))
        return actions


def timed(work: Callable[[], Any]) -> float:
    """CPU seconds of this thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def measure_task(id: str, steps: int, rounds: int, resets: int) -> dict[str, Any]:
    """Microseconds an environment step by side and round; milliseconds a reset; megabytes an environment."""
    settings = EnvironmentSettings(id=id, max_episode_steps=10**6)
    vectors = {size: make_vector_env(settings, size) for size in SIZES}
    for vector in vectors.values():
        vector.reset(seed=0)
    largest = vectors[SIZES[0]]
    assert isinstance(largest, SafetyNavigationEnv)
    physics = Physics(largest)
    plain = [make_env(settings) for _ in range(UNMODIFIED)]
    for seed, env in enumerate(plain):
        env.reset(seed=seed)
    space = largest.single_action_space
    draw = Actions(space.low, space.high, SIZES[0]).draw
    seconds: Measured = {name: [] for name in (*map(str, SIZES), "physics", "unmodified")}
    for _ in range(rounds):
        for of in seconds.values():
            of.append(0.0)
        for _ in range(0, steps, CHUNK):
            actions = draw(CHUNK)
            for size, vector in vectors.items():
                seconds[str(size)][-1] += timed(lambda: [vector.step(a[:size]) for a in actions])  # noqa: B023
            seconds["physics"][-1] += timed(lambda: [physics.step(a) for a in actions])  # noqa: B023
            for n, env in enumerate(plain):
                seconds["unmodified"][-1] += timed(lambda: [env.step(a[n]) for a in actions])  # noqa: B023
    for ours, bare in zip(largest._simulations.data, physics.data, strict=True):
        assert np.array_equal(ours.qpos, bare.qpos), "the physics took another way"
    counts = {**{str(size): size for size in SIZES}, "physics": SIZES[0], "unmodified": UNMODIFIED}
    whole = steps // CHUNK * CHUNK
    micro = {name: [1e6 * s / (whole * counts[name]) for s in of] for name, of in seconds.items()}
    return {"step_us": micro, "reset_ms": measure_resets(id, resets), "memory_mb": measure_memory(id)}


def measure_resets(id: str, count: int) -> Measured:
    """Milliseconds a reset, the same seeds on every side; of the textured one, which takes longest, a few."""
    vector = make_vector_env(EnvironmentSettings(id=id), 1)
    stripped, textured = (make_env(EnvironmentSettings(id=id)) for _ in range(2))
    textured.unwrapped.task.world = None  # type: ignore[attr-defined]
    for env in (vector, stripped, textured):  # the package's first reset does things twice
        env.reset(seed=0)
    milli: Measured = {"native": [], "unmodified": [], "stripped": []}
    for seed in range(count):
        milli["native"].append(1e3 * timed(lambda: vector.reset(seed=seed)))  # noqa: B023
        if seed < max(2, count // 6):
            milli["stripped"].append(1e3 * timed(lambda: stripped.reset(seed=seed)))  # noqa: B023
            milli["unmodified"].append(1e3 * timed(lambda: textured.reset(seed=seed)))  # noqa: B023
    return milli


def measure_memory(id: str) -> dict[str, float]:
    """Megabytes that one more environment takes, each measured in a process of its own."""
    sides = {"native": ("native", 32), "unmodified": ("unmodified", 2)}
    return {name: _megabytes(id, kind, count) for name, (kind, count) in sides.items()}


def _megabytes(id: str, kind: str, count: int) -> float:
    command = [sys.executable, "-c", MEMORY, id, kind, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_pair(id: str, steps: int, rounds: int) -> Measured:
    """A native vector of 8 and the generic one, microseconds an environment step."""
    sides = {
        name: make_vector_env(EnvironmentSettings(id=id, native=name == "native"), 8) for name in ("native", "serial")
    }
    for env in sides.values():
        env.reset(seed=0)
    space = sides["native"].single_action_space
    draw = Actions(space.low, space.high, 8).draw
    micro: Measured = {name: [] for name in sides}
    for _ in range(rounds):
        actions = draw(2 * steps)
        for name, env in sides.items():
            micro[name].append(1e6 * timed(lambda: [env.step(a) for a in actions]) / (8 * len(actions)))  # noqa: B023
    return micro


def measure_generic(id: str, steps: int, rounds: int) -> dict[str, Measured]:
    """Ours, gymnasium's sync and its async vector: CPU (of all processes) and wall microseconds a step."""
    sides: dict[str, Any] = {
        "ours": make_vector_env(EnvironmentSettings(id=id), GENERIC_ENVS),
        "sync": gymnasium.make_vec(id, GENERIC_ENVS, vectorization_mode="sync"),
        "async": gymnasium.make_vec(id, GENERIC_ENVS, vectorization_mode="async"),
    }
    micro: dict[str, Measured] = {name: {"cpu": [], "wall": []} for name in sides}
    for env in sides.values():
        env.reset(seed=0)
        env.action_space.seed(0)
    for _ in range(rounds):
        actions = [sides["ours"].action_space.sample() for _ in range(steps)]
        for name, env in sides.items():
            workers = getattr(env.unwrapped, "processes", [])
            before, began = _workers_seconds(workers), time.perf_counter()
            own = timed(lambda: [env.step(a) for a in actions])  # noqa: B023
            wall = time.perf_counter() - began
            scale = 1e6 / (steps * GENERIC_ENVS)
            micro[name]["wall"].append(scale * wall)
            micro[name]["cpu"].append(scale * (own + _workers_seconds(workers) - before))
    for env in sides.values():
        env.close()
    return micro


def _workers_seconds(workers: list[Any]) -> float:
    ticks = 0
    for worker in workers:
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def with_resets(result: dict[str, Any], side: str, reset: str) -> list[float]:
    """Microseconds a step with its share of a reset, by round."""
    share = 1e3 * float(np.mean(result["reset_ms"][reset])) / EPISODE
    return [step + share for step in result["step_us"][side]]


def navigation_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row a task."""
    headers = ["task", *(f"N = {size}" for size in SIZES), "physics only", "share of the bound", "unmodified"]
    rows = []
    for id, result in results.items():
        micro = result["step_us"]
        rows.append(
            [
                id,
                *(show_spread(spread(micro[str(size)])) for size in SIZES),
                show_spread(spread(micro["physics"])),
                show_ratio(ratio(micro["32"], micro["physics"])).replace("x", ""),
                show_spread(spread(micro["unmodified"])),
            ]
        )
    return [*headers, "with resets, against ours"], [
        [*row, show_ratio(ratio(with_resets(r, "32", "native"), with_resets(r, "unmodified", "unmodified")))]
        for row, r in zip(rows, results.values(), strict=True)
    ]


def reset_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row a task."""
    headers = [
        "task",
        "reset, CPU ms (mean, range)",
        "unmodified",
        "without textures",
        "MB an environment",
        "unmodified",
    ]
    rows = []
    for id, result in results.items():
        resets = [result["reset_ms"][name] for name in ("native", "unmodified", "stripped")]
        texts = [f"{short(float(np.mean(of)))} ({short(min(of))}..{short(max(of))})" for of in resets]
        rows.append([id, *texts, *(short(result["memory_mb"][name]) for name in ("native", "unmodified"))])
    return headers, rows


def velocity_table(results: dict[str, Measured]) -> tuple[list[str], list[list[str]]]:
    """A row a task."""
    rows = [
        [
            id,
            *(show_spread(spread(of[name])) for name in ("native", "serial")),
            show_ratio(ratio(of["native"], of["serial"])),
        ]
        for id, of in results.items()
    ]
    return ["task", "ours", "generic path", "against ours"], rows


def generic_table(results: dict[str, dict[str, Measured]]) -> tuple[list[str], list[list[str]]]:
    """A row an id and side."""
    rows = []
    for id, sides in results.items():
        for name, of in sides.items():
            against = [show_ratio(ratio(sides["ours"][kind], of[kind])) if name != "ours" else "1" for kind in of]
            rows.append(
                [id, name, show_spread(spread(of["cpu"])), against[0], show_spread(spread(of["wall"])), against[1]]
            )
    return ["id", "vector", "CPU of all processes", "against ours", "wall", "against ours"], rows


def verdict(id: str, result: dict[str, Any]) -> list[str]:
    """The goals, and whether they were reached."""
    faster, milliseconds = GOALS[id]
    micro = result["step_us"]
    bound = ratio(micro["32"], micro["physics"]).of_medians
    gain = ratio(with_resets(result, "32", "native"), with_resets(result, "unmodified", "unmodified")).of_medians
    reset = float(np.mean(result["reset_ms"]["native"]))
    memory = result["memory_mb"]["native"]
    checks = [
        (f"{bound:.0%} of the bound", f"{BOUND_GOAL:.0%}", bound >= BOUND_GOAL),
        (f"{gain:.1f}x with resets", f"{faster:g}x", gain >= faster),
        (f"reset {reset:.2f} ms", f"{milliseconds:g} ms", reset <= milliseconds),
        (f"{memory:.2f} MB", f"{MEMORY_GOAL:g} MB", memory <= MEMORY_GOAL),
    ]
    return [f"{id}: " + "; ".join(f"{what} (goal {goal}{'' if met else ', MISSED'})" for what, goal, met in checks)]


if __name__ == "__main__":
    main()
