"""The process that runs function tasks, one after the other, and what it has in common with `fork_server.py`."""

from __future__ import annotations

import io
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from asyncflow_hpc.data import BOOKKEEPING

from ..calling import Runner, described, end_child, failed, left, load_context
from ..pickling import dump_value
from .captures import Captures

if TYPE_CHECKING:
    from ..staging import Plan

__all__ = [
    "ANSWER", "ANSWER_FILE", "MESSAGE", "TOKEN",
    "answer_path", "calls_from", "leave_answer", "serve", "stage_in", "stage_out",
]  # fmt: skip

# Place of a call, number of its function, lengths in bytes of the pickled call and the pickled function that follow.
MESSAGE = struct.Struct("=QQQQ")
# Place of a call; who takes it from the pipe has the call.
TOKEN = struct.Struct("=Q")
# Place of a call, length in bytes of the pickled answer that follows.
ANSWER = struct.Struct("=QQ")

# Bytes that are read at once: several calls.
_BUFFER = 1 << 16

ANSWER_FILE = "answer.pkl"
"""In the bookkeeping of a call's sandbox: its answer, where there was no driver to take it."""


def serve(descriptor: int, tokens: int) -> None:
    """Run calls until the driver closes its end or dies.

    Args:
        descriptor: of a connected stream socket.
        tokens: of a pipe that does not block.
    """
    for inherited in (descriptor, tokens):
        # Programs that a function starts have no use for them.
        os.set_inheritable(inherited, False)
    runner, place = Runner(), _Place()
    functions: dict[int, Callable[..., Any]] = {}
    connection = socket.socket(fileno=descriptor)
    for position, call in calls_from(io.BufferedReader(socket.SocketIO(connection, "r"), _BUFFER), tokens):
        answer = _run(call, place, functions, runner)
        answer["kept"] = call["number"] if call["number"] in functions else 0
        answer["retire"] = place.spoiled or runner.stuck
        message = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        try:
            # Before the next token is taken: so the driver knows that the answer is there when the token is gone.
            connection.sendall(ANSWER.pack(position, len(message)) + message)
        except OSError:
            # The driver is gone; one that resumes its session may want to know.
            leave_answer(call["sandbox"], message)
            return
        if answer["retire"]:
            return


def answer_path(sandbox: str) -> str:
    """Return where an answer is left that nobody could take."""
    return f"{sandbox}/{BOOKKEEPING}/{ANSWER_FILE}"


def leave_answer(sandbox: str, message: bytes) -> None:
    """Leave an answer in its sandbox, where no driver is there to take it."""
    path = answer_path(sandbox)
    with suppress(OSError):
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with open(f"{path}.part", "wb") as stream:
            stream.write(message)
        os.rename(stream.name, path)


