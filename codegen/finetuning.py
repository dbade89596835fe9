"""One process of a fine-tuning: model, optimizer, its share of every batch. Knows torch; files and Ray are outside.

A step is  loss = sum over target tokens of -log p / number of target tokens of the whole batch,
its gradient added over micro-batches and workers, clipped, and AdamW. All that is random is the order
of the rows, which is a function of seed and step: weights, moments and the step are the whole state. So the
model stays in evaluation mode, which drops nothing out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from quadriga.codegen import models, packing, training_data
from quadriga.codegen.experiment import CodeExperiment, OptimizerSettings
from quadriga.codegen.packing import IGNORED, Rows
from quadriga.platform.errors import TrainingStopped, UserError

# What some models do to logits besides the product with the output matrix.
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
VALIDATION_ROWS = 64


class Steps(NamedTuple):
    """What some optimizer steps were like.

    Attributes:
        loss: mean over their target tokens, in nats.
        gradient_norm: of the last one, before clipping.
        learning_rate: of the last one.
        tokens: read, padding among them.
        targets: learned.
    """

    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    targets: int


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Of step `step` (from 0) of `steps`: linear warm-up, then a cosine to `final_share` of the peak."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    share = settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return settings.learning_rate * share


class Student:
    """A model that learns, all of it or adapters in it.

    Attributes:
        causal: the causal LM of `transformers`.
        tokenizer: its tokenizer.
        named: the weights that learn, by name.
    """

    def __init__(self, experiment: CodeExperiment, device: torch.device) -> None:
        """Loads the model.

        Raises:
            UserError: it is missing or damaged, its context is shorter than a row, or peft is needed and missing.
        """
        loaded = models.load(models.find(experiment.model.name), torch.float32, device)
        if experiment.data.length > loaded.context:
            raise UserError(f"data.length: {experiment.data.length} is more than the model's {loaded.context:,} tokens")
        self.causal, self.tokenizer = loaded.model, loaded.tokenizer
        self._adapted = _with_adapters(self.causal, experiment) if experiment.model.lora_rank else None
        self.named = {name: each for name, each in self.causal.named_parameters() if each.requires_grad}

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Takes weights that `named` gave.

        Raises:
            UserError: they are those of another model.
        """
        if set(weights) != set(self.named) or any(weights[n].shape != p.shape for n, p in self.named.items()):
            raise UserError("the checkpoint is that of another model than model.name; was it changed?")
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(weights[name])

    def save(self, folder: Path) -> None:
        """Writes model and tokenizer as `transformers` does, adapters merged; it cannot learn any more."""
        model = self.causal if self._adapted is None else self._adapted.merge_and_unload()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class Worker:
    """A process of a run; with several, process groups of `torch.distributed` must be ready."""

    def __init__(self, experiment: CodeExperiment, rank: int = 0, world: int = 1) -> None:
        """Loads data and model.

        Args:
            experiment: of the run.
            rank: of this process.
            world: processes that share each batch.

        Raises:
            UserError: model or data are missing, damaged, or do not fit.
        """
        self._experiment, self._rank, self._world = experiment, rank, world
        self._device = models.choose_device(experiment.compute.device)
        require_memory(experiment)
        self.data = training_data.load(experiment.data, models.read_tokenizer(models.find(experiment.model.name)))
        self._student = Student(experiment, self._device)
        self._causal, self._named = self._student.causal, self._student.named
        self._causal.eval()
        self._optimizer = _adamw(self._named, experiment.optimizer)
        self._full = any(getattr(self._causal.config, name, None) for name in SCALED)
        precision = experiment.compute.precision or ("bfloat16" if self._device.type == "cuda" else "float32")
        self._half = precision == "bfloat16"
        self.done = 0

    def train(self, count: int) -> Steps:
        """`count` optimizer steps.

        Raises:
            TrainingStopped: the loss is not finite.
        """
        experiment = self._experiment
        rows = self.data.train.rows
        loss_sum, targets, norm, rate = 0.0, 0, 0.0, 0.0
        for _ in range(count):
            rate = learning_rate(experiment.optimizer, self.done, experiment.steps)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            places = packing.batch(len(rows.ids), experiment.batch_size, self.done, experiment.seed)
            whole = rows.take(places)
            wanted = int((whole.labels[:, 1:] != IGNORED).sum())
            added = torch.zeros((), dtype=torch.float64)
            for part in self._micro(rows.take(places[self._rank :: self._world])):
                loss = self._loss(part)
                (loss / wanted).backward()
                added += loss.detach().double().cpu()
            added = self._shared(added)
            norm = float(torch.nn.utils.clip_grad_norm_(self._named.values(), experiment.optimizer.clip_norm))
            if not (math.isfinite(norm) and math.isfinite(float(added))):
                said = f"the loss is {float(added) / wanted} in step {self.done + 1:,}"
                raise TrainingStopped(f"{said}; a smaller optimizer.learning_rate helps")
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            loss_sum += float(added)
            targets += wanted
            self.done += 1
        return Steps(loss_sum / targets, norm, rate, count * experiment.batch_size * rows.ids.shape[1], targets)

    @torch.no_grad()
    def validate(self, most: int = VALIDATION_ROWS) -> list[float]:
        """Mean loss of each of the first `most` validation rows; all processes compute the same."""
        rows = self.data.validation.rows
        found = []
        for n in range(min(most, len(rows.ids))):
            one = rows.take(np.array([n]))
            targets = int((one.labels[:, 1:] != IGNORED).sum())
            if targets:
                found.append(float(self._loss(one)) / targets)
        return found

    def left_out(self) -> tuple[int, int]:
        """How many examples are longer than `data.length`, and of how many."""
        return self.data.left_out

    def state(self) -> dict[str, Any]:
        """Everything that a bit-identical continuation needs, on the CPU."""
        optimizer = self._optimizer.state_dict()
        moments = {
            number: {name: value.cpu() if torch.is_tensor(value) else value for name, value in each.items()}
            for number, each in optimizer["state"].items()
        }
        return {
            "weights": {name: each.detach().cpu() for name, each in self._named.items()},
            "optimizer": {**optimizer, "state": moments},
            "done": self.done,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            UserError: it is that of another model.
        """
        self._student.load(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.done = int(state["done"])

    def _micro(self, rows: Rows) -> Iterator[Rows]:
        size = self._experiment.micro_batch
        for start in range(0, len(rows.ids), size):
            yield rows.take(np.arange(start, min(start + size, len(rows.ids))))

    def _loss(self, rows: Rows) -> torch.Tensor:
        """Sum of the losses of all target tokens; logits are made for these only."""
        ids, labels, positions = (torch.from_numpy(part).to(self._device) for part in rows)
        wanted = labels[:, 1:] != IGNORED
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            # Without a mask the model finds the examples in a row by their positions.
            if self._full:
                logits = self._causal(input_ids=ids, position_ids=positions, use_cache=False).logits[:, :-1][wanted]
            else:
                hidden = self._causal.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False)
                logits = self._causal.get_output_embeddings()(hidden.last_hidden_state[:, :-1][wanted])
        return torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="sum")

    def _shared(self, added: torch.Tensor) -> torch.Tensor:
        """Adds gradients and loss over the processes; one message for all gradients."""
        if self._world == 1:
            return added
        gradients = []
        for parameter in self._named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([each.reshape(-1) for each in gradients])
        dist.all_reduce(flat)
        start = 0
        for each in gradients:
            each.copy_(flat[start : start + each.numel()].view_as(each))
            start += each.numel()
        total = added.to(self._device)
        dist.all_reduce(total)
        return total.cpu()


def require_memory(experiment: CodeExperiment) -> None:
    """Says that training does not fit before anything is loaded: weights, gradients and two moments, in float32.

    Raises:
        UserError: it needs more than is free.
    """
    device, source = models.choose_device(experiment.compute.device), models.find(experiment.model.name)
    found = models.needs(source, models.read_config(source), torch.float32, 0)
    copies = 1 if experiment.model.lora_rank else 4
    advice = "free some" if experiment.model.lora_rank else "adapters (--lora-rank 8)"
    models.require_memory(source.name, max(found.loading, copies * found.weights), device, advice=advice)


def _adamw(named: Mapping[str, torch.nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """Weight decay for matrices only."""
    matrices = [each for each in named.values() if each.ndim >= 2]
    others = [each for each in named.values() if each.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def _with_adapters(causal: Any, experiment: CodeExperiment) -> Any:
    """The model with low-rank adapters in all its linear layers but the output; only these learn."""
    try:
        import peft
    except ImportError as error:
        raise UserError("model.lora_rank: adapters need peft: pip install peft; or set it to 0") from error
    settings = experiment.model
    config = peft.LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    torch.manual_seed(experiment.seed)  # the adapters' first weights
    return peft.get_peft_model(causal, config)
