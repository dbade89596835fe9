"""Who learns a meta-batch: this process, or Ray actors that each take a slice of its slots.

Synchronous: a meta-iteration ends when every slot's direction is there, and they are handed on in the order of the
slots, so that the number of workers changes nothing in the result. An actor that dies is replaced and its slice learned
again: the task and its minibatches are keyed by what they are, and the optimizer's state of a slot is kept in the
object store after every meta-iteration, owned by the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from quadriga.metalearn.experiment import MetaExperiment
from quadriga.metalearn.inner import Vector
from quadriga.metalearn.runner import Learned, Measures, Runner, State, Trial, make_runner
from quadriga.platform import placement
from quadriga.platform.errors import TrainingStopped, UserError

logger = logging.getLogger("quadriga")


class Pool(Protocol):
    """Learns whole meta-batches."""

    restarts: int

    def train(self, phi: Vector, iteration: int) -> Learned:
        """Learns all slots of a meta-iteration, in their order."""

    def test(self, phi: Vector, request: Trial) -> Measures:
        """Learns test tasks from `phi`, with the optimizer state of slot 0; in the order of their numbers."""

    def states(self) -> list[State]:
        """The optimizer state of every slot."""

    def load(self, states: Sequence[State]) -> None:
        """Puts such states back."""

    def stop(self) -> None:
        """Ends all processes. May be called twice."""


class LocalPool:
    """All slots in this process.

    Args:
        experiment: what is learned.
        runner: for this process, if there is one already.
    """

    restarts = 0

    def __init__(self, experiment: MetaExperiment, runner: Runner | None = None) -> None:
        self._slots = range(experiment.update.meta_batch)
        self._runner = runner or make_runner(experiment)

    def train(self, phi: Vector, iteration: int) -> Learned:
        return self._runner.train(phi, iteration, self._slots)

    def test(self, phi: Vector, request: Trial) -> Measures:
        return self._runner.test(phi, self._runner.states([0])[0], request)

    def states(self) -> list[State]:
        return self._runner.states(self._slots)

    def load(self, states: Sequence[State]) -> None:
        self._runner.load(self._slots, states)

    def stop(self) -> None:
        pass


class TaskWorker:
    """A process that learns a slice of the slots; made into a Ray actor by `RayPool`.

    Args:
        fields: the experiment, as `model_dump` gives it.
        slots: the slice.
    """

    def __init__(self, fields: dict[str, Any], slots: Sequence[int]) -> None:
        self._slots = list(slots)
        self._fields = fields
        self._made: Runner | None = None

    @property
    def _runner(self) -> Runner:
        # Not made in __init__: Ray reports an error there as an actor that died.
        if self._made is None:
            self._made = make_runner(MetaExperiment.model_validate(self._fields))
        return self._made

    def ready(self) -> None:
        """Answers once the data are loaded; raises `UserError` if they cannot be."""
        assert self._runner

    def train(
        self, phi: Vector, iteration: int, states: list[State] | None
    ) -> tuple[tuple[Vector, list[float]], list[State]]:
        """Directions `[slots, size]` and losses; and, as an object of its own, the states after it.

        Args:
            phi: where tasks begin.
            iteration: the meta-iteration.
            states: of the slots before it, if this process does not have them.
        """
        if states is not None:
            self._runner.load(self._slots, states)
        learned = self._runner.train(phi, iteration, self._slots)
        return (np.stack(learned.directions), learned.losses), self._runner.states(self._slots)

    def test(self, phi: Vector, states: list[State] | None, request: Trial) -> Measures:
        """See `runner.Runner.test`; `states` are those of worker 0's slots."""
        return self._runner.test(phi, states[0] if states else {}, request)


