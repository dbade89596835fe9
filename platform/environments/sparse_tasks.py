"""The tasks of exploration by id: what each pays, and which class makes it; importing this imports no simulator."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from quadriga.platform.environments.native import NativeVectorEnv

_PACKAGE = "quadriga.platform.environments"


class SparseTask(NamedTuple):
    """A task: its family and what it pays, and `module:Class` of the vector that it is."""

    family: str
    summary: str
    vector: str


SPARSE_TASKS: dict[str, SparseTask] = {
    "SparseMountainCar-v0": SparseTask(
        "sparse control",
        "1 at the top of the hill, which ends the episode; at most 500 steps",
        "sparse_control:SparseMountainCarEnv",
    ),
    "SparseCartPoleSwingup-v0": SparseTask(
        "sparse control",
        "1 a step with the pole up, cos(angle) > 0.8; at most 500 steps",
        "sparse_control:SparseCartPoleSwingupEnv",
    ),
    "SparseHalfCheetah-v0": SparseTask(
        "sparse locomotion", "1 a step beyond 5 units; at most 500 steps", "sparse_locomotion:SparseHalfCheetahEnv"
    ),
    "SwimmerGather-v0": SparseTask(
        "sparse locomotion", "1 an apple, -1 a bomb; at most 500 steps", "sparse_locomotion:SwimmerGatherEnv"
    ),
    **{
        f"SparseSafety{agent}Goal{level}-v0": SparseTask(
            "sparse safety",
            f"{agent}: 1 a goal reached; at most 1,000 steps, reports a cost",
            "sparse_safety:SparseGoalEnv",
        )
        for agent in ("Point", "Car")
        for level in range(3)
    },
    "FreewayRam-v0": SparseTask(
        "atari ram", "1 a crossing; at most 7,000 steps of 4 frames", "atari_ram:FreewayRamEnv"
    ),
    "VentureRam-v0": SparseTask(
        "atari ram", "points for treasures; at most 7,000 steps of 4 frames", "atari_ram:VentureRamEnv"
    ),
    "PongRam-v0": SparseTask("atari ram", "1 or -1 a ball; at most 7,000 steps of 4 frames", "atari_ram:PongRamEnv"),
    "BankHeistRam-v0": SparseTask(
        "atari ram", "points for banks; at most 7,000 steps of 4 frames", "atari_ram:BankHeistRamEnv"
    ),
}


def is_ram(id: str) -> bool:
    """Whether the observation of task `id` is bytes of memory divided by 255."""
    return id in SPARSE_TASKS and SPARSE_TASKS[id].family == "atari ram"


def summary(id: str) -> str:
    """What task `id` pays, and which package it lacks here."""
    lacks = is_ram(id) and importlib.util.find_spec("ale_py") is None
    return SPARSE_TASKS[id].summary + ("; needs ale-py, which is not installed" if lacks else "")


def make_sparse_task(id: str, num_envs: int, **kwargs: Any) -> NativeVectorEnv:
    """The vector of task `id`; `kwargs` are those of its class."""
    module, _, name = SPARSE_TASKS[id].vector.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)(num_envs, name=id, **kwargs)
