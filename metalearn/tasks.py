"""What a task is, and the interface of a distribution of tasks.

A user's own distribution is any object with the methods of `TaskDistribution`; an experiment names
the function that makes it (`task: {kind: custom, factory: "package.module:function"}`). How tasks are
learned, and which random stream each gets, is the business of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from quadriga.metalearn.networks import Network
from quadriga.platform.errors import UserError, one_line
from quadriga.platform.imports import load_object

Array = NDArray[np.generic]
Split = Literal["train", "test"]
Loss = Literal["cross_entropy", "squared_error"]


class Task(NamedTuple):
    """One task: examples to learn from, and others to be judged by.

    Attributes:
        support_inputs: `[n, ...]`, any real dtype.
        support_targets: int64 `[n]` (classes) or float32 `[n, outputs]` (values).
        query_inputs: `[m, ...]`; m may be 0 in training.
        query_targets: as `support_targets`.
    """

    support_inputs: Array
    support_targets: Array
    query_inputs: Array
    query_targets: Array


class TaskDistribution(Protocol):
    """Where tasks come from; the same generator state gives the same task."""

    @property
    def loss(self) -> Loss:
        """Of an example; an attribute will do."""

    @property
    def network(self) -> Network:
        """What learns the tasks; an attribute will do."""

    def sample(self, rng: np.random.Generator, split: Split, shots: int, query_shots: int) -> Task:
        """A task.

        Args:
            rng: the only source of randomness.
            split: `train` tasks are meta-trained on, `test` tasks never are.
            shots: support examples of each class, or of the task if there are no classes.
            query_shots: query examples, likewise.
        """

    def check(self, split: Split, shots: int) -> None:
        """Raises `UserError` if tasks of `shots` examples in all cannot be made from what is there."""


def custom(factory: str, options: Mapping[str, Any]) -> TaskDistribution:
    """The distribution that the function `factory`, written `package.module:function`, makes of `options`.

    Raises:
        UserError: there is no such function, or it refuses the options.
    """
    function: Callable[..., TaskDistribution] = load_object(factory, "task.factory")
    try:
        made = function(**options)
    except TypeError as error:
        raise UserError(f"task.options of {factory!r}: {one_line(error)}") from error
    missing = [part for part in ("loss", "network", "sample", "check") if not hasattr(made, part)]
    if missing:
        raise UserError(f"task.factory {factory!r}: what it makes has no {', '.join(missing)}")
    return made
