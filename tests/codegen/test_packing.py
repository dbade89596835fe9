"""Packed rows: every token once, prompts not learned, every row once an epoch."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quadriga.codegen.packing import IGNORED, Example, batch, chunks, pack

EXAMPLES = st.lists(
    st.builds(Example, st.lists(st.integers(1, 9), max_size=6), st.lists(st.integers(10, 99), max_size=8)), max_size=12
)


@given(examples=EXAMPLES, length=st.integers(4, 20))
def test_every_example_that_fits_is_there_once_and_whole(examples, length):
    packed = pack(examples, length, pad=0)
    ids, labels, positions = packed.rows
    assert ids.shape == labels.shape == positions.shape == (len(ids), length)
    expected = [each for each in examples if each.target and len(each.prompt) + len(each.target) <= length]
    assert packed.examples == len(expected) and packed.left_out == len(examples) - len(expected)
    found = []
    for row in range(len(ids)):
        starts = [*np.flatnonzero(positions[row] == 0), length]
        for start, end in itertools.pairwise(starts):
            if ids[row, start] != 0:
                found.append((ids[row, start:end].tolist(), labels[row, start:end].tolist()))
    wanted = []
    for prompt, target in expected:
        learned = target if prompt else [IGNORED, *target[1:]]
        wanted.append(([*prompt, *target], [IGNORED] * len(prompt) + list(learned)))
    assert sorted(found) == sorted(wanted)


@given(examples=EXAMPLES, length=st.integers(4, 20))
def test_no_two_rows_could_be_one(examples, length):
    used = [int(np.flatnonzero(row).max(initial=-1)) + 1 for row in pack(examples, length, pad=0).rows.ids]
    assert all(first + second > length for first, second in itertools.combinations(used, 2))


@given(count=st.integers(1, 12), size=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_row_comes_once_an_epoch(count, size, seed):
    drawn = np.concatenate([batch(count, size, step, seed) for step in range(3 * count)])
    for epoch in range(3 * size):
        part = drawn[epoch * count : (epoch + 1) * count]
        assert sorted(part) == list(range(count))


def test_orders_differ_by_seed_and_epoch():
    first = batch(50, 50, 0, 0).tolist()
    assert first != batch(50, 50, 1, 0).tolist() and first != batch(50, 50, 0, 1).tolist()
    assert first == batch(50, 50, 0, 0).tolist()


def test_a_long_text_is_cut_without_loss():
    parts = list(chunks(list(range(25)), 10))
    assert [token for each in parts for token in each.target] == list(range(25))
    assert all(not each.prompt and len(each.target) <= 10 for each in parts)
