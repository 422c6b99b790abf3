"""Calls of functions in a process made for them, and what came of them in a form that can travel."""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, NoReturn

from .pickling import dump_value

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Runner", "attempt", "described", "end_child", "failed", "left", "load_context"]

# Seconds that tasks, and then generators, left behind by an async function may take to end.
_LEFTOVERS = 1.0


class Runner:
    """Calls functions, async ones on a loop that is kept from call to call.

    Attributes:
        stuck: something that a call left behind did not end when it was asked to.
    """

    def __init__(self) -> None:
        self.stuck = False
        self._pid = os.getpid()
        self._loop: AbstractEventLoop | None = None

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Context
    ) -> Any:
        """Call a function within a context; raises what the function raises."""
        result = context.run(function, *args, **kwargs)
        if not inspect.iscoroutine(result):
            return result
        # Imported where it is needed: it is a third of what starting a process for one plain function costs.
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        try:
            return context.run(self._loop.run_until_complete, result)
        finally:
            self._end_leftovers(self._loop)

    def _end_leftovers(self, loop: AbstractEventLoop) -> None:
        import asyncio

        leftovers = asyncio.all_tasks(loop)
        for task in leftovers:
            task.cancel()
        if leftovers:
            _, pending = loop.run_until_complete(asyncio.wait(leftovers, timeout=_LEFTOVERS))
            self.stuck = bool(pending)

    def close(self) -> None:
        """Close async generators that were left open, and the loop."""
        loop, self._loop = self._loop, None
        # A forked child shares the selector: what it takes out there would be lost to its parent.
        if loop is None or loop.is_closed() or os.getpid() != self._pid:
            return
        import asyncio

        closing = loop.create_task(loop.shutdown_asyncgens())
        loop.run_until_complete(asyncio.wait([closing], timeout=_LEFTOVERS))
        self.stuck = self.stuck or not closing.done()
        asyncio.set_event_loop(None)
        loop.close()


def attempt(
    runner: Runner, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Context
) -> dict[str, Any]:
    """Call a function, whatever it does.

    Returns:
        {"result": value}; {"exit": code} after sys.exit, with "text" where that was called with one; or what `failed`
        makes of an exception.
    """
    try:
        return {"result": runner.call(function, args, kwargs, context)}
    except SystemExit as error:
        return left(error)
    except BaseException as error:
        return failed(error)


def left(error: SystemExit) -> dict[str, Any]:
    """Say with which exit code sys.exit was called, as "exit", and with which text, if any."""
    code = error.code
    if code is None:
        return {"exit": 0}
    if isinstance(code, int):
        # What is out of range Python takes for -1.
        return {"exit": int(code) if -(2**31) <= code < 2**31 else -1}
    try:
        return {"exit": 1, "text": str(code)}
    except Exception as error:
        return {"exit": 1, "text": described(error)}


def failed(error: BaseException, *runners: str) -> dict[str, Any]:
    """Describe an exception for another process.

    Args:
        runners: source files of what called the function; like this one they tell the user nothing.

    Returns:
        "text" and "traceback", "memory" if it is a MemoryError, and its pickle as "exception" where that can be read.
    """
    text = described(error)
    try:
        trace = "".join(traceback.format_exception(type(error), error, _of_the_user(error, runners)))
    except BaseException:
        # It is a user's class.
        trace = text
    answer: dict[str, Any] = {"traceback": trace, "text": text}
    if isinstance(error, MemoryError):
        answer["memory"] = True
    if isinstance(error, Exception):
        try:
            data = dump_value(error)
            pickle.loads(data)
            answer["exception"] = data
        except BaseException:
            # The text says what the object cannot.
            pass
    return answer


def described(error: BaseException) -> str:
    """Say in one line what an exception is, even if it cannot be made a text itself."""
    try:
        described = traceback.TracebackException(type(error), error, None, compact=True)
        # They would come last.
        described.__notes__ = None  # type: ignore[attr-defined]
        return list(described.format_exception_only())[-1].strip()
    except BaseException:
        return type.__repr__(type(error))


def _of_the_user(error: BaseException, runners: tuple[str, ...]) -> Any:
    # The first frames are those of this module and of the loop, and tell the user nothing.
    loop = getattr(sys.modules.get("asyncio.base_events"), "__file__", None)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, loop, *runners):
        trace = trace.tb_next
    return trace


def load_context(carried: Iterable[tuple[bytes, bytes]] | None) -> Context:
    """Make a context of what `pickling.dump_context` has taken from another."""
    context = Context()
    for variable, value in carried or ():
        context.run(pickle.loads(variable).set, pickle.loads(value))
    return context


def end_child(answer: dict[str, Any]) -> NoReturn:
    """End a child that the function forked and that came back from it: only its parent has a result to give."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(answer.get("exit", 0 if "result" in answer else 1))
