"""The benchmarks of safe reinforcement learning: Safety Gym, and the velocity tasks; exploration's is next door.

*Benchmarking Safe Exploration in Deep RL* (Ray, Achiam, Amodei 2019): algorithms are compared by the return and cost
of an episode at the end of training and by the cost rate, the cost of a step over all of training. To average over
tasks, each is divided by what unconstrained PPO reaches there, with `d` the limit of 25:

    return / return_PPO    max(0, J_C - d) / max(1e-6, J_C_PPO - d)    cost rate / cost rate_PPO

PPO's and OmniSafe's published numbers are in `data/safety_gym.json`, with their sources.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quadriga.platform.suites import Benchmark, Columns, Measure, Publication, Suite, at_the_end, last
from quadriga.policies.experiment import RLExperiment
from quadriga.policies.exploration_benchmark import EXPLORATION
from quadriga.policies.presets import SAFETY, TRPO, VELOCITY, VELOCITY_GAINS

COST_LIMIT = 25.0
LEAST = 1e-6

# The unconstrained ones with the batches of the others, so that they differ in the constraint alone.
ALGORITHMS: dict[str, Mapping[str, Any]] = {
    "ppo": {"preset": "ppo", **SAFETY},
    "trpo": {"preset": "trpo", **TRPO},
    **{name: {"preset": name} for name in ("ppo-lagrangian", "trpo-lagrangian", "pid-lagrangian", "trpo-pid", "cpo")},
}
# TRPO and CPO have no minibatches and no learning rate of the policy: of the settings for a speed limit they take the
# batch and the network. Multiplier and margin take a step a batch, five times as many, hence smaller ones.
_SMALL = {name: VELOCITY[name] for name in ("rollout", "network")}
VELOCITY_ALGORITHMS: dict[str, Mapping[str, Any]] = {
    "ppo": {"preset": "ppo", **VELOCITY},
    "trpo": {"preset": "trpo", **TRPO, **_SMALL},
    "ppo-lagrangian": {"preset": "ppo-lagrangian", **VELOCITY, "constraint": {"learning_rate": 0.035}},
    "trpo-lagrangian": {"preset": "trpo-lagrangian", **_SMALL},
    "pid-lagrangian": {"preset": "pid-lagrangian", **VELOCITY, "constraint": VELOCITY_GAINS},
    "trpo-pid": {"preset": "trpo-pid", **_SMALL, "constraint": VELOCITY_GAINS},
    "cpo": {"preset": "cpo", **_SMALL, "constraint": {"margin_learning_rate": 0.004}},
}


def _tasks(robots: tuple[str, ...], kinds: tuple[str, ...], levels: str) -> list[str]:
    return [f"Safety{robot}{kind}{level}-v0" for robot in robots for kind in kinds for level in levels]


_ROBOTS, _KINDS = ("Point", "Car", "Doggo"), ("Goal", "Button", "Push")
_SG6 = ("PointGoal1", "PointGoal2", "PointButton1", "PointPush1", "CarGoal1", "DoggoGoal1")
_VELOCITY = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Swimmer", "Humanoid")

SUITES = {
    "sg1": Suite(
        "Point, Car and Doggo: Goal, Button and Push at level 1", _tasks(_ROBOTS, _KINDS, "1"), ALGORITHMS, 10_000_000
    ),
    "sg6": Suite("the six of the paper", [f"Safety{task}-v0" for task in _SG6], ALGORITHMS, 10_000_000),
    "sg18": Suite("levels 1 and 2 of the nine", _tasks(_ROBOTS, _KINDS, "12"), ALGORITHMS, 10_000_000),
    "velocity": Suite(
        "MuJoCo's robots under a speed limit",
        [f"Safety{robot}Velocity-v1" for robot in _VELOCITY],
        VELOCITY_ALGORITHMS,
        10_000_000,
    ),
}

MEASURES = {
    "return": Measure("return", at_the_end("episode_return_mean")),
    "cost": Measure("cost", at_the_end("episode_cost_mean"), better="lower"),
    "cost_rate": Measure("cost rate", last("cost_rate"), better="lower"),
}


def _violation(columns: Columns, step_metric: str) -> float:
    """`mean_k (J_C(k) - d)_+` over all iterations: the figure of merit of the PID paper, of an iteration."""
    return float(np.nanmean(np.maximum(0.0, columns["episode_cost_mean"] - COST_LIMIT)))


def _variants(preset: str, section: str, **values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """All combinations of a section's fields, by what they are."""
    found = {}
    for combination in itertools.product(*values.values()):
        fields = dict(zip(values, combination, strict=True))
        label = " ".join(f"{name}={value}" for name, value in fields.items())
        found[label] = {"preset": preset, section: fields}
    return found


