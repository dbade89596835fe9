"""`quadriga code finetune` and `quadriga code export`: thin, as all commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quadriga.platform.errors import UserError
from quadriga.platform.options import Address, AsJson, Chosen, Name, Quiet, Resume, RunsDir, Seed, Steps
from quadriga.platform.train_command import train_or_resume


def finetune(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="[PRESET|FILE.yaml]", help="Preset name or experiment file.")
    ] = None,
    corpus: Annotated[str | None, typer.Option("--corpus", metavar="DIR", help="Of code corpus build.")] = None,
    samples: Annotated[str | None, typer.Option("--samples", metavar="FILE", help="Judged, of codex-s.")] = None,
    problems: Annotated[str | None, typer.Option("--problems", metavar="FILE", help="Of codex-s.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="What is fine-tuned.")] = None,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", min=0, metavar="R", help="Adapters only.")] = None,
    steps: Steps = None,
    seed: Seed = None,
    workers: Annotated[int | None, typer.Option(min=0, metavar="N", help="Ray actors that share a batch.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field: --set data.length=256. May be repeated."),
    ] = None,
    name: Name = None,
    runs_dir: RunsDir = "runs",
    resume: Resume = None,
    address: Address = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model by preset or from an experiment file, or continue a run.

    \b
    quadriga code finetune codex-functions --corpus corpus --steps 200 --name mine
    quadriga code finetune --resume mine --steps 400
    quadriga code export mine mine-model
    """
    train_or_resume(
        context,
        source,
        {
            "--corpus": ("data.corpus", corpus),
            "--samples": ("data.samples", samples),
            "--problems": ("data.problems", problems),
            "--model": ("model.name", model),
            "--lora-rank": ("model.lora_rank", lora_rank),
            "--steps": ("steps", steps),
            "--seed": ("seed", seed),
            "--workers": ("compute.workers", workers),
            "--name": ("name", name),
        },
        assignments,
        resume=resume,
        runs_dir=runs_dir,
        address=address,
        as_json=as_json,
        quiet=quiet,
        missing="what is to be learned? e.g. quadriga code finetune codex --corpus corpus",
    )


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, by name or path.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Model and tokenizer.", show_default=False)],
    checkpoint: Annotated[
        Chosen, typer.Option(help="Where training stands, or the best score seen while training.")
    ] = Chosen.latest,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write a fine-tuned model as `transformers` does, for `--model DIR` and for everybody else.

    \b
    quadriga code export --help
    """
    import torch

    from quadriga.codegen.experiment import CodeExperiment
    from quadriga.codegen.finetune_trainer import read_state
    from quadriga.codegen.finetuning import Student
    from quadriga.platform.run_folder import RunFolder

    folder = RunFolder.open(run, runs_dir)
    experiment = folder.experiment()
    if not isinstance(experiment, CodeExperiment):
        raise UserError(f"run {folder.path!r} is no fine-tuning of a model of code")
    kept = folder.checkpoints.best() if checkpoint is Chosen.best else folder.checkpoints.latest()
    if kept is None:
        raise UserError(f"run {folder.path!r} has no whole checkpoint yet")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out}: is there already and not empty; give another folder")
    student = Student(experiment, torch.device("cpu"))
    with kept.local() as local:
        student.load(read_state(local)["weights"])
    student.save(out)
    print(f"model: {out} (optimizer step {kept.step:,})\nnext: quadriga code evaluate --model {out}")
