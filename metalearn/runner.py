"""What one process does with its share of the tasks: draws them, learns them, one after the other.

Every task has a random stream of its own, keyed by what it is (seed, meta-iteration, slot), never by who learns it;
so a share can be cut in any way and recomputed anywhere. Shares are handed out by `pools`; many tasks at once are
`vectorized`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from quadriga.metalearn import inner, outer
from quadriga.metalearn.distributions import is_vectorized, make_distribution, make_kernel, make_slot, size
from quadriga.metalearn.experiment import InnerSettings, MAMLSettings, MetaExperiment
from quadriga.metalearn.inner import Index, Slot, Vector
from quadriga.metalearn.tasks import Array, Task

TRAINING, TESTING, INITIAL = 0, 1, 2
State = dict[str, Array]


class Learned(NamedTuple):
    """Of some slots, in order: directions `[size]` each, and losses on the last minibatch before its step."""

    directions: list[Vector]
    losses: list[float]


class Trial(NamedTuple):
    """Which test tasks are learned, and what is asked of them.

    Attributes:
        stream: keys their random streams together with a task's number.
        tasks: their numbers.
        shots: examples of each class.
        steps: inner steps.
        batch_size: of these.
        transductive: classify all queries of a task in one batch, normalized together.
        separate: classify each query in a batch with the support examples and no other query.
    """

    stream: tuple[int, ...]
    tasks: tuple[int, ...]
    shots: int
    steps: int
    batch_size: int
    transductive: bool = True
    separate: bool = False


Measures = dict[str, list[float]]


class Runner(Protocol):
    """Learns tasks in this process."""

    def train(self, phi: Vector, iteration: int, slots: Sequence[int]) -> Learned:
        """Learns the tasks of `slots` in meta-iteration `iteration`, from `phi`."""

    def draw(self, iteration: int, slots: Sequence[int]) -> None:
        """May draw the tasks that `train` will be asked for next; changes nothing in what it learns."""

    def test(self, phi: Vector, state: State, request: Trial) -> Measures:
        """Learns test tasks and judges them: one value a task in every list.

        Optimizers begin with `state`, as the slot's that it was taken from, and leave no trace.
        """

    def states(self, slots: Sequence[int]) -> list[State]:
        """The optimizers' states."""

    def load(self, slots: Sequence[int], states: Sequence[State]) -> None:
        """Puts states back."""


def minibatch_plan(rng: np.random.Generator, settings: InnerSettings, support: int) -> Index:
    """Support examples of each step, `[steps, batch]`; the tail, if there is one, is a step of its own after them."""
    steps = settings.steps - (1 if settings.tail_shots else 0)
    batch = min(settings.batch_size, support) if settings.replacement else settings.batch_size
    return inner.minibatches(rng, support, batch, steps, replacement=settings.replacement)


def training_task(experiment: MetaExperiment, distribution: Any, iteration: int, slot: int) -> tuple[Task, Index]:
    """The task of a slot, and the minibatches it is learned by."""
    settings = experiment.inner
    rng = np.random.default_rng((experiment.seed, TRAINING, iteration, slot))
    task: Task = distribution.sample(rng, "train", settings.shots - settings.tail_shots, settings.tail_shots)
    return task, minibatch_plan(rng, settings, len(task.support_inputs))


def trial_task(distribution: Any, request: Trial, number: int) -> tuple[Task, Index]:
    """The test task of a number, and the minibatches it is learned by."""
    rng = np.random.default_rng((*request.stream, TESTING, number))
    task: Task = distribution.sample(rng, "test", request.shots, 1)
    count = len(task.support_inputs)
    return task, inner.minibatches(rng, count, request.batch_size, request.steps, replacement=False)


