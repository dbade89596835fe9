"""The sample's own process: runs a solution and answers calls of its functions. Nothing here is trusted.

In `split` mode it holds the solution and a channel over which it is called with plain data; the
tests, the verdict and the canonical solution are in other processes. In `inproc` mode, which is as
other harnesses do it, solution and tests share the interpreter, and the solution can forge a pass.

The process ends with `os._exit` or by the zygote's hand: nothing runs at its teardown.
"""

from __future__ import annotations

import os
import random
import sys
import types
from collections.abc import Mapping
from typing import Any

from quadriga.codegen.sandbox import wire

MESSAGE = 300
FILE = "<solution>"


def serve(channel: int, job: Mapping[str, Any], limit: int) -> None:
    """Runs the solution, says that it is ready, and answers calls until the channel closes.

    Args:
        channel: descriptor of a stream to the checker.
        job: `program`, its source; `names`, the functions that may be called.
        limit: bytes of an answer.
    """
    try:
        module = _load(job["program"])
        functions = {name: getattr(module, name) for name in job["names"] if hasattr(module, name)}
        missing = [name for name in job["names"] if name not in functions]
        answer = ["x", f"NameError: name {missing[0]!r} is not defined"] if missing else ["ready"]
    except BaseException as error:
        answer = describe(error)
    wire.send(channel, wire.pack(answer))
    while answer == ["ready"]:
        name, args, kwargs = wire.decode(wire.unpack(wire.receive(channel, 1 << 30)))
        try:
            frame = wire.pack(["v", wire.encode(functions[name](*args, **kwargs))])
            if len(frame) > limit:
                frame = wire.pack(["x", f"the answer has {len(frame):,} bytes where {limit:,} are allowed"])
        except BaseException as error:
            frame = wire.pack(describe(error))
        wire.send(channel, frame)


def check_here(channel: int, job: Mapping[str, Any]) -> None:
    """`inproc`: runs solution and tests as one program in one namespace, and reports the verdict."""
    verdict: list[Any] = ["passed"]
    try:
        _load(job["program"])
    except BaseException as error:
        verdict = describe(error)
    wire.send(channel, wire.pack(verdict))


def describe(error: BaseException) -> list[Any]:
    """`["e", type, the builtin exceptions that it is, message]`; the message bounded."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        message = str(error)[:MESSAGE]
    except BaseException as second:
        message = f"<no message: {type(second).__name__}>"
    return ["e", type(error).__name__[:100], kinds, message]


def _load(program: str) -> types.ModuleType:
    random.seed(0)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    exec(compile(program, FILE, "exec", dont_inherit=True), module.__dict__)
    return module


def read_job(descriptor: int) -> Any:
    """What a job's file holds; closes it."""
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    os.close(descriptor)
    return wire.unpack(b"".join(parts))