def calls_from(stream: IO[bytes], tokens: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each call, with its place, that the driver has not taken back."""
    taken = 0
    while True:
        header = stream.read(MESSAGE.size)
        if len(header) < MESSAGE.size:
            return
        position, number, size, function_size = MESSAGE.unpack(header)
        body, function = stream.read(size), stream.read(function_size)
        if len(body) < size or len(function) < function_size:
            return
        if position > taken:
            try:
                token = os.read(tokens, TOKEN.size)
            except BlockingIOError:
                # It was there before the call was sent.
                continue
            except OSError:
                return
            if len(token) < TOKEN.size:
                return
            (taken,) = TOKEN.unpack(token)
        if position == taken:
            yield position, {**pickle.loads(body), "number": number, "function": function}


def _run(
    call: dict[str, Any], place: _Place, functions: dict[int, Callable[..., Any]], runner: Runner
) -> dict[str, Any]:
    before = time.process_time()
    answer = _attempt(call, place, functions, runner)
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer["cpu_time"] = max(0.0, used.ru_utime + used.ru_stime - before)
    answer["max_rss"] = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return answer


def _attempt(
    call: dict[str, Any], place: _Place, functions: dict[int, Callable[..., Any]], runner: Runner
) -> dict[str, Any]:
    try:
        place.enter(call)
    except OSError as error:
        return {"sandbox_error": f"sandbox {call['sandbox']} cannot be used: {error.strerror}"}
    plan: Plan | None = call.get("plan")
    failure = stage_in(plan, call) if plan is not None else None
    answer = _answer(call, functions, runner) if failure is None else failure
    if os.getpid() != place.pid:
        # The function forked, and this is the child come back: the next call is not its to run.
        end_child(answer)
    try:
        place.leave(call)
    except (OSError, ValueError) as error:
        place.spoiled = True
        # What was printed belongs to the result: where it cannot be kept, the call has failed.
        return answer if "result" not in answer else failed(error, __file__)
    if plan is not None and "result" in answer:
        return stage_out(plan, call) or answer
    return answer


def stage_in(plan: Plan, call: dict[str, Any]) -> dict[str, Any] | None:
    """Bring a function its files; returns what went wrong."""
    # Most calls have none, and need not wait for these imports.
    from asyncflow_hpc.errors import StagingError

    from ..staging.apply import perform, survey

    try:
        found = survey(plan)
        assert found is not None
        perform(found, call["sandbox"])
    except StagingError as error:
        return {"staging_error": str(error), "exit_code": None}
    return None


def stage_out(plan: Plan, call: dict[str, Any]) -> dict[str, Any] | None:
    """Take a function's files to their final places; returns what went wrong."""
    from asyncflow_hpc.errors import StagingError

    from ..staging.apply import deliver, missing

    directory = call["cwd"] or call["sandbox"]
    if missing(plan.promised, directory):
        # The driver looks too, and says so.
        return None
    try:
        deliver(plan.deliveries, directory, f"{call['uid']}.{call['mark'][:8]}")
    except StagingError as error:
        return {"staging_error": str(error), "exit_code": 0}
    return None


def _answer(call: dict[str, Any], functions: dict[int, Callable[..., Any]], runner: Runner) -> dict[str, Any]:
    try:
        function = _function(call, functions)
        args, kwargs = pickle.loads(call["arguments"])
        result = runner.call(function, args, kwargs, load_context(call.get("context")))
    except SystemExit as error:
        return left(error)
    except BaseException as error:
        return failed(error, __file__)
    try:
        return {"result": dump_value(result)}
    except BaseException as error:
        return {"unpicklable": f"its result, a {type(result).__name__}, cannot be pickled: {described(error)}"}


def _function(call: dict[str, Any], functions: dict[int, Callable[..., Any]]) -> Callable[..., Any]:
    number = call["number"]
    if number in functions:
        return functions[number]
    function: Callable[..., Any] = pickle.loads(call["function"])
    if number:
        functions[number] = function
    return function


class _Place:
    """Directory, output and environment of the calls, kept from one to the next as far as they agree."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.spoiled = False
        self._streams = (sys.stdout, sys.stderr)
        self._captures = Captures()
        self._environment: dict[str, str] = {}
        self._before: dict[str, str | None] = {}

    def enter(self, call: dict[str, Any]) -> None:
        """Get ready for a call.

        Raises:
            OSError: its sandbox cannot be made, or its output cannot be kept.
        """
        self._captures.open(call["session"], call["mark"])
        os.mkdir(call["sandbox"], 0o700)
        os.chdir(call["cwd"] or call["sandbox"])
        self._set_environment(call["environment"])

    def _set_environment(self, environment: dict[str, str]) -> None:
        for name in self._environment.keys() - environment.keys():
            before = self._before.pop(name)
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        for name, value in environment.items():
            if name not in self._before:
                self._before[name] = os.environ.get(name)
            if os.environ.get(name) != value:
                os.environ[name] = value
        self._environment = environment

    def leave(self, call: dict[str, Any]) -> None:
        """Hand over what a call has printed.

        Raises:
            OSError: it could not be written.
        """
        # What a function has bent here would hit the next one, so the worker goes.
        self.spoiled = (sys.stdout, sys.stderr) != self._streams or signal.getitimer(signal.ITIMER_REAL)[0] > 0
        for stream in self._streams:
            stream.flush()
        if not self._captures.hand_over(call["sandbox"], call["uid"]):
            self.spoiled = True
