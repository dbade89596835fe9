"""The benchmark of exploration: sparse tasks without a bonus, and with each of them.

As figures 1 and 2 of *Surprise-Based Intrinsic Motivation for Deep RL* (Achiam & Sastry 2017), where VIME (Houthooft et
al. 2016) is compared too. Variants of a suite differ in the bonus alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quadriga.platform.suites import Benchmark, Measure, Suite, at_the_end, last, steps_until
from quadriga.policies.presets import PRESETS

_PAPER = PRESETS["surprisal"].fields
_FOUND = 1e-9

BONUSES: dict[str, Mapping[str, Any]] = {
    "none": {"preset": "trpo", **{name: _PAPER[name] for name in ("rollout", "advantage", "update")}},
    "prediction-error": {"preset": "surprisal", "bonus": {"kind": "prediction-error", "critic": "none"}},
    "surprisal": {"preset": "surprisal"},
    "learning-progress": {"preset": "learning-progress"},
    "vime": {"preset": "vime"},
}
UNDER_A_LIMIT: dict[str, Mapping[str, Any]] = {name: {"preset": name} for name in ("pid-lagrangian", "safe-surprisal")}

EXPLORATION = Benchmark(
    "return and first reward on sparse tasks, by bonus",
    "Achiam, Sastry 2017, Surprise-Based Intrinsic Motivation for Deep Reinforcement Learning",
    {
        "control": Suite(
            "the paper's sparse continuous control",
            ["SparseMountainCar-v0", "SparseCartPoleSwingup-v0", "SparseHalfCheetah-v0"],
            BONUSES,
            1_000_000,
        ),
        "gather": Suite("a swimmer among apples and bombs", ["SwimmerGather-v0"], BONUSES, 2_000_000),
        "atari": Suite(
            "games through their RAM", ["FreewayRam-v0", "VentureRam-v0", "BankHeistRam-v0"], BONUSES, 10_000_000
        ),
        "safety": Suite(
            "goals that pay on arrival, under a cost limit of 25",
            ["SparseSafetyPointGoal1-v0", "SparseSafetyCarGoal1-v0"],
            UNDER_A_LIMIT,
            2_000_000,
        ),
    },
    {
        "return": Measure("return", at_the_end("episode_return_mean")),
        "mean_return": Measure("return, all steps", at_the_end("episode_return_mean", share=1.0)),
        "first_reward": Measure("first reward at step", steps_until("episode_return_mean", _FOUND), better="lower"),
        "cost": Measure("cost", at_the_end("episode_cost_mean"), better="lower"),
        "cost_rate": Measure("cost rate", last("cost_rate"), better="lower"),
    },
    seeds=(0, 1, 2, 3, 4),
)
