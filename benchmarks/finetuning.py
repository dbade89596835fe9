"""Fine-tuning a model of code beside the Trainer of transformers: CPU milliseconds a token, the same rows and model.

    python benchmarks/finetuning.py [--model smollm2] [--steps N] [--length N] [--rounds N] [--quick]
                                    [--json FILE] [--markdown FILE]

Functions of the standard library, packed; prompts are learned on neither side. One process and thread, float32, fused
AdamW, in turn, each round from the same weights. CPU seconds are those of the process, without loading and packing.
"""

from __future__ import annotations

import argparse
import os
import sysconfig
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
import torch
import two_sides

from quadriga.codegen import corpus, packing
from quadriga.codegen.experiment import CodeExperiment
from quadriga.codegen.finetuning import Worker

GOAL = 1.0
MODULES = ("statistics.py", "textwrap.py", "calendar.py", "difflib.py", "fractions.py", "tarfile.py", "zipfile.py")
BATCH, MICRO, RATE = 8, 2, 1e-4


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    known = machine.describe()
    with tempfile.TemporaryDirectory() as scratch:
        experiment = prepare(arguments, Path(scratch))
        worker = Worker(experiment)
        first = {name: each.clone() for name, each in worker.state()["weights"].items()}

        def side(learn: Callable[..., int], round_: int) -> int:
            worker._student.load(first)
            return learn(worker, experiment, arguments.steps, Path(scratch))

        sides = {two_sides.OURS: partial(side, ours), "the Trainer": partial(side, trainer)}
        results = two_sides.measure(sides, arguments.rounds)
    asked = f"{arguments.model}, {arguments.steps} steps of {BATCH} rows of {arguments.length} tokens, {MICRO} at once"
    two_sides.report("Fine-tuning a model of code", results, GOAL, asked, known, arguments)


def prepare(arguments: argparse.Namespace, scratch: Path) -> CodeExperiment:
    """An experiment on a corpus of some modules of the standard library."""
    source = scratch / "source"
    source.mkdir()
    library = Path(sysconfig.get_path("stdlib"))
    for name in MODULES:
        if (library / name).is_file():
            (source / name).write_text((library / name).read_text(encoding="utf-8"), encoding="utf-8")
    corpus.build(corpus.Settings((str(source),), against=()), scratch / "corpus")
    return CodeExperiment(
        preset="codex-functions",
        steps=10_000,
        data={
            "corpus": str(scratch / "corpus"),
            "form": "functions",
            "length": arguments.length,
            "validation_share": 0.0,
        },
        model={"name": arguments.model},
        optimizer={"learning_rate": RATE, "warmup_steps": 0},
        batch_size=BATCH,
        micro_batch=MICRO,
        compute={"device": "cpu"},
    )


def ours(worker: Worker, experiment: CodeExperiment, steps: int, scratch: Path) -> int:
    """The tokens that our steps read."""
    return worker.train(steps).tokens


def trainer(worker: Worker, experiment: CodeExperiment, steps: int, scratch: Path) -> int:
    """The tokens that the Trainer's steps read: the same rows, with their positions."""
    from transformers import Trainer, TrainingArguments

    rows = worker.data.train.rows
    size = experiment.batch_size
    dataset: list[Any] = []
    for step in range(steps):
        for place in packing.batch(len(rows.ids), size, step, experiment.seed):
            names = ("input_ids", "labels", "position_ids")
            dataset.append({name: torch.from_numpy(part[place]) for name, part in zip(names, rows, strict=True)})
    settings = TrainingArguments(
        output_dir=str(scratch / "trainer"),
        per_device_train_batch_size=experiment.micro_batch,
        gradient_accumulation_steps=size // experiment.micro_batch,
        max_steps=steps,
        learning_rate=RATE,
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    Trainer(model=worker._causal, args=settings, train_dataset=dataset).train()
    return len(dataset) * rows.ids.shape[1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tuning beside the Trainer of transformers.")
    parser.add_argument("--model", default="smollm2", help="as of quadriga code finetune (default: smollm2)")
    parser.add_argument("--steps", type=int, default=4, help="of a round (default: 4)")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row (default: 512)")
    two_sides.add_options(parser, quick="one step, one round, short rows")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.rounds, arguments.length = 1, 1, 256
    if min(arguments.steps, arguments.rounds) < 1 or arguments.length < 16:
        parser.error("numbers: expected 1 or more; --length 16 or more")
    return arguments


if __name__ == "__main__":
    main()
