"""Where an iteration's CPU time goes: physics, the networks' arithmetic, and all the rest.

    python benchmarks/profile_iteration.py [PRESET] [--env ID] [--iterations N] [--markdown FILE]

The trainer behind `quadriga train` with a preset's defaults, runner and learner in this process. Every part is timed
around its calls in CPU seconds of this thread; what lies inside another part is taken off the outer one. Physics is
what `quadriga.platform.environments.safety_simulation` spends in MuJoCo and in reading from it.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
from comparison import markdown_table

from quadriga.platform import experiment as experiments
from quadriga.platform.environments.safety_navigation import SafetyNavigationEnv
from quadriga.platform.environments.safety_simulation import Simulations
from quadriga.platform.rollouts import actors
from quadriga.platform.rollouts.collector import Collector
from quadriga.platform.runtime import ensure_ray
from quadriga.platform.tables import print_table
from quadriga.policies import gradients
from quadriga.policies.adam import FlatAdam
from quadriga.policies.trainer import RLTrainer

PHYSICS, NETWORKS = "physics", "networks"
ENDLESS = 2**40
# Part, its kind, and the calls that it is.
PARTS: tuple[tuple[str, str, tuple[tuple[Any, str], ...]], ...] = (
    ("MuJoCo, steps", PHYSICS, ((Simulations, "move"),)),
    ("MuJoCo, resets", PHYSICS, ((Simulations, "place"), (Simulations, "read"))),
    ("policy and critics, forward, while acting", NETWORKS, ((actors.Actor, "values"),)),
    ("gradients", NETWORKS, ((gradients.WrittenOut, "policy"), (gradients.WrittenOut, "critics"))),
    ("Adam", NETWORKS, ((FlatAdam, "apply"),)),
    ("environment besides physics", "", ((SafetyNavigationEnv, "step"),)),
    ("rest of sampling", "", ((Collector, "collect"),)),
)


class Profile:
    """CPU seconds by part, each without the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {name: 0.0 for name, _, _ in PARTS}
        self._inner = [0.0]

    def count(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose time counts as `part` from now on."""

        @functools.wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                whole = time.thread_time() - began
                self.seconds[part] += whole - self._inner.pop()
                self._inner[-1] += whole

        return counted


def main() -> None:
    """Trains a little and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="pid-lagrangian")
    parser.add_argument("--env", default="SafetyPointGoal1-v0")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()

    profile = Profile()
    for part, _, calls in PARTS:
        for owner, method in calls:
            setattr(owner, method, profile.count(part, getattr(owner, method)))
    make_mlp = actors.mlp_from_weights
    forward = PARTS[2][0]
    actors.mlp_from_weights = lambda *args, **kwargs: profile.count(forward, make_mlp(*args, **kwargs))

    experiment = experiments.build({"preset": arguments.preset, "env": {"id": arguments.env}, "steps": ENDLESS})
    ensure_ray()
    where = machine.describe()
    trainer = RLTrainer(experiment)
    trainer.train_iteration()
    for part in profile.seconds:
        profile.seconds[part] = 0.0
    began = time.thread_time()
    for _ in range(arguments.iterations):
        metrics = trainer.train_iteration()
    total = time.thread_time() - began
    steps = metrics["env_steps"] / (1 + arguments.iterations)
    trainer.stop()

    rows = [
        [name, kind or "-", f"{1e3 * seconds / arguments.iterations:.0f}", f"{100 * seconds / total:.1f}%"]
        for (name, kind, _), seconds in zip(PARTS, profile.seconds.values(), strict=True)
    ]
    rest = total - sum(profile.seconds.values())
    rows.append(["all the rest", "-", f"{1e3 * rest / arguments.iterations:.0f}", f"{100 * rest / total:.1f}%"])
    rows.append(["iteration", "", f"{1e3 * total / arguments.iterations:.0f}", "100%"])
    useful = sum(profile.seconds[name] for name, kind, _ in PARTS if kind)
    title = f"{arguments.preset} on {arguments.env}, {steps:,.0f} steps an iteration, one thread"
    header = ["part", "kind", "CPU ms an iteration", "share"]
    print(machine.sentence(where))
    print(title)
    print_table(header, rows)
    print(f"physics and the networks' arithmetic: {100 * useful / total:.1f}%")
    if arguments.markdown:
        share = f"Physics and the networks' arithmetic: {100 * useful / total:.1f}%.\n"
        parts = (machine.sentence(where), f"**{title}**", markdown_table(header, rows), share)
        arguments.markdown.write_text("\n\n".join(parts))


if __name__ == "__main__":
    main()
