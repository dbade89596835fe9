"""From Python: two algorithms on an environment of your own, what each earned and cost, and a policy to call.

PYTHONPATH=examples python examples/from_python.py
"""

from __future__ import annotations

import argparse

import gymnasium

from quadriga.platform.api import Run, train


def summary(run: Run) -> str:
    """What the episodes of the last iteration earned and cost."""
    last = run.metrics.to_pylist()[-1]
    return f"return {last['episode_return_mean']:6.1f}  cost {last['episode_cost_mean']:6.1f}"


def main() -> None:
    """Trains, compares, and plays one episode with the constrained policy."""
    parser = argparse.ArgumentParser(description="Two algorithms on a greenhouse.")
    parser.add_argument("--steps", type=int, default=150_000)
    steps = parser.parse_args().steps

    rollout = {"envs_per_runner": 8, "batch_size": 3072}
    runs = {}
    for preset, constraint in {"ppo": None, "pid-lagrangian": {"cost_limit": 10}}.items():
        fields = {"constraint": constraint} if constraint else {}
        env = "own_environment:Greenhouse-v0"
        runs[preset] = train(preset, env=env, steps=steps, rollout=rollout, progress="quiet", **fields)
        print(f"{preset:15} {summary(runs[preset])}")

    policy = runs["pid-lagrangian"].policy()
    env = gymnasium.make("own_environment:Greenhouse-v0")
    observation, _ = env.reset(seed=0)
    warm, done = 0.0, False
    while not done:
        observation, _, terminated, truncated, info = env.step(policy(observation))
        warm += info["cost"]
        done = terminated or truncated
    print(f"one episode with its most likely actions: {warm:.0f} steps above 30 degrees")


if __name__ == "__main__":
    main()
