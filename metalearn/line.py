"""Meta-learning as a line of work: what the registry of `quadriga.platform.lines` finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from quadriga.metalearn.experiment import CustomSettings, MetaExperiment, SineSettings
from quadriga.metalearn.presets import PRESETS
from quadriga.metalearn.published import published
from quadriga.platform import placement
from quadriga.platform.lines import Demand, EvaluationRequest, Line, Trainer


def _make_trainer(experiment: MetaExperiment) -> Trainer:
    from quadriga.metalearn.trainer import MetaTrainer

    return MetaTrainer(experiment)


def _evaluate(
    experiment: MetaExperiment, checkpoint: Path, request: EvaluationRequest
) -> Mapping[str, Sequence[float]]:
    from quadriga.metalearn.evaluation import evaluate

    return evaluate(experiment, checkpoint, request)


def _check(experiment: MetaExperiment) -> None:
    """Makes everything that a worker will make, but no worker: it finds data, classes, images, the kernel."""
    import torch

    from quadriga.metalearn.distributions import make_distribution, make_kernel
    from quadriga.platform.errors import UserError

    make_kernel(experiment, make_distribution(experiment))
    compute = experiment.compute
    if compute.device == "cuda" and not compute.workers and not torch.cuda.is_available():
        raise UserError("compute.device: cuda was asked for, and PyTorch finds no GPU here")


def _cpus(experiment: MetaExperiment) -> int:
    workers = min(experiment.compute.workers, experiment.update.meta_batch)
    return 1 + workers if workers else 0


def _demands(experiment: MetaExperiment) -> Sequence[Demand]:
    gpus = experiment.compute.gpus_per_worker
    role = placement.LEARNERS if gpus else placement.ROLLOUTS
    return [Demand(max(0, _cpus(experiment) - 1), 1, gpus, role)]


def _task(experiment: MetaExperiment) -> str:
    task = experiment.task
    if isinstance(task, SineSettings):
        return "sine"
    if isinstance(task, CustomSettings):
        return task.factory.rpartition(":")[2]
    return f"{task.kind}-{task.ways}way-{experiment.evaluation.shots}shot"


LINE = Line(
    name="meta",
    summary="meta-learning: Reptile, first-order MAML, MAML and sums of inner gradients on few-shot tasks",
    experiment=MetaExperiment,
    presets=PRESETS,
    make_trainer=_make_trainer,
    evaluate=_evaluate,
    step_metric="meta_iterations",
    task=_task,
    curves={
        "query_accuracy": "Accuracy on unseen tasks, transductive",
        "query_loss": "Squared error on unseen tasks",
        "inner_loss": "Loss on the last minibatch",
    },
    reference=lambda experiment, metric: None,
    headline=("query_accuracy", "query_loss", "inner_loss", "meta_step_size", "tasks_per_second"),
    components={
        "tasks": {
            "sine": "sine waves (Finn et al. 2017; the Reptile paper's section 4.1)",
            "omniglot": "N characters of Omniglot, 28x28 (Lake et al. 2015)",
            "mini-imagenet": "N classes of Mini-ImageNet, 84x84 (Vinyals et al. 2016)",
            "custom": "a distribution of your own, package.module:function",
        },
        "meta-update": {
            "reptile": "towards the weights that the tasks end with (Nichol, Achiam, Schulman 2018)",
            "fomaml": "along the last inner step, optionally on held-out examples",
            "maml": "along the gradient through all inner steps (Finn, Abbeel, Levine 2017)",
            "gradient-sum": "along some of the inner steps, g1, g1 + g2, ... (the Reptile paper's section 6.2)",
        },
    },
    cpus=_cpus,
    demands=_demands,
    check=_check,
    published=published,
)
