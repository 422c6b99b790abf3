"""A warm process that forks one process for each function call, so that none sees what another has changed.

Started by `functions.py`. It has one thread and runs no code of the script, but for calls that cannot reach its state
(see `plain_calls.py`). What a call leaves running ends with it.
"""

from __future__ import annotations

import inspect
import io
import os
import pickle
import resource
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from ..calling import described, failed, left
from ..pickling import dump_value
from . import descendants, forked_process
from .captures import Captures
from .installed_modules import are_harmless, own_environment
from .worker import ANSWER, answer_path, calls_from, leave_answer

__all__ = ["serve"]

# Seconds in which a process that cannot be forked for want of something is tried again, and between two tries.
_PATIENCE, _PAUSE = 5.0, 0.1

# Milliseconds between two looks at a process where the kernel has no pidfd.
_POLL = 10

# Bytes that are read at once: several calls; and of one answer.
_BUFFER, _CHUNK = 1 << 16, 1 << 20

_USED_NOTHING: dict[str, Any] = {"max_rss": 0, "cpu_time": 0.0}

# Calls that have imported an installed module until it is imported for all.
_OFTEN = 2

# Bytes of a call that is given to a process which waits; one that is forked for a larger call has it already.
_SMALL = 1 << 16

# Bytes by which a call may raise the peak of this process: beyond, the next ones would be charged with it.
_GROWTH = 1 << 24

# What a function may send to the whole group, which is its own business; SIGTERM comes from the driver, too.
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def serve(descriptor: int, tokens: int) -> None:
    """Run calls until the driver closes its end or dies.

    Args:
        descriptor: of a connected stream socket.
        tokens: of a pipe that does not block.
    """
    for inherited in (descriptor, tokens):
        os.set_inheritable(inherited, False)
    server = _ForkServer(socket.socket(fileno=descriptor), tokens)
    forked_process.warm(())
    server.serve()


class _Child(NamedTuple):
    """A process of a call, its two pipes, and how often the captures had been opened when it was forked."""

    pid: int
    answer: int
    feed: int
    captures: int


