"""Reinforcement learning as a line of work: what the registry of `quadriga.platform.lines` finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quadriga.platform import placement
from quadriga.platform.lines import Demand, EvaluationRequest, Line, Trainer
from quadriga.policies.benchmarks import BENCHMARKS, published
from quadriga.policies.experiment import CustomUpdateSettings, NoConstraint, RLExperiment
from quadriga.policies.presets import PRESETS


def _make_trainer(experiment: RLExperiment) -> Trainer:
    from quadriga.policies.trainer import RLTrainer

    return RLTrainer(experiment)


def _check(experiment: RLExperiment) -> None:
    from quadriga.platform.environments.registry import make_vector_env
    from quadriga.policies.constraints import Constraint

    make_vector_env(experiment.env, 1).close()
    Constraint.from_settings(experiment.constraint)
    if isinstance(experiment.update, CustomUpdateSettings):
        from quadriga.policies.update_rules import update_rule

        update_rule(experiment.update)


def _cpus(experiment: RLExperiment) -> int:
    learner = experiment.learner
    return 1 + experiment.rollout.env_runners + learner.learners * learner.threads


def _demands(experiment: RLExperiment) -> Sequence[Demand]:
    learner = experiment.learner
    return [
        Demand(experiment.rollout.env_runners, role=placement.ROLLOUTS),
        Demand(learner.learners, learner.threads, learner.gpus_per_learner, placement.LEARNERS),
    ]


def _evaluate(experiment: RLExperiment, checkpoint: Path, request: EvaluationRequest) -> Mapping[str, Sequence[float]]:
    from quadriga.policies.evaluation import evaluate

    return evaluate(experiment, checkpoint, request)


def _policy(experiment: RLExperiment, checkpoint: Path) -> Callable[..., Any]:
    from quadriga.policies.deployment import agent

    return agent(experiment, checkpoint)


def _export(experiment: RLExperiment, checkpoint: Path, output: Path) -> None:
    from quadriga.policies.deployment import export

    export(experiment, checkpoint, output)


def _task(experiment: RLExperiment) -> str:
    return experiment.env.id


def _reference(experiment: RLExperiment, metric: str) -> float | None:
    constraint = experiment.constraint
    if metric != "episode_cost_mean" or isinstance(constraint, NoConstraint):
        return None
    return constraint.cost_limit


LINE = Line(
    name="rl",
    summary="safe reinforcement learning and exploration: update rule x constraint x bonus",
    experiment=RLExperiment,
    presets=PRESETS,
    make_trainer=_make_trainer,
    evaluate=_evaluate,
    step_metric="env_steps",
    task=_task,
    curves={
        "episode_return_mean": "Return of an episode",
        "episode_cost_mean": "Cost of an episode",
        "lagrange_multiplier": "Lagrange multiplier",
        "bonus_mean": "Bonus of a step",
    },
    reference=_reference,
    headline=("episode_return_mean", "episode_cost_mean", "lagrange_multiplier", "kl", "env_steps_per_second"),
    components={
        "update rule": {
            "ppo": "clipped surrogate, several epochs of minibatches (Schulman et al. 2017)",
            "trpo": "natural gradient step within a KL limit, line search (Schulman et al. 2015)",
            "cpo": "TRPO's step with the cost limit inside its problem (Achiam et al. 2017)",
            "custom": "a function of your own, package.module:function",
        },
        "constraint": {
            "none": "costs are measured, not limited",
            "lagrangian": "gradient ascent on the multiplier (Ray, Achiam, Amodei 2019)",
            "pid": "PID control of the multiplier (Stooke, Achiam, Abbeel 2020)",
            "trust-region": "the update rule cpo holds the limit itself (Achiam et al. 2017)",
            "custom": "a controller of the multiplier of your own, package.module:class",
        },
        "bonus": {
            "none": "no intrinsic reward",
            "surprisal": "-log P(s'|s, a) of a learned model (Achiam & Sastry 2017)",
            "learning-progress": "what k iterations' fits of the model added to log P(s'|s, a) (Achiam & Sastry 2017)",
            "prediction-error": "squared error of the predicted change of state (Stadie et al. 2015)",
            "vime": "information about the parameters of a Bayesian model (Houthooft et al. 2016)",
        },
    },
    benchmarks=BENCHMARKS,
    cpus=_cpus,
    demands=_demands,
    check=_check,
    published=published,
    policy=_policy,
    export=_export,
)
