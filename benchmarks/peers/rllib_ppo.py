"""One measured run of RLlib's own PPO (new API stack), in a process of its own; `training.py` starts it."""

from __future__ import annotations

import logging
from typing import Any

from phases import LEARNING, SAMPLING, SYNC, Stopwatch, run

from quadriga.platform.runtime import ensure_ray


def register_ram(env: str) -> None:
    """Makes RLlib's `env` the game with its bytes as numbers from 0 to 1, as ours; `MeanStdFilter` takes no bytes."""
    import ale_py
    import gymnasium
    import numpy as np
    from ray.tune.registry import register_env

    gymnasium.register_envs(ale_py)

    def make(config: dict[str, Any]) -> gymnasium.Env:
        game = gymnasium.make(env, **config)
        space = gymnasium.spaces.Box(0.0, 1.0, game.observation_space.shape, np.float32)
        return gymnasium.wrappers.TransformObservation(game, lambda ram: ram / np.float32(255), space)

    register_env(env, make)


def set_all(config: Any, settings: dict[str, Any]) -> None:
    """Everything that the comparison fixes; without it `config` has RLlib's own defaults."""
    from ray.rllib.connectors.env_to_module import MeanStdFilter
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    normalize = settings["normalize_observations"]
    (
        config.env_runners(
            num_envs_per_env_runner=settings["envs"],
            env_to_module_connector=(lambda env=None, spaces=None, device=None: MeanStdFilter()) if normalize else None,
        )
        .training(
            train_batch_size_per_learner=settings["batch_size"],
            minibatch_size=settings["minibatch_size"],
            num_epochs=settings["epochs"],
            lr=settings["learning_rate"],
            gamma=settings["discount"],
            lambda_=settings["gae_lambda"],
            clip_param=settings["clip"],
            vf_clip_param=float("inf"),
            vf_loss_coeff=0.5,
            entropy_coeff=0.0,
            use_kl_loss=False,
            kl_coeff=0.0,
            grad_clip=settings["max_grad_norm"],
            grad_clip_by="global_norm",
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=list(settings["hidden_sizes"]),
                fcnet_activation=settings["activation"],
                vf_share_layers=False,
                free_log_std=settings["free_log_std"],
            )
        )
    )


def measure(specification: dict[str, Any]) -> dict[str, Any]:
    """Iterations of stock PPO, with the settings of the specification or its own; on the same Ray as ours."""
    ensure_ray()
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.utils.metrics import ALL_MODULES, ENV_RUNNER_RESULTS, LEARNER_RESULTS
    from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME as ENV_STEPS
    from ray.rllib.utils.metrics import NUM_MODULE_STEPS_TRAINED_LIFETIME as ROWS_TRAINED

    if specification["env"].startswith("ALE/"):
        register_ram(specification["env"])
    logging.getLogger("ray.rllib").setLevel("ERROR")
    config = (
        PPOConfig()
        .environment(specification["env"], env_config=specification.get("env_config", {}))
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .debugging(seed=specification["seed"], log_level="ERROR")
    )
    if specification["settings"] is not None:
        set_all(config, specification["settings"])
    algorithm = config.build_algo()
    watch = Stopwatch()
    watch.wrap(algorithm.env_runner_group.local_env_runner, "sample", SAMPLING)
    watch.wrap(algorithm.learner_group, "update", LEARNING)
    watch.wrap(algorithm.env_runner_group, "sync_weights", SYNC)
    env_steps = trained = 0
    passes = 0.0
    for _ in range(specification["warmup"] + specification["iterations"]):
        watch.begin()
        result = algorithm.train()
        now = int(result[ENV_RUNNER_RESULTS][ENV_STEPS])
        watch.end(now - env_steps)
        rows = int(result[LEARNER_RESULTS][ALL_MODULES][ROWS_TRAINED])
        passes = (rows - trained) / (now - env_steps)
        env_steps, trained = now, rows
    algorithm.stop()
    return {"iterations": watch.iterations[specification["warmup"] :], "passes": passes}


if __name__ == "__main__":
    run(measure)
