"""A fine-tuning as the training driver sees it: an iteration is `report_every` optimizer steps and a validation.

With `compute.workers` the batch is shared by Ray actors in a process group of `torch.distributed`; they
step together, so each holds the same weights, and the first one saves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quadriga.codegen.experiment import CodeExperiment
from quadriga.codegen.finetuning import Steps, Worker, require_memory
from quadriga.platform.errors import TrainingStopped, UserError, one_line
from quadriga.platform.placement import await_start

logger = logging.getLogger("quadriga")

CHECKPOINT = "training.pt"
JOIN_TIMEOUT_S = 300.0


class FineTuner:
    """Fine-tunes; Ray must be running if the experiment has workers.

    Raises:
        UserError: model or data are missing, damaged, or do not fit.
    """

    def __init__(self, experiment: CodeExperiment) -> None:
        self.experiment = experiment
        self._team: Here | Actors = Actors(experiment) if experiment.compute.workers else Here(experiment)
        self.done = self._tokens = 0
        left_out, examples = self._team.left_out()
        if left_out:
            longer = f"longer than data.length = {experiment.data.length}"
            logger.warning(f"{left_out:,} of {examples:,} examples are {longer} and left out")

    def train_iteration(self) -> dict[str, float]:
        """Optimizer steps to the next multiple of `report_every`, or to the end.

        Raises:
            TrainingStopped: the loss is not finite, or a worker died.
        """
        every = self.experiment.report_every
        count = min((self.done // every + 1) * every, self.experiment.steps) - self.done
        began = time.perf_counter()
        steps = self._team.train(count)
        trained = time.perf_counter()
        losses = self._team.validate()
        self.done += count
        self._tokens += steps.tokens
        metrics: dict[str, float] = {
            "optimizer_steps": self.done,
            "tokens": self._tokens,
            "train_loss": steps.loss,
            "gradient_norm": steps.gradient_norm,
            "learning_rate": steps.learning_rate,
            "tokens_per_second": steps.tokens / (trained - began),
            "time_learning_s": trained - began,
            "time_validation_s": time.perf_counter() - trained,
        }
        return {**metrics, "validation_loss": sum(losses) / len(losses)} if losses else metrics

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """Minus the validation loss; unknown without one."""
        return (-metrics["validation_loss"],) if "validation_loss" in metrics else None

    def save(self, folder: Path) -> None:
        """Weights that learn, moments and counts."""
        import torch

        torch.save({**self._team.state(), "tokens": self._tokens}, folder / CHECKPOINT)

    def restore(self, folder: Path) -> None:
        """Continues from `save`."""
        state = read_state(folder)
        self._team.load(state)
        self.done, self._tokens = int(state["done"]), int(state["tokens"])

    def stop(self) -> None:
        """Ends the workers."""
        self._team.stop()


def read_state(folder: Path) -> dict[str, Any]:
    """What `FineTuner.save` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    import torch

    try:
        found: dict[str, Any] = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: missing, cut off, no archive
        raise UserError(f"{folder / CHECKPOINT}: no checkpoint of a fine-tuning: {one_line(error)[:200]}") from error
    return found


class Here:
    """This process alone."""

    def __init__(self, experiment: CodeExperiment) -> None:
        self._worker = Worker(experiment)
        self.train, self.validate = self._worker.train, self._worker.validate
        self.state, self.load, self.left_out = self._worker.state, self._worker.load, self._worker.left_out

    def stop(self) -> None:
        """Nothing is left running."""


class FinetuneWorker:
    """A process that trains, as a Ray actor (`ray.remote(FinetuneWorker)`)."""

    def __init__(self, experiment: CodeExperiment, rank: int, world: int) -> None:
        import torch

        torch.set_num_threads(1)
        self._place = experiment, rank, world

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        experiment, rank, world = self._place
        return f"fine-tuning worker {rank} of {world}, {experiment.model.name}"

    def address(self) -> str:
        """Where the others meet this one."""
        import socket

        import ray

        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    def start(self, address: str) -> None:
        """Meets the others, then loads data and model."""
        import datetime
        import os

        import torch

        if address.startswith("tcp://127."):  # else gloo looks for the address of the host's name
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        experiment, rank, world = self._place
        backend = "nccl" if torch.cuda.is_available() and experiment.compute.device != "cpu" else "gloo"
        waits = datetime.timedelta(seconds=JOIN_TIMEOUT_S)
        torch.distributed.init_process_group(backend, address, waits, world, rank)
        self._worker = Worker(experiment, rank, world)

    def train(self, count: int) -> Steps:
        """See `Worker`."""
        return self._worker.train(count)

    def validate(self) -> list[float]:
        """See `Worker`."""
        return self._worker.validate()

    def left_out(self) -> tuple[int, int]:
        """See `Worker`."""
        return self._worker.left_out()

    def state(self) -> dict[str, Any]:
        """See `Worker`."""
        return self._worker.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Worker`."""
        self._worker.load(state)


class Actors:
    """Ray actors that share every batch."""

    def __init__(self, experiment: CodeExperiment) -> None:
        import ray

        from quadriga.codegen.models import choose_device

        require_memory(experiment)
        world = experiment.compute.workers
        gpus = 1 if choose_device(experiment.compute.device).type == "cuda" else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(FinetuneWorker)
        self._actors = [remote.remote(experiment, rank, world) for rank in range(world)]
        try:
            addresses = [actor.address.remote() for actor in self._actors]
            await_start(addresses, "training workers")
            address = self._get(addresses[0])
            self._get([actor.start.remote(address) for actor in self._actors])
        except BaseException:
            self.stop()
            raise

    def train(self, count: int) -> Steps:
        """All step together; what the first one says is true of all."""
        found: list[Steps] = self._get([actor.train.remote(count) for actor in self._actors])
        return found[0]

    def validate(self) -> list[float]:
        """By the first."""
        found: list[float] = self._get(self._actors[0].validate.remote())
        return found

    def left_out(self) -> tuple[int, int]:
        """Of the first."""
        found: tuple[int, int] = self._get(self._actors[0].left_out.remote())
        return found

    def state(self) -> dict[str, Any]:
        """Of the first."""
        found: dict[str, Any] = self._get(self._actors[0].state.remote())
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        """Into all."""
        import ray

        kept = ray.put(state)
        self._get([actor.load.remote(kept) for actor in self._actors])

    def stop(self) -> None:
        """Ends the actors. May be called twice."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    @staticmethod
    def _get(references: Any) -> Any:
        import ray

        try:
            return ray.get(references)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            raise TrainingStopped(f"a training worker died: {one_line(error)}; resume the run") from error
