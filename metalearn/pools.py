"""Who learns a meta-batch: this process, or Ray actors that each take a slice of its slots.

Synchronous: a meta-iteration ends when every slot's direction is there, and they are handed on in the order of the
slots, so that the number of workers changes nothing in the result. An actor that dies is replaced and its slice learned
again: the task and its minibatches are keyed by what they are, and the driver keeps the optimizers' states of its slots
every few meta-iterations, together with the weights that every one since then began with, so that those are done over
too. To hand all states over every time would move as much as the directions do.

Weights and directions go through the object store, or, with a worker on the driver's machine, through a `board`.

While the driver moves phi, workers draw the tasks of the next meta-iteration.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from quadriga.metalearn.board import Address, Board
from quadriga.metalearn.experiment import MetaExperiment
from quadriga.metalearn.inner import Vector
from quadriga.metalearn.runner import Learned, Measures, Runner, State, Trial, make_runner
from quadriga.platform import placement
from quadriga.platform.errors import TrainingStopped, UserError

logger = logging.getLogger("quadriga")

KEEP_EVERY = 20
"""Meta-iterations between copies of the optimizers' states, and so at most what a new worker does over."""


class Pool(Protocol):
    """Learns whole meta-batches."""

    restarts: int

    def train(self, phi: Vector, iteration: int) -> Learned:
        """Learns all slots of a meta-iteration, in their order. The directions hold until the next call."""

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
        self._board: Board | None = None

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        return f"task worker of slots {self._slots[0]}-{self._slots[-1]}"

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
        self, address: Address | None, phi: Vector | None, iteration: int, keep: bool
    ) -> tuple[list[Vector] | None, list[float], list[State] | None]:
        """Directions and losses, one a slot; and the states after it.

        Args:
            address: of the driver's board. If that is on this machine, directions are put there, and None is answered.
            phi: where tasks begin; None after such an answer, and it is on the board.
            iteration: the meta-iteration.
            keep: hand the states over.
        """
        if address is not None and self._board is None:
            self._board = Board.find(address)
        board = self._board
        begin = phi if board is None else board.phi
        assert begin is not None
        learned = self._runner.train(begin, iteration, self._slots)
        states = self.states() if keep else None
        if board is None:
            return learned.directions, learned.losses, states
        for slot, direction in zip(self._slots, learned.directions, strict=True):
            board.directions[slot] = direction
        return None, learned.losses, states

    def draw(self, iteration: int) -> None:
        """Draws the tasks of a meta-iteration that is to come."""
        self._runner.draw(iteration, self._slots)

    def states(self) -> list[State]:
        """Those of the slots."""
        return self._runner.states(self._slots)

    def load(self, states: list[State] | None, iterations: Sequence[int], *phis: Vector) -> None:
        """Takes the place of a worker that had `states`, if not those of the beginning, and then learned `iterations`.

        Args:
            states: of the slots.
            iterations: that are done over.
            phis: where their tasks began.
        """
        if states is not None:
            self._runner.load(self._slots, states)
        for iteration, phi in zip(iterations, phis, strict=True):
            self._runner.train(phi, iteration, self._slots)

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
        # Each worker's states, or None in the beginning; and the meta-iterations since, with their phi.
        self._states: list[list[State] | None] = [None] * len(self._shares)
        self._since: list[tuple[int, Vector]] = []
        # Made with the first phi; which workers have found it is known from their answers.
        self._board: Board | None = None
        self._near = [False] * len(self._shares)
        self._carried = experiment.inner.optimizer != "sgd"
        self._last = experiment.steps - 1
        self._workers = [self._start(index) for index in range(len(self._shares))]
        asked = [worker.ready.remote() for worker in self._workers]
        try:
            placement.await_start(asked, "task workers")
            for index, reference in enumerate(asked):
                self._answer(index, reference, lambda i: self._workers[i].ready.remote())
        except BaseException:
            self.stop()
            raise

    def train(self, phi: Vector, iteration: int) -> Learned:
        import ray

        address = self._write(phi)
        reference = None if all(self._near) else ray.put(phi)
        keep = self._carried and len(self._since) + 1 >= KEEP_EVERY

        def ask(index: int) -> Any:
            sent = None if self._near[index] else (phi if reference is None else reference)
            return self._workers[index].train.remote(address, sent, iteration, keep)

        asked = [ask(index) for index in range(len(self._workers))]
        if iteration < self._last:  # asked for last: it may wait, and the learning may not
            for worker in self._workers:
                worker.draw.remote(iteration + 1)
        learned = Learned([], [])
        kept: list[list[State] | None] = []
        for index, answer in enumerate(asked):
            directions, losses, states = self._answer(index, answer, ask)
            self._near[index] = directions is None
            if directions is None:
                assert self._board is not None
                directions = [self._board.directions[slot] for slot in self._shares[index]]
            learned.directions.extend(directions)
            learned.losses.extend(losses)
            kept.append(states)
        if keep:
            self._states, self._since = kept, []
        elif self._carried:
            self._since.append((iteration, phi.copy()))
        return learned

    def _write(self, phi: Vector) -> Address | None:
        """Puts `phi` on the board, and says where that is."""
        if self._board is None:
            self._board = Board.make(sum(map(len, self._shares)), len(phi))
        if self._board is None:
            return None
        self._board.phi[:] = phi
        return self._board.address

    def test(self, phi: Vector, request: Trial) -> Measures:
        import ray

        self._keep()
        reference, states = ray.put(phi), ray.put(self._states[0])
        shares = np.array_split(np.asarray(request.tasks, np.int64), len(self._workers))
        trials = [request._replace(tasks=tuple(int(number) for number in share)) for share in shares]

        def ask(index: int) -> Any:
            return self._workers[index].test.remote(reference, states, trials[index])

        asked = [ask(index) for index in range(len(self._workers))]
        measures: Measures = {}
        for index in range(len(asked)):
            for name, values in self._answer(index, asked[index], ask).items():
                measures.setdefault(name, []).extend(values)
        return measures

    def states(self) -> list[State]:
        self._keep()
        found: list[State] = []
        for share, states in zip(self._shares, self._states, strict=True):
            found.extend(states if states is not None else [{} for _ in share])
        return found

    def load(self, states: Sequence[State]) -> None:
        self._states, self._since = [[states[slot] for slot in share] for share in self._shares], []
        for worker, kept in zip(self._workers, self._states, strict=True):
            worker.load.remote(kept, [])

    def _keep(self) -> None:
        """Brings `_states` up to date."""
        if not self._since:
            return

        def ask(index: int) -> Any:
            return self._workers[index].states.remote()

        asked = [ask(index) for index in range(len(self._workers))]
        states = [self._answer(index, reference, ask) for index, reference in enumerate(asked)]
        self._states, self._since = states, []

    def stop(self) -> None:
        import ray

        for worker in self._workers:
            ray.kill(worker)
        self._workers = []
        if self._board is not None:
            self._board.close()
            self._board = None

    def _start(self, index: int) -> Any:
        import ray

        return ray.remote(TaskWorker).options(**self._options).remote(self._fields, self._shares[index])

    def _answer(self, index: int, reference: Any, ask: Any) -> Any:
        """The answer of a worker; one that has died is replaced and asked again."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        while True:
            try:
                return ray.get(reference)
            except RayTaskError as error:
                cause = error.cause
                raise (cause if isinstance(cause, UserError) else error) from None
            except (RayActorError, ObjectLostError) as error:  # of the second kind: its node died after it had answered
                if self.restarts >= self._limit:
                    raise TrainingStopped(
                        f"task worker {index} died, the {self.restarts + 1}th loss; compute.restart_limit allows "
                        f"{self._limit}"
                    ) from error
                self.restarts += 1
                logger.warning("task worker %d died and is replaced; its tasks are learned again", index)
                self._workers[index], self._near[index] = self._start(index), False
                iterations, phis = [number for number, _ in self._since], [phi for _, phi in self._since]
                self._workers[index].load.remote(self._states[index], iterations, *phis)
                reference = ask(index)


def make_pool(experiment: MetaExperiment) -> Pool:
    """The pool that `compute.workers` asks for."""
    return RayPool(experiment) if experiment.compute.workers else LocalPool(experiment)
