"""A worker process as the driver sees it: what it was sent, what of that it has begun, and what it answers."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .processes import MARK, Child, End
from .slots import Request
from .worker import ANSWER, MESSAGE, TOKEN

__all__ = ["Call", "Message", "WorkerProcess"]

# Bytes that are read at once: more than a socket holds by default.
_CHUNK = 1 << 18
# More than the tokens of one worker ever take.
_ALL_TOKENS = 4096


class Message(NamedTuple):
    """A pickled call.

    Attributes:
        body: all but the function.
        number: of the function; 0 where a worker must not keep it.
        function: left out where the worker has it.
    """

    body: bytes
    number: int
    function: bytes


class Call(ABC):
    """A call on its way through a worker.

    Attributes:
        request: what it occupies while it runs.
        worker: that it was sent to, until it is answered or comes back.
        place: its number in the order in which that worker gets its calls.
    """

    request: Request
    worker: WorkerProcess | None = None
    place = 0

    @abstractmethod
    def message(self) -> Message:
        """Return what the worker gets."""

    @abstractmethod
    def take_over(self, old: Call) -> None:
        """Take the room of the call before it, where it was sent ahead."""

    @abstractmethod
    def started(self, pid: int) -> None:
        """Take note that it runs."""

    @abstractmethod
    def answered(self, answer: dict[str, Any] | End) -> None:
        """Take the worker's answer, or the end of the worker that died over it."""

    @abstractmethod
    def never_began(self, end: End) -> None:
        """Take note that the worker died before it began the call."""


class WorkerProcess:
    """One worker, the socket to it, and the pipe of its tokens.

    Each call that is sent has a token in the pipe. The worker takes it when it begins the call; what the driver takes
    first has not begun and never will. The worker answers a call before it takes the next token.

    Args:
        mark: of the backend.
        server: module whose `serve` runs in it.
        on_answer: called with each answer to `call`.
        on_read: called when all that was read has been handled.
        on_end: called when the process has ended; answers may be left to `drain`.

    Raises:
        OSError: it cannot be started.

    Attributes:
        call, ahead: what it runs, and what it was sent beyond that.
        dead: it gets no more calls.
        proven: it has answered a call.
        barred: it gets none ahead until its next answer.
        since: how many calls had started anywhere when it last answered, or got calls ahead.
    """

    def __init__(
        self,
        mark: str,
        server: str,
        on_answer: Callable[[WorkerProcess, dict[str, Any]], None],
        on_read: Callable[[WorkerProcess], None],
        on_end: Callable[[WorkerProcess, End], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_answer, self._on_read, self._on_end = on_answer, on_read, on_end
        self.call: Call | None = None
        self.ahead: deque[Call] = deque()
        self.dead = self.proven = self.barred = False
        self.since = 0
        self._has: set[int] = set()
        self._places = 0
        self._unsent = bytearray()
        self._received = bytearray()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        try:
            # Open here at both ends: what a dead worker has left in it can still be read.
            self._their_tokens, self._tokens = os.pipe()
            try:
                self._child = self._start(mark, server, theirs.fileno())
            except OSError:
                self._close_tokens()
                raise
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.pid = self._child.pid
        self._loop.add_reader(self._socket, self._readable)

    def _start(self, mark: str, server: str, descriptor: int) -> Child:
        # The worker's end too, which shares this flag: a token is there before its call, or was taken back.
        os.set_blocking(self._their_tokens, False)
        os.set_blocking(self._tokens, False)
        return Child(
            _command(server, descriptor, self._their_tokens),
            lambda end: self._on_end(self, end),
            cwd="/",
            # What a function forks keeps this environment, and is found by it.
            env={**os.environb, MARK.encode(): mark.encode()},
            stdin=subprocess.DEVNULL,
            # No terminal, whatever the driver has: it would change how output is buffered.
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor, self._their_tokens],
            umask=-1,
        )

    @property
    def sending(self) -> bool:
        """Whether some of what it was sent is still here."""
        return bool(self._unsent)

    def send(self, calls: Sequence[Call]) -> bool:
        """Send calls; False if the worker is dead."""
        tokens: list[bytes] = []
        parts: list[bytes] = []
        for call in calls:
            self._places += 1
            call.worker, call.place = self, self._places
            body, number, function = call.message()
            if number in self._has:
                function = b""
            tokens.append(TOKEN.pack(self._places))
            parts += (MESSAGE.pack(self._places, number, len(body), len(function)), body, function)
        # Tokens first: a worker that finds none for a call in its hands knows that it was taken back.
        os.write(self._tokens, b"".join(tokens))
        data = b"".join(parts)
        if self._unsent:
            self._unsent += data
            return True
        return self._send(data)

    def _send(self, data: bytes | bytearray) -> bool:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.dead = True
            return False
        if sent < len(data):
            self._unsent = bytearray(memoryview(data)[sent:])
            self._loop.add_writer(self._socket, self._writable)
        return True

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            # Its end is on the way and settles its calls.
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def take_back(self) -> set[int]:
        """Take all tokens that the worker has not taken; returns the places of their calls."""
        try:
            data = os.read(self._their_tokens, _ALL_TOKENS)
        except BlockingIOError:
            return set()
        return {place for (place,) in TOKEN.iter_unpack(data)}

    def _readable(self) -> None:
        self._read()
        self._on_read(self)

    def drain(self) -> None:
        """Handle all answers that have come."""
        while self._read():
            pass

    def _read(self) -> bool:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket)
            return False
        self._received += data
        self._take_answers()
        return True

    def _take_answers(self) -> None:
        received, at = self._received, 0
        answers = []
        with memoryview(received) as view:
            while len(received) >= at + ANSWER.size:
                place, size = ANSWER.unpack_from(view, at)
                if len(received) < at + ANSWER.size + size:
                    break
                at += ANSWER.size + size
                with view[at - size : at] as data:
                    answers.append((place, pickle.loads(data)))
        del received[:at]
        for place, answer in answers:
            if self.call is None or place != self.call.place:
                # Somebody else writes on this socket; whatever it says, it is no answer.
                self.dead = True
                self._child.kill()
                return
            if answer["kept"]:
                self._has.add(answer["kept"])
            self._on_answer(self, answer)

    def close(self) -> None:
        """Close what led to a worker that has ended."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._close_tokens()

    def _close_tokens(self) -> None:
        os.close(self._their_tokens)
        os.close(self._tokens)

    def terminate(self, grace: float) -> None:
        """Make it end."""
        if grace > 0:
            self._child.terminate(grace)
        else:
            self._child.kill()

    def kill(self) -> None:
        """Kill it without waiting."""
        self._child.kill()


def _command(server: str, descriptor: int, tokens: int) -> list[str]:
    # The driver's search path goes along: it may have been changed, or hold the directory of the main script.
    path = [os.path.abspath(entry) for entry in sys.path]
    start = (
        f"import sys; sys.path[:] = {path!r}; from {__package__}.{server} import serve; serve({descriptor}, {tokens})"
    )
    return [sys.executable, "-c", start]