class SequentialRunner:
    """One task after the other, with a kernel for small batches.

    Args:
        experiment: what is learned; its data are loaded.
    """

    def __init__(self, experiment: MetaExperiment) -> None:
        self._experiment = experiment
        self.distribution = make_distribution(experiment)
        self._size = size(self.distribution)
        self._kernel = make_kernel(experiment, self.distribution)
        self._slots: dict[int, Slot] = {}
        self._drawn: dict[tuple[int, int], list[Any]] = {}

    def draw(self, iteration: int, slots: Sequence[int]) -> None:
        self._drawn = {(iteration, slot): self._batches(iteration, slot) for slot in slots}

    def train(self, phi: Vector, iteration: int, slots: Sequence[int]) -> Learned:
        learned = [self._learn(phi, iteration, slot) for slot in slots]
        return Learned([each.direction for each in learned], [each.loss for each in learned])

    def test(self, phi: Vector, state: State, request: Trial) -> Measures:
        measures: Measures = {}
        for number in request.tasks:
            for name, value in self._test(phi, state, request, number).items():
                measures.setdefault(name, []).append(value)
        return measures

    def states(self, slots: Sequence[int]) -> list[State]:
        return [self._slot(slot).state() for slot in slots]

    def load(self, slots: Sequence[int], states: Sequence[State]) -> None:
        for slot, state in zip(slots, states, strict=True):
            self._slot(slot).load(state)

    def _slot(self, slot: int) -> Slot:
        if slot not in self._slots:
            self._slots[slot] = make_slot(self._experiment.inner, self._size)
        return self._slots[slot]

    def _learn(self, phi: Vector, iteration: int, slot: int) -> outer.Learned:
        settings, update, kernel = self._experiment.inner, self._experiment.update, self._kernel
        batches = self._drawn.pop((iteration, slot), None) or self._batches(iteration, slot)
        if isinstance(update, MAMLSettings):
            return outer.maml_direction(kernel, settings.learning_rate, phi, batches)
        return outer.step_direction(kernel, self._slot(slot), phi, batches, outer.span(update, settings.steps))

    def _batches(self, iteration: int, slot: int) -> list[Any]:
        """The minibatches of a slot's task, the tail last."""
        task, plan = training_task(self._experiment, self.distribution, iteration, slot)
        batches = inner.batches(self._kernel.prepare(task.support_inputs, task.support_targets), plan)
        if self._experiment.inner.tail_shots:
            batches.append(self._kernel.prepare(task.query_inputs, task.query_targets))
        return batches

    def _test(self, phi: Vector, state: State, request: Trial, number: int) -> Mapping[str, float]:
        task, plan = trial_task(self.distribution, request, number)
        kernel, parameters = self._kernel, phi.copy()
        optimizer = make_slot(self._experiment.inner, self._size)
        if state:
            optimizer.load(state)
        support = kernel.prepare(task.support_inputs, task.support_targets)
        bound = kernel.bind(parameters)
        query = kernel.prepare(task.query_inputs, task.query_targets)
        if self.distribution.loss == "squared_error":
            before = kernel.loss(kernel.predict(bound, query), query)
            inner.descend(kernel, optimizer, parameters, inner.batches(support, plan))
            return {"loss_before": before, "loss": kernel.loss(kernel.predict(bound, query), query)}
        inner.descend(kernel, optimizer, parameters, inner.batches(support, plan))
        measures = {}
        if request.transductive:
            measures["accuracy_transductive"] = accuracy(kernel.predict(bound, query), task.query_targets)
        if request.separate:
            outputs = []
            for one in task.query_inputs:
                together = kernel.prepare(np.concatenate([task.support_inputs, one[None]]))
                outputs.append(kernel.predict(bound, together)[-1:])
            measures["accuracy"] = accuracy(torch.cat(outputs), task.query_targets)
        return measures


def accuracy(outputs: torch.Tensor, labels: NDArray[Any]) -> float:
    """The share of `outputs` `[n, classes]` whose largest entry is at the label."""
    return float((outputs.argmax(1).cpu().numpy() == labels).mean())


def make_runner(experiment: MetaExperiment) -> Runner:
    """The runner that the experiment's compute settings ask for; one thread.

    Raises:
        UserError: no data, no GPU, or a network without the kernel that was asked for.
    """
    torch.set_num_threads(1)
    if is_vectorized(experiment):
        from quadriga.metalearn.vectorized import VectorizedRunner

        return VectorizedRunner(experiment)
    return SequentialRunner(experiment)