class RayPool:
    """Slots dealt out to Ray actors, as evenly as they go. Ray must be running.

    Args:
        experiment: what is learned; `compute.workers` actors, no more than there are slots.

    Raises:
        UserError: what the workers cannot do: no data, no GPU.
    """

    def __init__(self, experiment: MetaExperiment) -> None:
        compute, slots = experiment.compute, experiment.update.meta_batch
        self._fields = experiment.model_dump(mode="json")
        role = placement.LEARNERS if compute.gpus_per_worker else placement.ROLLOUTS
        self._options = {
            "num_cpus": 1,
            "num_gpus": compute.gpus_per_worker,
            "resources": placement.resources(role),
        }
        self._limit = compute.restart_limit
        shares = np.array_split(np.arange(slots), min(compute.workers, slots))
        self._shares = [[int(slot) for slot in share] for share in shares]
        self.restarts = 0
        # What a worker's slots had after its last meta-iteration: references, or states after `load`.
        self._states: list[Any] = [None] * len(self._shares)
        self._loaded = [True] * len(self._shares)
        self._workers = [self._start(index) for index in range(len(self._shares))]
        asked = [worker.ready.remote() for worker in self._workers]
        try:
            for index, reference in enumerate(asked):
                self._answer(index, reference, lambda i: self._workers[i].ready.remote())
        except BaseException:
            self.stop()
            raise

    def train(self, phi: Vector, iteration: int) -> Learned:
        import ray

        reference = ray.put(phi)

        def ask(index: int) -> Any:
            given = None if self._loaded[index] else self._states[index]
            pair = self._workers[index].train.options(num_returns=2).remote(reference, iteration, given)
            self._loaded[index] = True
            return pair

        asked = [ask(index) for index in range(len(self._workers))]
        learned = Learned([], [])
        for index in range(len(asked)):
            (directions, losses), asked[index] = self._pair(index, asked[index], ask)
            learned.directions.extend(directions)
            learned.losses.extend(losses)
        self._states = [states for _, states in asked]
        return learned

    def test(self, phi: Vector, request: Trial) -> Measures:
        import ray

        reference = ray.put(phi)
        shares = np.array_split(np.asarray(request.tasks, np.int64), len(self._workers))
        trials = [request._replace(tasks=tuple(int(number) for number in share)) for share in shares]

        def ask(index: int) -> Any:
            return self._workers[index].test.remote(reference, self._states[0], trials[index])

        asked = [ask(index) for index in range(len(self._workers))]
        measures: Measures = {}
        for index in range(len(asked)):
            for name, values in self._answer(index, asked[index], ask).items():
                measures.setdefault(name, []).extend(values)
        return measures

    def states(self) -> list[State]:
        import ray

        found: list[State] = []
        for share, states in zip(self._shares, self._states, strict=True):
            kept = ray.get(states) if isinstance(states, ray.ObjectRef) else states
            found.extend(kept if kept is not None else [{} for _ in share])
        return found

    def load(self, states: Sequence[State]) -> None:
        self._states = [[states[slot] for slot in share] for share in self._shares]
        self._loaded = [False] * len(self._shares)

    def stop(self) -> None:
        import ray

        for worker in self._workers:
            ray.kill(worker)
        self._workers = []

    def _start(self, index: int) -> Any:
        import ray

        return ray.remote(TaskWorker).options(**self._options).remote(self._fields, self._shares[index])

    def _pair(self, index: int, pair: Any, ask: Any) -> tuple[Any, Any]:
        """The first of two answers of a worker, and the pair of references that it came from."""
        asked = [pair]

        def again(worker: int) -> Any:
            asked[0] = ask(worker)
            return asked[0][0]

        return self._answer(index, pair[0], again), asked[0]

    def _answer(self, index: int, reference: Any, ask: Any) -> Any:
        """The answer of a worker; one that has died is replaced and asked again."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        while True:
            try:
                return ray.get(reference)
            except RayTaskError as error:
                cause = error.cause
                raise (cause if isinstance(cause, UserError) else error) from None
            except RayActorError as error:
                if self.restarts >= self._limit:
                    raise TrainingStopped(
                        f"task worker {index} died, the {self.restarts + 1}th loss; compute.restart_limit allows "
                        f"{self._limit}"
                    ) from error
                self.restarts += 1
                logger.warning("task worker %d died and is replaced; its tasks are learned again", index)
                self._workers[index] = self._start(index)
                self._loaded[index] = self._states[index] is None
                reference = ask(index)


def make_pool(experiment: MetaExperiment) -> Pool:
    """The pool that `compute.workers` asks for."""
    return RayPool(experiment) if experiment.compute.workers else LocalPool(experiment)
