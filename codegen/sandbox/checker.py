"""The trusted side of `split` mode: runs a problem's tests, with calls over a channel for `candidate`.

One process a problem, which never runs a line of any solution. It compiles the tests once and runs
them afresh for each sample: a namespace of its own, the same random seed. What a sample answers is
plain data (`wire.py`); its exceptions are raised here as the builtin exceptions that they are. A
verdict is `passed` only if the tests came to their end and every answer arrived.

Arguments are copied to the sample: what it does to them is not seen by the tests.
"""

from __future__ import annotations

import array
import builtins
import io
import os
import random
import socket
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

from quadriga.codegen.sandbox import sample, wire

FILE = "<test>"
STUBS = ("\n    pass\n", "\n", "\n  pass\n", "\n\tpass\n")


# Raised through `map` or `iter` in a test, these would end its loop and not the test.
ENDS_LOOPS = (StopIteration, StopAsyncIteration)


class Gone(BaseException):
    """The sample cannot be called any more; no test may catch this."""


class Calls:
    """Calls of a sample's functions.

    Attributes:
        made: how many there were.
        gone: the sample has ended or closed its channel.
        refused: why an answer was not plain data, if one was not.
        opaque: name of the type of the first value that was not plain data, if there was one.
        raised: the last exception that the sample raised, with its own type's name and message.
    """

    def __init__(self, channel: int, limit: int) -> None:
        self._channel, self._limit = channel, limit
        self.made = 0
        self.gone = False
        self.refused: str | None = None
        self.opaque: str | None = None
        self.raised: tuple[BaseException, str, str] | None = None

    def function(self, name: str) -> Callable[..., Any]:
        """Stands for the sample's function `name`."""

        def candidate(*args: Any, **kwargs: Any) -> Any:
            return self._call(wire.pack(wire.encode((name, args, kwargs))))

        candidate.__name__ = candidate.__qualname__ = name
        return candidate

    def ready(self) -> None:
        """Waits until the solution has been run."""
        self._answer()

    def _call(self, frame: bytes) -> Any:
        if self.gone or self.refused:
            raise Gone
        self.made += 1
        try:
            wire.send(self._channel, frame)
        except wire.NotData:
            self.gone = True
            raise Gone from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = wire.unpack(wire.receive(self._channel, self._limit))
            if type(answer) is not list or not answer:
                raise wire.NotData("not an answer")
            if answer[0] == "v" and len(answer) == 2:
                value = wire.decode(answer[1])
                if type(value) is wire.Opaque and self.opaque is None:
                    self.opaque = value.type_name
                return value
            if answer == ["ready"]:
                return None
            if answer[0] == "e" and len(answer) == 4:
                error = self._exception(*answer[1:])
            else:
                raise wire.NotData(str(answer[-1]))
        except wire.NotData as problem:
            self.gone = self.gone or problem.gone
            self.refused = None if problem.gone else str(problem)[: sample.MESSAGE]
            raise Gone from None
        raise error

    def _exception(self, type_name: Any, kinds: Any, message: Any) -> BaseException:
        type_name, message = str(type_name)[:100], str(message)[: sample.MESSAGE]
        error: BaseException = RuntimeError(message)
        for name in kinds if isinstance(kinds, list) else ():
            kind = getattr(builtins, name, None) if isinstance(name, str) else None
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, ENDS_LOOPS):
                try:
                    error = kind(message)
                except TypeError:
                    continue  # one that wants other arguments: the next more general one
                break
        self.raised = (error, type_name, message)
        return error


class Tests:
    """A problem's tests, compiled.

    Raises:
        ValueError: they cannot be compiled.
    """

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.names: list[str] = problem["names"]
        self._lines = list(io.StringIO(problem["tests"], newline=None))  # as the compiler numbers them
        try:
            self._setup = [self._compile_setup(problem["prompt"]), compile(problem["setup"], "<setup>", "exec")]
            self._tests = compile(problem["tests"], FILE, "exec")
            self._final = compile(problem["final"], "<final>", "exec")
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"the tests cannot be compiled: {error}") from error

    @staticmethod
    def _compile_setup(prompt: str) -> CodeType:
        """The prompt without a solution: its imports and helper functions, which tests may use."""
        for stub in STUBS:
            try:
                return compile(prompt + stub, "<prompt>", "exec")
            except SyntaxError:
                continue
        return compile("", "<prompt>", "exec")

    def judge(self, channel: int, limit: int) -> list[str]:
        """`[verdict, detail]` of the sample behind `channel`, or `["gone"]` if it ended before its verdict."""
        calls = Calls(channel, limit)
        failure: BaseException | None = None
        try:
            calls.ready()
            self._run(calls)
        except BaseException as error:  # a test may raise anything
            failure = error
        if calls.gone:
            return ["gone"]
        if calls.refused:
            return ["failed", calls.refused]
        if failure is None:
            return ["passed", ""]
        if isinstance(failure, _Broken):
            return ["infrastructure_error", f"the problem's tests fail by themselves: {failure}"]
        if calls.raised is not None and failure is calls.raised[0]:
            _, type_name, message = calls.raised
            return [
                "oom" if isinstance(failure, MemoryError) else "failed",
                f"{type_name}: {message}".removesuffix(": "),
            ]
        return ["oom" if isinstance(failure, MemoryError) else "failed", self._explain(failure, calls.opaque)]

    def _run(self, calls: Calls) -> None:
        names: dict[str, Any] = {"__name__": "checker"}
        random.seed(0)
        try:
            for code in self._setup:
                exec(code, names)
            names.update({name: calls.function(name) for name in self.names})
            exec(self._tests, names)
        except Exception as error:
            if calls.made:
                raise  # tests that call the solution while they are defined: what it answered may be the cause
            raise _Broken(f"{type(error).__name__}: {error}"[: sample.MESSAGE]) from error
        random.seed(0)
        exec(self._final, names)

    def _explain(self, error: BaseException, opaque: str | None) -> str:
        """Type, message, and of a bare assertion its source."""
        message = sample.describe(error)[3]
        if not message and isinstance(error, AssertionError):
            trace, line = error.__traceback__, 0
            while trace is not None:
                if trace.tb_frame.f_code.co_filename in (FILE, "<final>"):
                    line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == FILE else 0
                trace = trace.tb_next
            message = self._lines[line - 1].strip()[: sample.MESSAGE] if 0 < line <= len(self._lines) else ""
        if opaque is not None:
            message += f" (the solution returned a {opaque}, which is not plain data)"
        return f"{type(error).__name__}: {message}".removesuffix(": ")


class _Broken(Exception):
    """The tests could not be set up."""


def work(control: socket.socket, problem: Mapping[str, Any], limit: int) -> None:
    """Judges one sample after the other, as channels arrive, until the zygote is gone."""
    tests: Tests | None = None
    complaint = ""
    try:
        tests = Tests(problem)
    except ValueError as error:
        complaint = str(error)
    while True:
        message, ancillary, _, _ = control.recvmsg(64, 64)
        if not message:
            return
        channel = array.array("i", ancillary[0][2])[0]
        verdict = ["infrastructure_error", complaint] if tests is None else tests.judge(channel, limit)
        os.close(channel)
        os.write(control.fileno(), sample.report(*verdict))  # send() is a call that the filter refuses
