"""Plain data between a sample and its checker: frames of tagged JSON over a stream.

Both sides speak it, and one of them is not trusted. So what arrives builds nothing but values of
builtin types, within bounds on size and depth: no pickle, no classes by name, no code. It knows
nothing of what the frames mean.

A value keeps its type: list, tuple, set, frozenset, dict with keys of any kind, bytes, bytearray,
complex, range, int of any size, float with NaN and the infinities. Subclasses (a named tuple, a
`Counter`, an `IntEnum`) arrive as the plain value that they hold, dict views as views, generators
and the iterators of builtins and of `itertools` as iterators over what they yield, but for `count`,
`cycle` and `repeat`, which have no end. Everything else arrives as `Opaque`, which equals nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import types
from collections.abc import Callable
from typing import Any

DEPTH = 100
SMALL = 1 << 62
HEADER = struct.Struct("<I")
READ = 1 << 16
FOREVER = (itertools.count, itertools.cycle, itertools.repeat)
ITERATORS: tuple[Any, ...] = (
    *map(type, map(iter, ([], (), set(), "", "\xe9", b"", bytearray(), range(0), range(1 << 70)))),
    *map(type, (iter({}), iter({}.values()), iter({}.items()), iter(memoryview(b"")), iter(int, 0))),
    *map(type, (reversed([]), reversed({}), reversed({}.values()), reversed({}.items()))),
    *(kind for kind in vars(itertools).values() if hasattr(kind, "__next__") and kind not in FOREVER),
    types.GeneratorType,
    reversed,
    map,
    filter,
    zip,
    enumerate,
)
KEYS: Any = type({}.keys())
VALUES: Any = type({}.values())
ITEMS: Any = type({}.items())


class NotData(Exception):
    """What arrived is no value of this format, too large, too deep; or the other side is gone (`gone`)."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


class Opaque:
    """Stands for a value that is not plain data; equals nothing, not even itself.

    Attributes:
        type_name: of the value that it stands for.
    """

    __slots__ = ("type_name",)
    __hash__ = object.__hash__

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{self.type_name}: not plain data>"


def encode(value: Any, depth: int = DEPTH) -> Any:
    """`value` as a tree that `json.dumps` accepts.

    Raises:
        RecursionError: nested deeper than `DEPTH`.
    """
    kind = type(value)
    if kind is str or kind is bool or kind is float or value is None:
        return value
    if kind is int:
        return value if -SMALL < value < SMALL else {"i": hex(value)}
    if depth <= 0:
        raise RecursionError(f"nested deeper than {DEPTH}")
    deeper = depth - 1
    if kind is list:
        return [encode(part, deeper) for part in value]
    if kind is tuple:
        return {"t": [encode(part, deeper) for part in value]}
    if kind is dict:
        return {"d": [[encode(key, deeper), encode(part, deeper)] for key, part in value.items()]}
    if kind is set:
        return {"s": [encode(part, deeper) for part in value]}
    if kind is frozenset:
        return {"f": [encode(part, deeper) for part in value]}
    return _encode_rare(value, kind, depth)


