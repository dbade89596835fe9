"""The published algorithms by name, each a triple of update rule, constraint and bonus."""

from __future__ import annotations

from quadriga.platform.lines import Preset

# For Safety-Gymnasium's episodes of 1,000 steps: twenty in every iteration. Cost advantages are mostly noise: large
# batches, large minibatches and small steps average it out, and a critic that is fitted harder learns its trajectories
# by heart.
SAFETY = {
    "rollout": {"batch_size": 20_000, "envs_per_runner": 8},
    "update": {"minibatch_size": 2500, "epochs": 20, "target_kl": 0.01, "max_grad_norm": 40.0},
}
# For a speed limit, where every step has its own cost: small batches and many steps of the policy. What costs there is
# the policy's own noise, so it begins with less.
VELOCITY = {
    "rollout": {"batch_size": 4000, "envs_per_runner": 4},
    "network": {"initial_log_std": -1.0},
    "update": {
        "minibatch_size": 128,
        "epochs": 10,
        "target_kl": 0.02,
        "anneal_learning_rate": True,
        "max_grad_norm": 40.0,
    },
}
VELOCITY_GAINS = {"kp": 0.1, "ki": 0.004}
# An untrained agent's cost advantages, only centered, are four times as wide as the reward's standardized ones, and
# teach it to stand still before it has learned to reach anything; standardized, a multiplier means the same throughout.
_WEIGHED = {**SAFETY, "advantage": {"cost": "standardize"}}
# Three times the usual step: of batches this large a run has few, and the multiplier takes a step a batch.
_LAGRANGIAN = {"kind": "lagrangian", "learning_rate": 0.1}
# K_P is a fifth of the published one, K_I 0.3 of it, and K_D twice as large; P and D are smoothed: the mean of twenty
# episodes is noisy too, and a multiplier that rises before the agent has learned to reach anything teaches it to stand
# still.
_PID = {"kind": "pid", "kp": 0.02, "ki": 0.003, "kd": 0.02, "p_smoothing": 0.8, "d_smoothing": 0.8}

# TRPO and CPO fit their critics as gently.
_CRITICS = {
    "critic_learning_rate": 3e-4,
    "critic_epochs": 20,
    "critic_minibatch_size": 1000,
    "critic_max_grad_norm": 40.0,
}
TRPO = {"rollout": SAFETY["rollout"], "update": {"kind": "trpo", **_CRITICS}}
# One step an iteration moves the policy less than PPO's many, so the multiplier rises more slowly still; the
# derivative, which answers an untrained agent's first cost with a leap, is off.
_TRPO_GAINS = {**_PID, "kp": 0.01, "ki": 0.001, "kd": 0.0}

# The authors' numbers for classic control: batches of 5,000 steps, discount 0.995, a critic that never sees the bonus.
_SURPRISE = {
    "rollout": {"batch_size": 5000, "envs_per_runner": 10},
    "advantage": {"discount": 0.995},
    "update": {"kind": "trpo"},
}

# CPO's linear model of the cost promises more than its steps keep (noise in the cost's gradient); the margin makes up
# for that, and grows slowly, for an untrained agent exceeds the limit fivefold.
_MARGIN = {"kind": "trust-region", "margin_learning_rate": 0.02}

PRESETS: dict[str, Preset] = {
    "ppo": Preset(
        "proximal policy optimization, no constraint",
        "Schulman et al. 2017, arXiv:1707.06347",
    ),
    "ppo-lagrangian": Preset(
        "PPO with gradient ascent on a Lagrange multiplier",
        "Ray, Achiam, Amodei 2019, Benchmarking Safe Exploration in Deep RL",
        {**_WEIGHED, "constraint": _LAGRANGIAN},
    ),
    "pid-lagrangian": Preset(
        "PPO with a PID-controlled Lagrange multiplier",
        "Stooke, Achiam, Abbeel 2020, arXiv:2007.03964",
        {**_WEIGHED, "constraint": _PID},
    ),
    "trpo": Preset(
        "trust region policy optimization, no constraint",
        "Schulman et al. 2015, arXiv:1502.05477",
        {"update": {"kind": "trpo"}},
    ),
    "trpo-lagrangian": Preset(
        "TRPO with gradient ascent on a Lagrange multiplier",
        "Ray, Achiam, Amodei 2019, Benchmarking Safe Exploration in Deep RL",
        {**TRPO, "constraint": {"kind": "lagrangian"}},
    ),
    "trpo-pid": Preset(
        "TRPO with a PID-controlled Lagrange multiplier",
        "Stooke, Achiam, Abbeel 2020, arXiv:2007.03964, whose controller takes any update rule",
        {**TRPO, "constraint": _TRPO_GAINS},
    ),
    "cpo": Preset(
        "constrained policy optimization: the cost limit inside the trust region's problem",
        "Achiam, Held, Tamar, Abbeel 2017, arXiv:1705.10528",
        {
            "rollout": SAFETY["rollout"],
            "update": {"kind": "cpo", **_CRITICS},
            "constraint": _MARGIN,
        },
    ),
    "surprisal": Preset(
        "TRPO with the surprisal of a learned model of the dynamics as a bonus",
        "Achiam, Sastry 2017, arXiv:1703.01732",
        {**_SURPRISE, "bonus": {"kind": "surprisal", "critic": "none"}},
    ),
    "learning-progress": Preset(
        "TRPO with the model's learning progress as a bonus",
        "Achiam, Sastry 2017, arXiv:1703.01732",
        {**_SURPRISE, "bonus": {"kind": "learning-progress", "critic": "none"}},
    ),
    "vime": Preset(
        "TRPO with the information that a transition gives about a Bayesian model as a bonus",
        "Houthooft, Chen, Duan, Schulman, De Turck, Abbeel 2016, arXiv:1605.09674",
        {**_SURPRISE, "bonus": {"kind": "vime", "critic": "none"}},
    ),
    "ppo-surprisal": Preset(
        "PPO with the surprisal of a learned model of the dynamics as a bonus",
        "Achiam, Sastry 2017, arXiv:1703.01732, whose bonus takes any update rule",
        {"bonus": {"kind": "surprisal"}},
    ),
    "ppo-learning-progress": Preset(
        "PPO with the model's learning progress as a bonus",
        "Achiam, Sastry 2017, arXiv:1703.01732, whose bonus takes any update rule",
        {"bonus": {"kind": "learning-progress"}},
    ),
    "safe-surprisal": Preset(
        "PPO with surprisal as a bonus and a PID-controlled multiplier on the cost",
        "Achiam, Sastry 2017, arXiv:1703.01732; Stooke, Achiam, Abbeel 2020, arXiv:2007.03964",
        {**_WEIGHED, "constraint": _PID, "bonus": {"kind": "surprisal"}},
    ),
}
