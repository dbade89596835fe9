"""The published algorithms by name, each a triple of update rule, constraint and bonus."""

from __future__ import annotations

from quadriga.platform.lines import Preset

# Episodes of 1,000 steps: with four environments, four of them end in every iteration of 4,000 steps.
_SAFETY = {"rollout": {"envs_per_runner": 4}}

PRESETS: dict[str, Preset] = {
    "ppo": Preset(
        "proximal policy optimization, no constraint",
        "Schulman et al. 2017, arXiv:1707.06347",
    ),
    "ppo-lagrangian": Preset(
        "PPO with gradient ascent on a Lagrange multiplier",
        "Ray, Achiam, Amodei 2019, Benchmarking Safe Exploration in Deep RL",
        {**_SAFETY, "constraint": {"kind": "lagrangian"}},
    ),
    "pid-lagrangian": Preset(
        "PPO with a PID-controlled Lagrange multiplier",
        "Stooke, Achiam, Abbeel 2020, arXiv:2007.03964",
        {**_SAFETY, "constraint": {"kind": "pid"}},
    ),
}
