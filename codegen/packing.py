"""Examples of tokens into rows of one length, and which rows a step takes. Pure functions on arrays.

Several examples share a row, each with positions from 0 on, by which a model of `transformers` knows
that they do not see each other. Only targets are learned: prompts and padding have the label -100.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
OPEN_ROWS = 32
"""How far back an example looks for room: enough to fill rows, and every example stays near its place in the order."""

Tokens = NDArray[np.int64]


class Example(NamedTuple):
    """Tokens that are read and tokens that are learned; the first are empty for plain text."""

    prompt: Sequence[int]
    target: Sequence[int]


class Rows(NamedTuple):
    """Packed examples, int64 [N, length] each.

    Attributes:
        ids: tokens.
        labels: the same where they are learned, -100 elsewhere; the model shifts them.
        positions: of each token in its example.
    """

    ids: Tokens
    labels: Tokens
    positions: Tokens

    def take(self, places: NDArray[np.int64]) -> Rows:
        """Some rows."""
        return Rows(*(part[places] for part in self))


class Packed(NamedTuple):
    """Rows, how many examples are in them, and how many were longer than a row and left out."""

    rows: Rows
    examples: int
    left_out: int


def chunks(tokens: Sequence[int], length: int) -> Iterable[Example]:
    """A text of any length as plain examples of at most `length` tokens."""
    for start in range(0, len(tokens), length):
        yield Example((), tokens[start : start + length])


def pack(examples: Iterable[Example], length: int, pad: int) -> Packed:
    """Fills rows in the order of the examples: each goes to the first of the last `OPEN_ROWS` rows with room for it.

    Args:
        examples: in order.
        length: of a row, in tokens.
        pad: the token that fills a row up.
    """
    rows: list[tuple[list[int], list[int], list[int]]] = []
    taken = left_out = 0
    for prompt, target in examples:
        size = len(prompt) + len(target)
        if size > length or not target:
            left_out += 1
            continue
        row = next((row for row in rows[-OPEN_ROWS:] if len(row[0]) + size <= length), None)
        if row is None:
            row = ([], [], [])
            rows.append(row)
        ids, labels, positions = row
        ids += [*prompt, *target]
        # The first token of an example has nothing before it that could predict it.
        labels += [*([IGNORED] * len(prompt)), *(target if prompt else [IGNORED, *target[1:]])]
        positions += range(size)
        taken += 1
    for ids, labels, positions in rows:
        missing = length - len(ids)
        ids += [pad] * missing
        labels += [IGNORED] * missing
        positions += range(missing)
    shape = (len(rows), length)
    arrays = (np.array([row[part] for row in rows], np.int64).reshape(shape) for part in range(3))
    return Packed(Rows(*arrays), taken, left_out)


def batch(count: int, size: int, step: int, seed: int) -> NDArray[np.int64]:
    """The rows of a step, int64 [size]: every epoch is a new order of all `count` rows, without a gap between two.

    Depends on nothing but its arguments, so a run goes on at any step.
    """
    places = np.arange(step * size, (step + 1) * size)
    found = np.empty(size, np.int64)
    for epoch in np.unique(places // count):
        order = np.random.default_rng((seed, int(epoch))).permutation(count)
        here = places // count == epoch
        found[here] = order[places[here] % count]
    return found
