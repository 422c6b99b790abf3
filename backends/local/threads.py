"""Function tasks in an executor of the driver, as radical.asyncflow runs them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import cloudpickle

from ..pickling import dump_arguments

__all__ = ["submit_call"]


def submit_call(
    executor: Executor,
    name: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: contextvars.Context | None,
) -> asyncio.Future[Any]:
    """Run a function in an executor.

    Args:
        executor: of threads or of processes.
        name: of the task, for messages.
        function, args, kwargs: the call; the function may be async.
        context: in which it runs, where the executor has threads.

    Raises:
        SerializationError: an argument cannot be pickled for a process.
    """
    loop = asyncio.get_running_loop()
    if isinstance(executor, ProcessPoolExecutor):
        data = dump_arguments(name, (function, *args), kwargs)
        return loop.run_in_executor(executor, _call_pickled, data)
    return loop.run_in_executor(executor, (context or contextvars.Context()).run, _call, function, args, kwargs)


def _call_pickled(data: bytes) -> Any:
    (function, *args), kwargs = cloudpickle.loads(data)
    return _call(function, args, kwargs)


def _call(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    try:
        result = function(*args, **kwargs)
        return asyncio.run(result) if inspect.iscoroutine(result) else result
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        # No future can carry these, and SystemExit would end the worker or the host program.
        text = f"called sys.exit({_shown(error.code)})" if isinstance(error, SystemExit) else f"raised {_shown(error)}"
        raise RuntimeError(f"the function {text}") from error


def _shown(value: object) -> str:
    try:
        return repr(value)
    except BaseException:
        # It is of a user's class.
        return object.__repr__(value)
