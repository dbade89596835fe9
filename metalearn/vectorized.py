"""Many tasks at once, along a leading axis of every tensor: the way to fill a GPU.

The same tasks, minibatches and updates as `runner.SequentialRunner`, so that results agree up to rounding;
on a CPU one task at a time is faster, for one task's activations fit a core's cache and many do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quadriga.metalearn import outer
from quadriga.metalearn.autograd_kernel import VectorizedKernel
from quadriga.metalearn.distributions import make_distribution, reduction, size
from quadriga.metalearn.experiment import InnerSettings, MAMLSettings, MetaExperiment
from quadriga.metalearn.inner import Vector
from quadriga.metalearn.runner import Learned, Measures, State, Trial, training_task, trial_task
from quadriga.platform.errors import UserError

TESTED_AT_ONCE = 512


class Optimizers:
    """The inner optimizers of several slots: parameters, gradients and states `[slots, size]`."""

    EPSILON = 1e-8

    def __init__(self, settings: InnerSettings, count: int, length: int, device: torch.device) -> None:
        self._settings = settings
        self._adam = settings.optimizer == "adam"
        self.square = torch.zeros(count if self._adam else 0, length, device=device)
        self.steps = np.zeros(count, np.int64)

    def step(self, parameters: Tensor, gradients: Tensor) -> Tensor:
        """The parameters after one step; see `inner.Adam` for the equation."""
        lr = self._settings.learning_rate
        if not self._adam:
            return parameters - lr * gradients
        self.steps += 1
        beta2 = self._settings.beta2
        self.square.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        rates = torch.as_tensor(lr * np.sqrt(1 - beta2**self.steps), dtype=parameters.dtype, device=parameters.device)
        return parameters - rates[:, None] * gradients / (self.square.sqrt() + self.EPSILON)

    def state(self, row: int) -> State:
        """Of one slot."""
        if not self._adam:
            return {}
        return {"square": self.square[row].cpu().numpy(), "steps": np.asarray(self.steps[row])}

    def load(self, row: int, state: State) -> None:
        """Of one slot."""
        if self._adam and state:
            self.square[row] = torch.from_numpy(np.array(state["square"], np.float32)).to(self.square.device)
            self.steps[row] = int(state["steps"])


class VectorizedRunner:
    """Learns all tasks of a share together; see `runner.Runner`.

    Args:
        experiment: what is learned; its data are loaded.

    Raises:
        UserError: `compute.device` is not there.
    """

    def __init__(self, experiment: MetaExperiment) -> None:
        device = experiment.compute.device
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("compute.device: cuda was asked for, and PyTorch finds no GPU here")
        self._experiment = experiment
        self.distribution = make_distribution(experiment)
        self._size = size(self.distribution)
        how = reduction(experiment, self.distribution)
        self._kernel = VectorizedKernel(self.distribution.network, self.distribution.loss, how, device)
        self._rows: dict[int, int] = {}
        self._optimizers = self._make(0)

    def draw(self, iteration: int, slots: Sequence[int]) -> None:
        pass

    def train(self, phi: Vector, iteration: int, slots: Sequence[int]) -> Learned:
        experiment, settings, kernel = self._experiment, self._experiment.inner, self._kernel
        self._take(slots)
        drawn = [training_task(experiment, self.distribution, iteration, slot) for slot in slots]
        inputs, targets = self._stack(drawn, "support_inputs"), self._stack(drawn, "support_targets")
        plan = kernel.tensor(np.stack([indices for _, indices in drawn], axis=1))
        batches = [(_rows(inputs, index), _rows(targets, index)) for index in plan]
        if settings.tail_shots:
            batches.append((self._stack(drawn, "query_inputs"), self._stack(drawn, "query_targets")))
        start = kernel.tensor(phi).expand(len(slots), -1)
        if isinstance(experiment.update, MAMLSettings):
            directions, losses = self._maml(start, batches)
        else:
            directions, losses = self._steps(start, batches, outer.span(experiment.update, settings.steps))
        return Learned(list(directions.cpu().numpy()), [float(value) for value in losses.cpu()])

    def test(self, phi: Vector, state: State, request: Trial) -> Measures:
        measures: Measures = {}
        for first in range(0, len(request.tasks), TESTED_AT_ONCE):
            some = request._replace(tasks=request.tasks[first : first + TESTED_AT_ONCE])
            for name, values in self._test(phi, state, some).items():
                measures.setdefault(name, []).extend(values)
        return measures

    def states(self, slots: Sequence[int]) -> list[State]:
        return [self._optimizers.state(self._rows[slot]) if slot in self._rows else {} for slot in slots]

    def load(self, slots: Sequence[int], states: Sequence[State]) -> None:
        self._take(slots)
        for slot, state in zip(slots, states, strict=True):
            self._optimizers.load(self._rows[slot], state)

    def _make(self, count: int) -> Optimizers:
        return Optimizers(self._experiment.inner, count, self._size, self._kernel.device)

    def _take(self, slots: Sequence[int]) -> None:
        """Makes the optimizers' rows those of `slots`, which are always the same in one worker."""
        if list(self._rows) != list(slots):
            known = {slot: self._optimizers.state(row) for slot, row in self._rows.items()}
            self._optimizers = self._make(len(slots))
            self._rows = {slot: row for row, slot in enumerate(slots)}
            for slot, state in known.items():
                if slot in self._rows:
                    self._optimizers.load(self._rows[slot], state)

    def _stack(self, drawn: Sequence[tuple[Any, Any]], part: str) -> Tensor:
        return self._kernel.tensor(np.stack([getattr(task, part) for task, _ in drawn]))

    def _steps(self, start: Tensor, batches: Sequence[Any], over: outer.Span) -> tuple[Tensor, Tensor]:
        parameters = before = start
        losses = torch.zeros(len(start))
        for number, (inputs, targets) in enumerate(batches[: over.last], 1):
            if number == over.first:
                before = parameters
            gradients, losses = self._kernel.gradient(parameters, inputs, targets)
            parameters = self._optimizers.step(parameters, gradients)
        return (parameters - before) * over.weight, losses

    def _maml(self, start: Tensor, batches: Sequence[Any]) -> tuple[Tensor, Tensor]:
        lr = self._experiment.inner.learning_rate
        trajectory = [start]
        for inputs, targets in batches[:-1]:
            trajectory.append(trajectory[-1] - lr * self._kernel.gradient(trajectory[-1], inputs, targets)[0])
        direction, losses = self._kernel.gradient(trajectory[-1], *batches[-1])
        for parameters, (inputs, targets) in zip(trajectory[-2::-1], batches[-2::-1], strict=True):
            direction = direction - lr * self._kernel.curvature(parameters, inputs, targets, direction)
        return -direction, losses

    def _test(self, phi: Vector, state: State, request: Trial) -> Measures:
        kernel = self._kernel
        drawn = [trial_task(self.distribution, request, number) for number in request.tasks]
        inputs, targets = self._stack(drawn, "support_inputs"), self._stack(drawn, "support_targets")
        query_inputs, query_targets = self._stack(drawn, "query_inputs"), self._stack(drawn, "query_targets")
        optimizers = self._make(len(drawn))
        for row in range(len(drawn)):
            optimizers.load(row, state)
        parameters = kernel.tensor(phi).expand(len(drawn), -1)
        before = parameters
        for index in kernel.tensor(np.stack([indices for _, indices in drawn], axis=1)):
            gradients, _ = kernel.gradient(parameters, _rows(inputs, index), _rows(targets, index))
            parameters = optimizers.step(parameters, gradients)
        if self.distribution.loss == "squared_error":
            losses = {"loss_before": before, "loss": parameters}
            return {name: kernel.gradient(at, query_inputs, query_targets)[1].tolist() for name, at in losses.items()}
        measures: Measures = {}
        if request.transductive:
            outputs = kernel.predict(parameters, query_inputs)
            measures["accuracy_transductive"] = _accuracies(outputs, query_targets)
        if request.separate:
            single = [
                kernel.predict(parameters, torch.cat([inputs, query_inputs[:, one : one + 1]], 1))[:, -1:]
                for one in range(query_inputs.shape[1])
            ]
            measures["accuracy"] = _accuracies(torch.cat(single, 1), query_targets)
        return measures


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """`values[t, index[t]]` for every task t: `[tasks, batch, ...]` of `[tasks, n, ...]`."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]


def _accuracies(outputs: Tensor, labels: Tensor) -> list[float]:
    values: list[float] = (outputs.argmax(2) == labels).double().mean(1).tolist()
    return values