_POINT = ["SafetyPointGoal1-v0"]
_SCALES = {
    f"reward x {scale}{', invariant' if invariant else ''}": {
        "preset": "pid-lagrangian",
        "advantage": {"reward": "center", "cost": "center", "reward_scale": scale},
        "constraint": {"reward_scale_invariance": invariant},
    }
    for invariant in (False, True)
    for scale in (0.1, 1, 10)
}

# The gains are in units of a mean episode's cost, and an iteration is one update of the controller.
PID_SUITES = {
    "gains": Suite(
        "response to K_I, for three K_P: integral control alone is the traditional Lagrangian",
        _POINT,
        _variants("pid-lagrangian", "constraint", kp=(0, 0.02, 0.1), ki=(0.0003, 0.001, 0.003, 0.01, 0.03), kd=(0,)),
        1_000_000,
        axis="constraint.ki",
    ),
    "derivative": Suite(
        "the predictive effect of K_D",
        _POINT,
        _variants("pid-lagrangian", "constraint", kd=(0, 0.01, 0.03, 0.1, 0.3)),
        1_000_000,
        axis="constraint.kd",
    ),
    "lagrangian-rate": Suite(
        "robustness of gradient ascent on the multiplier to its learning rate",
        _POINT,
        _variants("ppo-lagrangian", "constraint", learning_rate=(0.003, 0.01, 0.035, 0.1, 0.3)),
        1_000_000,
        axis="constraint.learning_rate",
    ),
    "reward-scale": Suite(
        "rewards x 0.1, 1 and 10, with and without reward-scale invariance",
        _POINT,
        _SCALES,
        1_000_000,
        axis="advantage.reward_scale",
    ),
}


@functools.cache
def _data() -> Any:
    return json.loads(Path(__file__).with_name("data").joinpath("safety_gym.json").read_text("utf-8"))


def unconstrained(task: str) -> Mapping[str, float]:
    """Unconstrained PPO's `return`, `cost` and, if it was published, `cost_rate` on a task; empty if nothing was."""
    score = _data()["ppo"]["scores"].get(task)
    if score is not None:
        return dict(score)
    published = _data()["omnisafe"]["results"].get(task, {}).get("ppo", {})
    return {measure: value[0] for measure, value in published.items()}


def published(experiment: RLExperiment, metric: str) -> dict[str, float]:
    """OmniSafe's mean return or cost of an experiment's preset on its task; empty where none was published."""
    measure = {"episode_return_mean": "return", "episode_cost_mean": "cost"}.get(metric, "")
    found = _data()["omnisafe"]["results"].get(experiment.env.id, {}).get(experiment.preset, {})
    return {f"OmniSafe's {experiment.preset}, 10M steps": found[measure][0]} if measure in found else {}


def normalise(task: str, measures: Mapping[str, float]) -> dict[str, float]:
    """A trial's return, cost and cost rate in units of unconstrained PPO's; nothing for an unknown task."""
    ppo = unconstrained(task)
    normalised = {}
    if "return" in ppo:
        normalised["return"] = measures["return"] / ppo["return"]
    if "cost" in ppo:
        normalised["cost"] = max(0.0, measures["cost"] - COST_LIMIT) / max(LEAST, ppo["cost"] - COST_LIMIT)
    if "cost_rate" in ppo:
        normalised["cost_rate"] = measures["cost_rate"] / ppo["cost_rate"]
    return normalised


def _published() -> Publication:
    found = _data()["omnisafe"]
    results = {
        task: {
            name: {measure: (float(mean), float(deviation)) for measure, (mean, deviation) in measures.items()}
            for name, measures in algorithms.items()
        }
        for task, algorithms in found["results"].items()
    }
    return Publication("OmniSafe", found["source"], results)


BENCHMARKS = {
    "exploration": EXPLORATION,
    "safety-gym": Benchmark(
        "return, cost and cost rate under a cost limit of 25",
        "Ray, Achiam, Amodei 2019, Benchmarking Safe Exploration in Deep RL",
        SUITES,
        MEASURES,
        normalised={"return": "return / PPO's", "cost": "excess cost / PPO's", "cost_rate": "cost rate / PPO's"},
        normalise=normalise,
        normalised_by=f"{_data()['ppo']['source']}; of velocity tasks, OmniSafe's PPO, without a cost rate",
        published=[_published()],
    ),
    "pid-paper": Benchmark(
        "how the multiplier's controller and its settings answer",
        "Stooke, Achiam, Abbeel 2020, Responsive Safety in RL by PID Lagrangian Methods",
        PID_SUITES,
        MEASURES | {"violation": Measure("mean violation", _violation, better="lower")},
    ),
}