def _encode_rare(value: Any, kind: Any, depth: int) -> Any:
    if kind is bytes:
        return {"b": value.hex()}
    if kind is bytearray:
        return {"a": value.hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    if kind is range:
        return {"r": [encode(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, ITERATORS):
        return {"y": [encode(part, depth - 1) for part in value]}
    if kind is KEYS or kind is VALUES or kind is ITEMS:
        name = {KEYS: "k", VALUES: "v", ITEMS: "m"}[kind]
        return {name: [encode(part, depth - 1) for part in value]}
    for base in (bool, int, float, complex, str, bytes, bytearray, tuple, list, frozenset, set, dict):
        if isinstance(value, base):
            plain = _PLAIN[base](value)
            if type(plain) is base:
                return encode(plain, depth)
    return {"o": kind.__name__[:100]}


_PLAIN: dict[type, Callable[[Any], Any]] = {
    bool: bool,
    int: int.__pos__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: lambda value: "".join(str.__iter__(value)),
    bytes: lambda value: bytes(memoryview(value)),
    bytearray: lambda value: bytearray(memoryview(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
}


def decode(tree: Any, depth: int = DEPTH) -> Any:
    """The value of a tree that `json.loads` returned.

    Raises:
        NotData: it is none of `encode`'s.
    """
    kind = type(tree)
    if kind is list:
        if depth <= 0:
            raise NotData(f"nested deeper than {DEPTH}")
        return [decode(part, depth - 1) for part in tree]
    if kind is not dict:
        return tree
    if depth <= 0:
        raise NotData(f"nested deeper than {DEPTH}")
    if len(tree) != 1:
        raise NotData("not a tagged value")
    ((tag, content),) = tree.items()
    try:
        return _DECODERS[tag](content, depth - 1)
    except NotData:
        raise
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise NotData(f"not a tagged value: {tag[:10]!r}") from error


def _parts(content: Any, depth: int) -> list[Any]:
    if type(content) is not list:
        raise NotData("not a tagged value")
    return [decode(part, depth) for part in content]


def _pairs(content: Any, depth: int) -> dict[Any, Any]:
    return {decode(key, depth): decode(value, depth) for key, value in content}


def _items(content: Any, depth: int) -> Any:
    return dict(_parts(content, depth)).items()


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "i": lambda content, depth: int(content, 16),
    "t": lambda content, depth: tuple(_parts(content, depth)),
    "d": _pairs,
    "s": lambda content, depth: set(_parts(content, depth)),
    "f": lambda content, depth: frozenset(_parts(content, depth)),
    "b": lambda content, depth: bytes.fromhex(content),
    "a": lambda content, depth: bytearray.fromhex(content),
    "c": lambda content, depth: complex(float(content[0]), float(content[1])),
    "r": lambda content, depth: range(*_parts(content, depth)),
    "y": lambda content, depth: iter(_parts(content, depth)),
    "k": lambda content, depth: dict.fromkeys(_parts(content, depth)).keys(),
    "v": lambda content, depth: dict(enumerate(_parts(content, depth))).values(),
    "m": _items,
    "o": lambda content, depth: Opaque(str(content)[:100]),
}


_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # json.dumps makes a new one each time


def pack(tree: Any) -> bytes:
    """A frame: length and JSON."""
    text = _to_json(tree).encode("ascii")
    return HEADER.pack(len(text)) + text


def unpack(text: bytes | str) -> Any:
    """The tree of a frame's JSON.

    Raises:
        NotData: it is no JSON, or nested too deep for the parser.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotData(f"not JSON: {type(error).__name__}") from error


def send(descriptor: int, frame: bytes) -> None:
    """Writes a whole frame.

    Raises:
        NotData: the other side is gone.
    """
    view = memoryview(frame)
    try:
        written = os.write(descriptor, view)
        while written < len(view):
            written += os.write(descriptor, view[written:])
    except OSError as error:
        raise NotData("the other side is gone", gone=True) from error


def receive(descriptor: int, limit: int) -> bytes:
    """Reads one frame's JSON of at most `limit` bytes.

    Raises:
        NotData: it is larger, or the other side is gone.
    """
    try:
        data = os.read(descriptor, READ)
        while 0 < len(data) < HEADER.size:
            more = os.read(descriptor, READ)
            data = data + more if more else b""
        if not data:
            raise NotData("the other side is gone", gone=True)
        (length,) = HEADER.unpack_from(data)
        if length > limit:
            raise NotData(f"{length:,} bytes where {limit:,} are allowed")
        data = data[HEADER.size :]
        if len(data) < length:
            parts, missing = [data], length - len(data)
            while missing > 0:
                more = os.read(descriptor, min(missing, 1 << 20))
                if not more:
                    raise NotData("the other side is gone", gone=True)
                parts.append(more)
                missing -= len(more)
            data = b"".join(parts)
    except OSError as error:
        raise NotData("the other side is gone", gone=True) from error
    if len(data) > length:
        raise NotData("more than one answer")
    return data
