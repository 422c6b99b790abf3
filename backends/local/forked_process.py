"""The process of one function call, forked by `fork_server.py`: it begins and ends as a fresh interpreter does."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .. import pickling
from ..calling import Runner, attempt, described, end_child, failed, load_context
from . import descendants, installed_modules
from .installed_modules import installed, reseed
from .worker import leave_answer, stage_in, stage_out

__all__ = ["begin", "keep", "run", "warm"]

_STREAMS = (sys.stdout, sys.stderr)

_LIBRARY = os.path.dirname(os.__file__) + os.sep
# Importing them prints something, or takes hold of a terminal or display.
_NEVER_WARM = frozenset(
    {"antigravity", "idlelib", "readline", "rlcompleter", "this", "tkinter", "turtle", "turtledemo"}
)

# Calls with files need it.
_STAGING = f"{__package__.rpartition('.')[0]}.staging"

# Modules that were here when this process was forked, or that cannot be; see `warm`.
_known: set[str] = set()
_count = 0

_leave: Callable[[int], NoReturn] = os._exit


def warm(names: Iterable[str]) -> None:
    """Import, in the process that forks, modules of the standard library that a call has imported.

    No others: a module may do at its import what only the process of a call may, such as starting threads, reading the
    task's environment, or seeding a generator of random numbers.
    """
    # In their order: importing _asyncio before asyncio breaks both.
    for name in names:
        if not name.startswith("_") and name.partition(".")[0] not in _NEVER_WARM:
            with suppress(Exception):
                spec = importlib.util.find_spec(name)
                if spec is not None and (_of_the_library(spec.origin) or _is_ours(name)):
                    importlib.import_module(name)
    _know(names)
    gc.collect()
    gc.freeze()


def keep(names: Sequence[str], environment: Mapping[str, str]) -> None:
    """Import installed modules in the process that forks; see `installed_modules.py`."""
    global _leave
    _leave = installed_modules.keep(names, environment)
    _know(names)


def _know(names: Iterable[str]) -> None:
    global _count
    _known.update(names, sys.modules)
    _count = len(sys.modules)


def _new_modules() -> list[str]:
    # Most calls import none. Looking at all names would touch, and so copy, a hundred pages of memory.
    return [name for name in sys.modules if name not in _known] if len(sys.modules) != _count else []


def _is_ours(name: str) -> bool:
    return name.startswith(_STAGING)


def _of_the_library(origin: str | None) -> bool:
    if origin in ("built-in", "frozen"):
        return True
    return origin is not None and origin.startswith(_LIBRARY) and "-packages" not in origin


def begin(server: int, connection: socket.socket, tokens: int, ignored: Iterable[signal.Signals]) -> None:
    """Leave behind what is the server's alone.

    Args:
        server: its process id.
        connection: to the driver.
        tokens: of the server.
        ignored: signals that it ignores; it handles SIGTERM.
    """
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    descendants.die_with(server)
    # What is here now is no business of the call's collections, nor of its end.
    gc.freeze()
    os.close(connection.detach())
    os.close(tokens)
    pickling.forked()
    if _leave is not os._exit:
        reseed()


def run(call: dict[str, Any] | None, feed: int, pipe: int) -> NoReturn:
    """Run a call, or the delivery of its files, send its answer and end.

    Args:
        call: None where it comes later.
        feed: pipe from which it comes then.
        pipe: for the answer.
    """
    call = call or _awaited(feed)
    os.close(feed)
    for descriptor, path in call.get("captures", {}).items():
        # Those that were here when this process was forked are another call's now.
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    if "deliver" in call:
        _send(pipe, stage_out(call["plan"], call) or {"result": b""})
        os._exit(0)
    own, there = os.getpid(), _identity(pipe)
    answer = _attempt(call)
    if os.getpid() != own:
        # The function forked, and this is the child come back.
        end_child(answer)
    _say_why(answer)
    _flush(answer)
    if imported := _new_modules():
        answer["imported"] = [name for name in imported if name.partition(".")[0] in _LIBRARY_NAMES or _is_ours(name)]
        answer["installed"] = installed(imported)
    if _identity(pipe) == there:
        _send(pipe, answer)
    else:
        # The function has closed it.
        leave_answer(call["sandbox"], pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
    _end()


def _awaited(feed: int) -> dict[str, Any]:
    data = bytearray()
    while chunk := os.read(feed, 1 << 16):
        data += chunk
    if not data:
        # The server has no use for this process.
        os._exit(0)
    call: dict[str, Any] = pickle.loads(data)
    return call


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _attempt(call: dict[str, Any]) -> dict[str, Any]:
    try:
        os.mkdir(call["sandbox"], 0o700)
        os.chdir(call["cwd"] or call["sandbox"])
    except OSError as error:
        return {"sandbox_error": f"sandbox {call['sandbox']} cannot be used: {error.strerror}"}
    environment = call["environment"]
    for name, value in environment.items():
        os.environ[name] = value
    if "TZ" in environment:
        time.tzset()
    plan = call.get("plan")
    return (stage_in(plan, call) if plan is not None else None) or _answer(call)


def _answer(call: dict[str, Any]) -> dict[str, Any]:
    try:
        function = pickle.loads(call["function"])
        args, kwargs = pickle.loads(call["arguments"])
        context = load_context(call.get("context"))
    except BaseException as error:
        return failed(error, __file__)
    runner = Runner()
    answer = attempt(runner, function, args, kwargs, context)
    try:
        runner.close()
    except BaseException as error:
        return failed(error, __file__) if "result" in answer else answer
    if "result" in answer:
        result = answer["result"]
        try:
            return {"result": pickling.dump_value(result)}
        except BaseException as error:
            return {"unpicklable": f"its result, a {type(result).__name__}, cannot be pickled: {described(error)}"}
    return answer


def _say_why(answer: dict[str, Any]) -> None:
    if "text" in answer:
        # As Python does when a script raises, or calls sys.exit with a text.
        with suppress(OSError, ValueError):
            print(answer.get("traceback", answer["text"]).rstrip("\n"), file=_STREAMS[1], flush=True)


def _flush(answer: dict[str, Any]) -> None:
    """Write out what was printed; it belongs to a result, which without it is a failure."""
    for stream in _STREAMS:
        try:
            if not stream.closed:
                stream.flush()
        except (OSError, ValueError) as error:
            if answer.pop("result", None) is not None:
                answer.update(failed(error, __file__))


def _send(pipe: int, answer: dict[str, Any]) -> None:
    # Without a file object: here and below, what takes the least of Python touches, and so copies, the least memory.
    data = memoryview(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
    while data:
        data = data[os.write(pipe, data) :]
    os.close(pipe)


def _end() -> NoReturn:
    """End as an interpreter does.

    Threads and exit handlers come first. Taking down all modules takes ten times as long as a small call, so that is
    done only where something in them may care.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    gc.collect()
    if (sys.stdout, sys.stderr) != _STREAMS or _foreign_code() or _to_be_finalized():
        sys.exit(0)
    try:
        for stream in _STREAMS:
            stream.flush()
    except (OSError, ValueError):
        # As Python does.
        os._exit(120)
    _leave(0)


def _foreign_code() -> bool:
    """Tell whether C code that is not Python's own was loaded: it may have something to do when the process exits."""
    for name in _new_modules():
        if name == "ctypes":
            return True
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str) and not file.endswith((".py", ".pyc")) and not _of_the_library(file):
            return True
    return False


def _to_be_finalized() -> bool:
    """Tell whether the call has left an object, such as an open file, that does something when it goes."""
    return any(hasattr(kind, "__del__") for kind in set(map(type, gc.get_objects())))


_LIBRARY_NAMES = frozenset(sys.stdlib_module_names)
