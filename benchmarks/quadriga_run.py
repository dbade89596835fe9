"""One measured run of ours, in a process of its own; `training.py` starts it."""

from __future__ import annotations

from typing import Any

from phases import BONUS, LEARNING, SAMPLING, SYNC, Stopwatch, run

from quadriga.platform import experiment as experiments
from quadriga.platform.runtime import ensure_ray

ENDLESS = 2**40


def experiment_fields(specification: dict[str, Any]) -> dict[str, Any]:
    """The experiment of a specification; without settings our own defaults."""
    fields: dict[str, Any] = {
        "preset": specification["algorithm"],
        "env": {"id": specification["env"], "on_error": "raise"},
        "seed": specification["seed"],
        "steps": ENDLESS,
    }
    fields = experiments.merged(fields, {k: v for k, v in specification.get("fields", {}).items() if k != "preset"})
    settings = specification["settings"]
    if settings is None:
        return fields
    return fields | {
        "rollout": {
            "batch_size": settings["batch_size"],
            "envs_per_runner": settings["envs"],
            "normalize_observations": "standardize" if settings["normalize_observations"] else "none",
        },
        "network": {"hidden_sizes": settings["hidden_sizes"], "activation": settings["activation"]},
        "advantage": {
            "discount": settings["discount"],
            "gae_lambda": settings["gae_lambda"],
            "cost_discount": settings["discount"],
            "cost_gae_lambda": settings["gae_lambda"],
        },
        "update": second_order(specification["algorithm"], settings) if "cg_iterations" in settings else ppo(settings),
    }


def ppo(settings: dict[str, Any]) -> dict[str, Any]:
    """`update:` of PPO and its variants."""
    return {
        "learning_rate": settings["learning_rate"],
        "critic_learning_rate": settings["learning_rate"],
        "epochs": settings["epochs"],
        "minibatch_size": settings["minibatch_size"],
        "clip": settings["clip"],
        "entropy_coefficient": 0.0,
        "target_kl": None,  # all epochs, every time
        "max_grad_norm": settings["max_grad_norm"],
    }


def second_order(algorithm: str, settings: dict[str, Any]) -> dict[str, Any]:
    """`update:` of TRPO, its variants and CPO; passes and minibatches are those of the critics."""
    return {
        "kind": "cpo" if algorithm == "cpo" else "trpo",
        **{name: settings[name] for name in ("target_kl", "damping", "cg_iterations")},
        "critic_learning_rate": settings["critic_learning_rate"],
        "critic_epochs": settings["epochs"],
        "critic_minibatch_size": settings["minibatch_size"],
        "critic_max_grad_norm": settings["max_grad_norm"],
    }


def measure(specification: dict[str, Any]) -> dict[str, Any]:
    """Iterations of the trainer behind `quadriga train`, without its progress and files."""
    experiment = experiments.build(experiment_fields(specification))
    ensure_ray()
    from quadriga.policies.trainer import RLTrainer

    trainer = RLTrainer(experiment)
    algorithm = trainer.algorithm
    watch = Stopwatch()
    watch.wrap(algorithm.env_runner_group.local_env_runner, "sample", SAMPLING)
    watch.wrap(algorithm.learner_group, "update", LEARNING)
    watch.wrap(algorithm.env_runner_group, "sync_weights", SYNC)
    if experiment.bonus.kind != "none":
        from quadriga.policies.bonuses import Evaluation, Intrinsic

        watch.wrap(Evaluation, "__call__", BONUS)
        watch.wrap(Intrinsic, "learn", BONUS)
    before = 0
    metrics: dict[str, float] = {}
    for _ in range(specification["warmup"] + specification["iterations"]):
        watch.begin()
        metrics = trainer.train_iteration()
        watch.end(int(metrics["env_steps"]) - before)
        before = int(metrics["env_steps"])
    trainer.stop()
    return {
        "iterations": watch.iterations[specification["warmup"] :],
        # A second-order rule's policy passes once, its critics as often as they are told.
        "passes": metrics.get("policy_epochs", float(getattr(experiment.update, "critic_epochs", 1))),
    }


if __name__ == "__main__":
    run(measure)
