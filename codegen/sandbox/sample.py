"""The sample's own process: runs a solution and answers calls of its functions. Nothing here is trusted.

In `split` mode it holds the solution and a channel over which it is called with plain data; the
tests, the verdict and the canonical solution are in other processes. In `inproc` mode, which is as
other harnesses do it, solution and tests share the interpreter, and the solution can forge a pass.

The process ends with `os._exit` or by the zygote's hand: nothing runs at its teardown.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Sequence
from typing import Any

from quadriga.codegen.sandbox import wire

MESSAGE = 300
FILE = "<solution>"
READY, PASSED = wire.pack(["ready"]), b"passed\n"


def serve(channel: int, program: str, names: Sequence[str], limit: int) -> None:
    """Runs the solution, says that it is ready, and answers calls until the channel closes.

    Args:
        channel: descriptor of a stream to the checker.
        program: its source.
        names: the functions that may be called.
        limit: bytes of an answer.
    """
    try:
        module = _load(program)
        functions = {name: getattr(module, name) for name in names if hasattr(module, name)}
        missing = [name for name in names if name not in functions]
        first = wire.pack(["x", f"NameError: name {missing[0]!r} is not defined"]) if missing else READY
    except BaseException as error:
        first = wire.pack(describe(error))
    wire.send(channel, first)
    while first is READY:
        name, args, kwargs = wire.decode(wire.unpack(wire.receive(channel, 1 << 30)))
        try:
            frame = wire.pack(["v", wire.encode(functions[name](*args, **kwargs))])
            if len(frame) > limit:
                frame = wire.pack(["x", f"the answer has {len(frame):,} bytes where {limit:,} are allowed"])
        except BaseException as error:
            frame = wire.pack(describe(error))
        wire.send(channel, frame)


def check_here(channel: int, program: str) -> None:
    """`inproc`: runs solution and tests as one program in one namespace, and reports the verdict."""
    verdict = PASSED
    try:
        _load(program)
    except BaseException as error:
        _, name, _, message = describe(error)
        kind = "oom" if isinstance(error, MemoryError) else "failed"
        verdict = report(kind, f"{name}: {message}".removesuffix(": "))
    os.write(channel, verdict)


def report(kind: str, detail: str = "") -> bytes:
    """A verdict as it goes to the zygote, which does not look into the detail."""
    return f"{kind}\n{detail}".encode("utf-8", "backslashreplace")


def describe(error: BaseException) -> list[Any]:
    """`["e", type, the builtin exceptions that it is, message]`; the message bounded."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        message = str(error)[:MESSAGE]
    except BaseException as second:
        message = f"<no message: {type(second).__name__}>"
    return ["e", type(error).__name__[:100], kinds, message]


def _load(program: str) -> types.ModuleType:
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    exec(compile(program, FILE, "exec", dont_inherit=True), module.__dict__)
    return module


def read_file(descriptor: int, size: int) -> str:
    """The text in a file of `size` bytes, from its start."""
    return os.pread(descriptor, size, 0).decode("utf-8", "surrogatepass")
