"""Fine-tuning models of code as a line of work: what the registry of `quadriga.platform.lines` finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from quadriga.codegen.experiment import CodeExperiment
from quadriga.platform.lines import EvaluationRequest, Line, Preset, Trainer

PAPER = "Chen et al. 2021, arXiv:2107.03374"


def _make_trainer(experiment: CodeExperiment) -> Trainer:
    from quadriga.codegen.finetune_trainer import FineTuner

    return FineTuner(experiment)


def _evaluate(
    experiment: CodeExperiment, checkpoint: Path, request: EvaluationRequest
) -> Mapping[str, Sequence[float]]:
    from quadriga.codegen.finetune_trainer import read_state
    from quadriga.codegen.finetuning import Worker

    worker = Worker(experiment)
    worker.load(read_state(checkpoint))
    return {"loss": worker.validate(request.episodes)}


def _check(experiment: CodeExperiment) -> None:
    from quadriga.codegen import corpus, models, training_data
    from quadriga.codegen.finetuning import require_memory
    from quadriga.platform.errors import UserError

    data = experiment.data
    if data.form != "solutions":
        corpus.require(*training_data.source(data))
    else:
        needed, made = (data.samples, "sample") if data.samples is not None else (data.problems, "corpus problems")
        if not Path(needed).exists():
            raise UserError(f"{needed}: no such file; make it: quadriga code {made}")
    models.read_tokenizer(models.find(experiment.model.name))
    require_memory(experiment)


def _task(experiment: CodeExperiment) -> str:
    return f"{Path(experiment.model.name).name}-{experiment.data.form}"


LINE = Line(
    name="code",
    summary="models of code: fine-tuning on files, functions, docstrings and verified solutions",
    experiment=CodeExperiment,
    presets={
        "codex": Preset("whole files of code", f"{PAPER}, section 3.2", {"steps": 1000, "data": {"form": "files"}}),
        "codex-functions": Preset(
            "signature and docstring to body",
            f"after {PAPER}, section 4",
            {"steps": 1000, "data": {"form": "functions"}},
        ),
        "codex-s": Preset(
            "problems to solutions that passed their tests",
            f"{PAPER}, section 4",
            {"steps": 200, "data": {"form": "solutions"}, "optimizer": {"warmup_steps": 20}},
        ),
        "codex-d": Preset("code to docstring", f"{PAPER}, section 5", {"steps": 1000, "data": {"form": "docstrings"}}),
    },
    make_trainer=_make_trainer,
    evaluate=_evaluate,
    step_metric="optimizer_steps",
    task=_task,
    curves={"validation_loss": "Loss on held-out documents, nats a token", "train_loss": "Loss, nats a token"},
    reference=lambda experiment, metric: None,
    headline=("train_loss", "validation_loss", "learning_rate", "tokens_per_second"),
    cpus=lambda experiment: 1 + experiment.compute.workers if experiment.compute.workers else 0,
    check=_check,
    afterwards=("quadriga code export {run} {name}-model",),
)
