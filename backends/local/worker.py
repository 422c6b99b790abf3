"""The process that runs function tasks, one after the other; started by `functions.py`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import pickle
import resource
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

from ..pickling import dump_value

__all__ = ["HEADER", "serve"]

# Length of a message in bytes; the pickled message follows.
HEADER = struct.Struct("!Q")


def serve(descriptor: int) -> None:
    """Run calls until the driver closes its end or dies.

    Args:
        descriptor: of a connected stream socket.
    """
    runner = _Runner()
    functions: dict[int, Callable[..., Any]] = {}
    connection = socket.socket(fileno=descriptor)
    calls = connection.makefile("rb")
    while (call := _read(calls)) is not None:
        message = pickle.dumps(_run(call, functions, runner), pickle.HIGHEST_PROTOCOL)
        try:
            connection.sendall(HEADER.pack(len(message)) + message)
        except OSError:
            # The driver is gone, and nobody is left to tell.
            return


def _read(stream: IO[bytes]) -> Any:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    body = stream.read(size)
    return pickle.loads(body) if len(body) == size else None


def _run(call: dict[str, Any], functions: dict[int, Callable[..., Any]], runner: _Runner) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    answer = _attempt(call, functions, runner)
    after = resource.getrusage(resource.RUSAGE_SELF)
    answer["cpu_time"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer["max_rss"] = after.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return answer


def _attempt(call: dict[str, Any], functions: dict[int, Callable[..., Any]], runner: _Runner) -> dict[str, Any]:
    try:
        place = _Place(call)
    except OSError as error:
        return {"sandbox_error": f"sandbox {call['sandbox']} cannot be used: {error.strerror}"}
    try:
        function = _function(call, functions)
        args, kwargs = pickle.loads(call["arguments"])
        result = runner.call(function, args, kwargs, _context(call.get("context")))
        # What was printed belongs to the result: where it cannot be written, the call has failed.
        place.flush()
    except SystemExit as error:
        return {"exit": error.code if isinstance(error.code, int) else int(error.code is not None)}
    except BaseException as error:
        return _failed(error)
    finally:
        place.leave()
    try:
        return {"result": dump_value(result)}
    except Exception as error:
        return {"unpicklable": f"its result, a {type(result).__name__}, cannot be pickled: {error}"}


def _function(call: dict[str, Any], functions: dict[int, Callable[..., Any]]) -> Callable[..., Any]:
    number = call["number"]
    if number in functions:
        return functions[number]
    function: Callable[..., Any] = pickle.loads(call["function"])
    if number:
        functions[number] = function
    return function


def _context(carried: list[tuple[bytes, bytes]] | None) -> contextvars.Context:
    context = contextvars.Context()
    for variable, value in carried or ():
        context.run(pickle.loads(variable).set, pickle.loads(value))
    return context


def _failed(error: BaseException) -> dict[str, Any]:
    # The first frames are this module's and tell the user nothing.
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, asyncio.runners.__file__):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    answer: dict[str, Any] = {"traceback": text, "text": f"{type(error).__name__}: {error}"}
    if isinstance(error, MemoryError):
        answer["memory"] = True
    if isinstance(error, Exception):
        try:
            data = dump_value(error)
            pickle.loads(data)
            answer["exception"] = data
        except Exception:
            # The text says what the object cannot.
            pass
    return answer


class _Place:
    """Directory, output files and environment of one call."""

    def __init__(self, call: dict[str, Any]) -> None:
        self._environment = {name: os.environ.get(name) for name in call["environment"]}
        self._saved = [os.dup(1), os.dup(2)]
        try:
            os.mkdir(call["sandbox"], 0o700)
            os.chdir(call["cwd"] or call["sandbox"])
            for descriptor, ending in ((1, "out"), (2, "err")):
                path = f"{call['sandbox']}/{call['uid']}.{ending}"
                opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
                os.dup2(opened, descriptor)
                os.close(opened)
        except OSError:
            self.leave()
            raise
        os.environ.update(call["environment"])

    @staticmethod
    def flush() -> None:
        sys.stdout.flush()
        sys.stderr.flush()

    def leave(self) -> None:
        try:
            self.flush()
        except (OSError, ValueError):
            pass
        for descriptor, saved in zip((1, 2), self._saved, strict=True):
            os.dup2(saved, descriptor)
            os.close(saved)
        os.chdir("/")
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Runner:
    """Calls functions, async ones on a loop that is kept from call to call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: contextvars.Context
    ) -> Any:
        result = context.run(function, *args, **kwargs)
        if not inspect.iscoroutine(result):
            return result
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        try:
            return context.run(self._loop.run_until_complete, result)
        finally:
            self._end_leftovers(self._loop)

    @staticmethod
    def _end_leftovers(loop: asyncio.AbstractEventLoop) -> None:
        leftovers = asyncio.all_tasks(loop)
        for task in leftovers:
            task.cancel()
        if leftovers:
            loop.run_until_complete(asyncio.gather(*leftovers, return_exceptions=True))
