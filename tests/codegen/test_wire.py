"""What crosses between a sample and its checker is data, the same on both sides, and nothing else."""

import collections
import enum
import itertools
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadriga.codegen.sandbox import wire

numbers = st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
hashable = st.recursive(
    st.none() | st.booleans() | numbers | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
values = st.recursive(
    hashable | st.sets(hashable, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4),
    max_leaves=20,
)


def there_and_back(value):
    return wire.decode(wire.unpack(wire.pack(wire.encode(value))[wire.HEADER.size :]))


def shape(value):
    """Types all the way down: `1 == 1.0 == True`, and a list is no tuple."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(part)) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [shape(part) for part in value]
    return type(value)


@given(values)
def test_plain_values_arrive_as_they_were(value):
    arrived = there_and_back(value)
    assert arrived == value
    assert shape(arrived) == shape(value)


def test_numbers_keep_their_last_bit():
    assert there_and_back([1e-320, -0.0, math.pi, 2**4000, -(2**64)]) == [1e-320, -0.0, math.pi, 2**4000, -(2**64)]
    assert math.copysign(1, there_and_back(-0.0)) == -1
    assert math.isnan(there_and_back(math.nan)) and there_and_back(-math.inf) == -math.inf


def test_iterators_stay_iterators_and_views_stay_views():
    assert list(there_and_back(n * n for n in range(3))) == [0, 1, 4]
    assert there_and_back(map(str, [1])) != ["1"]
    assert there_and_back({1: 2}.keys()) == {1}
    assert there_and_back({1: [2]}.items()) == {1: [2]}.items()
    assert there_and_back(range(2, 9, 3)) == range(2, 9, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: iter("é"),
        lambda: iter(b"ab"),
        lambda: iter(range(1 << 70, (1 << 70) + 3)),
        lambda: iter({1: 2}.items()),
        lambda: reversed((1, 2)),
        lambda: reversed("ab"),
        lambda: reversed({1: 2}.values()),
        lambda: iter([3, 2, 0].pop, 3),
        lambda: itertools.chain([1], "a"),
        lambda: itertools.chain.from_iterable([[1], [2]]),
        lambda: itertools.islice(itertools.count(), 3),
        lambda: itertools.accumulate([1, 2, 3]),
        lambda: itertools.permutations("abc", 2),
        lambda: itertools.combinations("abc", 2),
        lambda: itertools.combinations_with_replacement("ab", 2),
        lambda: itertools.product("ab", repeat=2),
        lambda: itertools.zip_longest("ab", "c"),
        lambda: itertools.compress("abc", [1, 0, 1]),
        lambda: itertools.takewhile(bool, [1, 0, 1]),
        lambda: itertools.dropwhile(bool, [1, 0, 1]),
        lambda: itertools.filterfalse(bool, [1, 0]),
        lambda: itertools.starmap(pow, [(2, 3)]),
        lambda: itertools.pairwise("abc"),
        lambda: itertools.tee([1, 2])[0],
    ],
)
def test_the_iterators_of_builtins_and_of_itertools_arrive(make):
    arrived = there_and_back(make())
    assert iter(arrived) is arrived and list(arrived) == list(make())


def test_groups_arrive_with_their_members():
    arrived = there_and_back(itertools.groupby("aab"))
    assert [(key, list(group)) for key, group in arrived] == [("a", ["a", "a"]), ("b", ["b"])]


@pytest.mark.parametrize("endless", [itertools.count(), itertools.cycle("a"), itertools.repeat(1)])
def test_iterators_without_an_end_are_no_data(endless):
    assert type(there_and_back(endless)) is wire.Opaque


def test_subclasses_arrive_as_what_they_hold_and_not_as_what_they_claim():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class Color(enum.IntEnum):
        RED = 3

    Point = collections.namedtuple("Point", "x y")
    assert there_and_back(Liar(7)) != 8 and type(there_and_back(Liar(7))) is int
    assert there_and_back([Color.RED, Point(1, 2)]) == [3, (1, 2)]
    assert there_and_back(collections.Counter("aab")) == {"a": 2, "b": 1}


def test_what_is_no_data_equals_nothing():
    arrived = there_and_back([object(), len])
    assert [part.type_name for part in arrived] == ["object", "builtin_function_or_method"]
    same = arrived[0]
    assert (same == arrived[0], same != arrived[0]) == (False, True)


@pytest.mark.parametrize(
    "tree",
    [{}, {"t": 1}, {"x": []}, {"t": [], "s": []}, {"s": [[]]}, {"i": "q"}, {"d": [[1]]}, {"c": [1]}, {"r": [1, 2, 0]}],
)
def test_what_is_not_of_the_format_is_refused(tree):
    with pytest.raises(wire.NotData):
        wire.decode(tree)


def test_depth_is_bounded_on_both_sides():
    nested: list = []
    for _ in range(wire.DEPTH + 1):
        nested = [nested]
    with pytest.raises(RecursionError):
        wire.encode(nested)
    with pytest.raises(wire.NotData):
        wire.decode(nested)
    with pytest.raises(wire.NotData):
        wire.unpack(b"[" * 10**6)


def test_a_frame_larger_than_the_limit_is_refused_before_it_is_read():
    read, write = os.pipe()
    os.write(write, wire.HEADER.pack(1 << 31))
    with pytest.raises(wire.NotData, match="2,147,483,648 bytes where 10 are allowed"):
        wire.receive(read, 10)


def test_a_second_answer_in_the_same_breath_is_refused():
    read, write = os.pipe()
    os.write(write, wire.pack(["v", 1]) + wire.pack(["v", 2]))
    with pytest.raises(wire.NotData, match="more than one"):
        wire.receive(read, 100)


def test_a_closed_channel_is_told_from_a_bad_frame():
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(wire.NotData) as caught:
        wire.receive(read, 100)
    assert caught.value.gone
