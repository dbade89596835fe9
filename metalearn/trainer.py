"""One meta-learning run, as the training driver sees it: an iteration is `report_every` meta-iterations and a test."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from quadriga.metalearn import networks, outer
from quadriga.metalearn.distributions import make_distribution
from quadriga.metalearn.experiment import MetaExperiment
from quadriga.metalearn.inner import Vector
from quadriga.metalearn.pools import Pool, make_pool
from quadriga.metalearn.runner import INITIAL, State, Trial
from quadriga.metalearn.tasks import TaskDistribution
from quadriga.platform.errors import TrainingStopped

CHECKPOINT = "meta.npz"
REPORTS = 1
"""Beside the seed in the random streams of the tests made while training."""


class MetaTrainer:
    """Meta-learns; Ray must be running if the experiment has workers.

    Attributes:
        phi: the initial weights that are learned, float32 `[size]`.
        done: meta-iterations so far.

    Raises:
        UserError: no data, no GPU, a task distribution that cannot be made.
    """

    def __init__(self, experiment: MetaExperiment) -> None:
        self.experiment = experiment
        self._pool: Pool = make_pool(experiment)
        self._distribution: TaskDistribution = make_distribution(experiment)
        self.phi: Vector = initial_weights(experiment, self._distribution)
        self.done = 0
        self._reports = 0
        self._optimizer = outer.MetaOptimizer(experiment.update, len(self.phi))

    def train_iteration(self) -> dict[str, float]:
        """Meta-iterations to the next multiple of `report_every`, or to the end.

        Raises:
            TrainingStopped: a loss or a weight is not finite, or too many workers died.
        """
        experiment = self.experiment
        every = experiment.report_every
        until = min((self.done // every + 1) * every, experiment.steps)
        losses, norms = [], []
        first, began = self.done, time.perf_counter()
        epsilon = 0.0
        while self.done < until:
            epsilon = outer.annealed(experiment.update, self.done, experiment.steps)
            learned = self._pool.train(self.phi, self.done)
            loss = math.fsum(learned.losses) / len(learned.losses)
            norm = self._optimizer.step(self.phi, learned.directions, epsilon)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"the inner loss is {loss}" if not math.isfinite(loss) else f"the direction's norm is {norm}"
                raise TrainingStopped(
                    f"{what} in meta-iteration {self.done + 1:,}; a smaller inner.learning_rate helps"
                )
            self.done += 1
            losses.append(loss)
            norms.append(norm)
        trained = time.perf_counter()
        self._reports = -(-self.done // every)
        results = self._test()
        tested = time.perf_counter()
        tasks = (self.done - first) * experiment.update.meta_batch
        return {
            "meta_iterations": self.done,
            "tasks": self.done * experiment.update.meta_batch,
            "inner_loss": math.fsum(losses) / len(losses),
            "direction_norm": math.fsum(norms) / len(norms),
            "meta_step_size": epsilon,
            **results,
            "tasks_per_second": tasks / (trained - began),
            "time_tasks_s": trained - began,
            "time_testing_s": tested - trained,
            "task_worker_restarts": self._pool.restarts,
        }

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """The accuracy on test tasks, or minus their loss; unknown without a test."""
        if "query_accuracy" in metrics:
            return (metrics["query_accuracy"],)
        return (-metrics["query_loss"],) if "query_loss" in metrics else None

    def save(self, folder: Path) -> None:
        """Weights, meta-optimizer and every slot's optimizer; and the weights by name, for use without us."""
        arrays = {f"optimizer/{name}": value for name, value in self._optimizer.state().items()}
        for slot, state in enumerate(self._pool.states()):
            arrays |= {f"slot/{slot}/{name}": value for name, value in state.items()}
        np.savez(folder / CHECKPOINT, phi=self.phi, done=np.asarray(self.done), **arrays)  # type: ignore[arg-type]
        np.savez(folder / "weights.npz", **named(self._distribution, self.phi))  # type: ignore[arg-type]

    def restore(self, folder: Path) -> None:
        """Continues from `save`."""
        with np.load(folder / CHECKPOINT) as kept:
            self.phi, self.done = np.array(kept["phi"]), int(kept["done"])
            self._optimizer.load({name: kept[f"optimizer/{name}"] for name in ("mean", "square", "count")})
            states = [slot_state(kept, slot) for slot in range(self.experiment.update.meta_batch)]
        if any(states):
            self._pool.load(states)

    def stop(self) -> None:
        """Ends the workers."""
        self._pool.stop()

    def _test(self) -> dict[str, float]:
        experiment, settings = self.experiment, self.experiment.evaluation
        last = self.done >= experiment.steps
        if not settings.tasks or (self._reports % settings.every and not last):
            return {}
        stream = (experiment.seed, REPORTS, self.done)
        request = trial(experiment, stream, settings.tasks, transductive=True, separate=False)
        measured = self._pool.test(self.phi, request)
        means = {name: math.fsum(values) / len(values) for name, values in measured.items()}
        if "accuracy_transductive" in means:
            return {"query_accuracy": means["accuracy_transductive"]}
        return {"query_loss": means["loss"], "query_loss_before": means["loss_before"]}


def initial_weights(experiment: MetaExperiment, distribution: TaskDistribution) -> Vector:
    """The weights that a run begins with."""
    return networks.initial(distribution.network, np.random.default_rng((experiment.seed, INITIAL)))


def trial(
    experiment: MetaExperiment, stream: tuple[int, ...], tasks: int, *, transductive: bool, separate: bool
) -> Trial:
    """A test of `tasks` tasks with the experiment's settings."""
    settings = experiment.evaluation
    numbers = tuple(range(tasks))
    return Trial(stream, numbers, settings.shots, settings.steps, settings.batch_size, transductive, separate)


def slot_state(kept: Mapping[str, np.ndarray], slot: int) -> State:
    """The optimizer state of a slot in a checkpoint."""
    prefix = f"slot/{slot}/"
    return {name.removeprefix(prefix): kept[name] for name in kept if name.startswith(prefix)}


def named(distribution: TaskDistribution, phi: Vector) -> dict[str, Vector]:
    """The arrays of a parameter vector by name."""
    arrays, start = {}, 0
    for leaf in distribution.network.leaves:
        arrays[leaf.name] = phi[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
    return arrays