class _ForkServer:
    def __init__(self, connection: socket.socket, tokens: int) -> None:
        self._connection, self._tokens = connection, tokens
        self._calls = io.BufferedReader(socket.SocketIO(connection, "r"), _BUFFER)
        self._captures = Captures()
        self._functions: dict[int, bytes] = {}
        self._plain: dict[int, Callable[..., Any]] = {}
        self._pid, self._child = os.getpid(), 0
        self._retire = False
        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _rss_unit()
        self._descendants = descendants.adopt()
        self._spare: _Child | None = None
        self._environment: dict[str, str] | None = None
        self._wishes_of: dict[str, str] = {}
        self._wishes: Counter[str] = Counter()

    def serve(self) -> None:
        """Answer each call that the driver has not taken back."""
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)
        for position, call in calls_from(self._calls, self._tokens):
            number = call["number"]
            if number and call["function"]:
                self._functions[number] = call["function"]
            answer = self._answer(call)
            answer["kept"], answer["retire"] = number, self._retire
            imported, installed = answer.pop("imported", ()), answer.pop("installed", ())
            message = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
            try:
                # Before the next token is taken: so the driver knows that the answer is there when the token is gone.
                self._connection.sendall(ANSWER.pack(position, len(message)) + message)
            except OSError:
                # The driver is gone; one that resumes its session may want to know.
                if "again" not in answer:
                    leave_answer(call["sandbox"], message)
                return
            if self._retire:
                return
            if imported:
                forked_process.warm(imported)
            if installed:
                self._keep(installed, own_environment(call["environment"]))
            if self._spare is not None and (imported or installed):
                # It has none of these modules.
                os.close(self._spare.feed)
                _drop(self._spare)
                self._prepare()

    def _keep(self, names: Sequence[str], environment: dict[str, str]) -> None:
        """Import what calls have imported again and again, if that does no harm."""
        if environment != self._wishes_of:
            self._wishes_of, self._wishes = environment, Counter()
        self._wishes.update(names)
        often = [name for name in names if self._wishes[name] == _OFTEN]
        if often and are_harmless(often, environment):
            forked_process.keep(often, environment)
            self._environment = environment

    def _end(self, *_: object) -> None:
        """End at the request of the driver, but not before the call, which got it too and may take its time."""
        self._retire = True
        if not self._child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif os.getpgid(self._child) != self._pid:
            # It has left the group, and so did not get it.
            os.kill(self._child, signal.SIGTERM)

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        if self._environment not in (None, own_environment(call["environment"])) and not call["plain"]:
            # The modules that are here have seen another environment.
            self._retire = True
            return {"again": True, **_USED_NOTHING}
        try:
            self._captures.open(call["session"], call["mark"])
            if call["plain"]:
                os.mkdir(call["sandbox"], 0o700)
        except OSError as error:
            return {"sandbox_error": f"sandbox {call['sandbox']} cannot be used: {error.strerror}", **_USED_NOTHING}
        answer = self._run_here(call) if call["plain"] else self._run_forked(call)
        try:
            self._captures.hand_over(call["sandbox"], call["uid"])
        except OSError as error:
            self._retire = True
            if "result" in answer:
                # What was printed belongs to the result: where it cannot be kept, the call has failed.
                del answer["result"]
                answer |= failed(error, __file__)
        plan = call.get("plan")
        if plan is not None and plan.deliveries and "result" in answer:
            delivered = self._run_forked({**call, "deliver": True})
            if "result" not in delivered:
                return {**delivered, "max_rss": answer["max_rss"], "cpu_time": answer["cpu_time"]}
        return answer

    def _run_here(self, call: dict[str, Any]) -> dict[str, Any]:
        before = time.process_time()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        answer = self._plain_answer(call)
        signal.signal(signal.SIGTERM, self._end)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _rss_unit()
        if peak > self._peak + _GROWTH:
            self._retire = True
        if "traceback" in answer:
            # As Python does when a script raises.
            os.write(2, answer["traceback"].encode(errors="backslashreplace"))
        return {**answer, "cpu_time": max(0.0, time.process_time() - before), "max_rss": peak}

    def _plain_answer(self, call: dict[str, Any]) -> dict[str, Any]:
        number, modules = call["number"], len(sys.modules)
        try:
            function = self._plain.get(number)
            if function is None:
                function = self._plain[number] = pickle.loads(self._functions[number])
            args, kwargs = pickle.loads(call["arguments"])
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = _run_to_its_end(result)
        except SystemExit as error:
            return left(error)
        except BaseException as error:
            return failed(error, __file__)
        finally:
            self._retire = self._retire or len(sys.modules) != modules
        try:
            return {"result": dump_value(result)}
        except BaseException as error:
            return {"unpicklable": f"its result, a {type(result).__name__}, cannot be pickled: {described(error)}"}

    def _run_forked(self, call: dict[str, Any]) -> dict[str, Any]:
        function = self._functions.get(call["number"], call["function"])
        call = {**call, "function": function}
        try:
            child = self._spare_for(call) or self._fork_for(call)
        except OSError as error:
            return {"sandbox_error": f"no process can be forked for the call: {error.strerror}", **_USED_NOTHING}
        self._child = child.pid
        if self._retire:
            # The request to end came too early for it.
            os.kill(child.pid, signal.SIGTERM)
        else:
            # While it runs there is time to fork the process of the next call.
            self._prepare()
        try:
            data = _read_until_end(child.answer, child.pid)
        finally:
            os.close(child.answer)
        return self._reap(child.pid, data or _left_in(call["sandbox"]))

    def _prepare(self) -> None:
        try:
            self._spare = self._fork_for(None)
        except OSError:
            # There may be room when it comes.
            self._spare = None

    def _spare_for(self, call: dict[str, Any]) -> _Child | None:
        """Give a call to the process that waits for one; None if there is none, or it is of no use."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        if spare.captures != self._captures.opened:
            call = {**call, "captures": self._captures.paths}
        data = pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
        fits = len(data) <= _SMALL and not _has_ended(spare.pid)
        try:
            with open(spare.feed, "wb", buffering=0) as feed:
                if fits and feed.write(data) == len(data):
                    return spare
        except BrokenPipeError:
            # It was killed.
            pass
        _drop(spare)
        return None

    def _fork_for(self, call: dict[str, Any] | None) -> _Child:
        """Fork a process for a call, or for one that it gets later."""
        pipes = [os.pipe(), os.pipe()]
        (answer, theirs), (waiting, feed) = pipes
        try:
            pid = self._fork()
        except OSError:
            for descriptor in (answer, theirs, waiting, feed):
                os.close(descriptor)
            raise
        if pid == 0:
            os.close(answer)
            os.close(feed)
            forked_process.begin(self._pid, self._connection, self._tokens, _IGNORED)
            forked_process.run(call, waiting, theirs)
        os.close(theirs)
        os.close(waiting)
        if call is not None:
            os.close(feed)
        return _Child(pid, answer, feed, self._captures.opened)

    def _fork(self) -> int:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return os.fork()
            except OSError:
                if self._retire or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)

    def _reap(self, pid: int, data: bytes | bytearray) -> dict[str, Any]:
        _, status, used = os.wait4(pid, 0)
        self._child = 0
        if self._descendants and not descendants.end_all(self._spare.pid if self._spare is not None else 0):
            self._retire = True
        code = os.waitstatus_to_exitcode(status)
        answer: dict[str, Any] = pickle.loads(data) if data else {}
        if not data or ("result" in answer and code != 0):
            # Neither is a result what a process returned that then failed, such as in a thread's last words.
            answer = {"ended": code, "returned": "result" in answer}
        answer["cpu_time"] = used.ru_utime + used.ru_stime
        answer["max_rss"] = used.ru_maxrss * _rss_unit()
        return answer


def _drop(spare: _Child) -> None:
    os.close(spare.answer)
    os.kill(spare.pid, signal.SIGKILL)
    os.waitpid(spare.pid, 0)


def _read_until_end(pipe: int, pid: int) -> bytearray:
    """Read what a process writes into a pipe until it has ended, whoever else has the other end."""
    data = bytearray()
    os.set_blocking(pipe, False)
    try:
        ended = os.pidfd_open(pid)
    except (AttributeError, OSError):
        ended = -1
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if ended >= 0:
        poll.register(ended, select.POLLIN)
    reading = True
    try:
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(None if ended >= 0 else _POLL)]
            # Before the last look into the pipe.
            over = ended in ready if ended >= 0 else not reading or _has_ended(pid)
            if reading and not _drain(pipe, data):
                reading = False
                poll.unregister(pipe)
            if over:
                return data
    finally:
        if ended >= 0:
            os.close(ended)


def _has_ended(pid: int) -> bool:
    if not hasattr(os, "waitid"):
        # On macOS nobody can look without waiting for it.
        return False
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _drain(pipe: int, data: bytearray) -> bool:
    """Read what there is; False at the end."""
    try:
        while chunk := os.read(pipe, _CHUNK):
            data += chunk
    except BlockingIOError:
        return True
    return False


def _left_in(sandbox: str) -> bytes:
    path = answer_path(sandbox)
    try:
        with open(path, "rb") as stream:
            data = stream.read()
        os.unlink(path)
    except OSError:
        return b""
    return data


def _run_to_its_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a coroutine that had nothing to wait for waits")


def _rss_unit() -> int:
    return 1 if sys.platform == "darwin" else 1024
