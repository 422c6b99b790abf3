"""Function tasks in worker processes, each call alone in its process."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import MARK, Child, End
from .worker import HEADER, capture_path

__all__ = ["Call", "FunctionWorkers", "died_of_memory", "memory_kills", "remove_captures"]

CHUNK = 1 << 20


@dataclass(slots=True)
class Call:
    """A call on its way through a worker.

    Attributes:
        message: what the worker gets; its "function" is left out where the worker has it.
        on_start: called with the worker's pid.
        on_answer: called with the worker's answer, or with the End of the worker that died over it.
    """

    uid: str
    message: dict[str, Any]
    on_start: Callable[[int], None]
    on_answer: Callable[[dict[str, Any] | End], None]


class FunctionWorkers:
    """Worker processes, started when they are needed and kept for the next call.

    A worker that dies takes the one call with it that it runs. The caller sees to it that no more calls run at once
    than there should be workers.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._idle: deque[_Worker] = deque()
        self._busy: dict[str, _Worker] = {}
        self._all: set[_Worker] = set()
        self._gone = asyncio.Event()
        self._gone.set()

    def run(self, call: Call) -> None:
        """Run a call.

        Raises:
            OSError: no worker can be started.
        """
        worker = self._idle.pop() if self._idle else self._start()
        while not worker.run(call):
            # It died while it was idle; the call never reached it.
            worker = self._idle.pop() if self._idle else self._start()
        self._busy[call.uid] = worker
        call.on_start(worker.pid)

    def _start(self) -> _Worker:
        worker = _Worker(self._mark, self._free, self._lost)
        self._all.add(worker)
        self._gone.clear()
        return worker

    def _free(self, worker: _Worker, call: Call) -> None:
        del self._busy[call.uid]
        if not worker.dead:
            self._idle.append(worker)

    def _lost(self, worker: _Worker, call: Call | None) -> None:
        self._all.discard(worker)
        if call is not None:
            del self._busy[call.uid]
        elif worker in self._idle:
            self._idle.remove(worker)
        if not self._all:
            self._gone.set()

    def terminate(self, uid: str, grace: float) -> None:
        """End the worker that runs a call; even if the call is answered first, it gets no other."""
        worker = self._busy[uid]
        worker.dead = True
        worker.terminate(grace)

    async def close(self, grace: float) -> None:
        """End all workers and wait for them."""
        for worker in list(self._all):
            worker.terminate(grace if worker.call is not None else 0)
        await self._gone.wait()

    def kill(self) -> None:
        """Kill all workers without waiting."""
        for worker in self._all:
            worker.kill()


class _Worker:
    """One worker process and the socket to it."""

    def __init__(
        self, mark: str, on_free: Callable[[_Worker, Call], None], on_lost: Callable[[_Worker, Call | None], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_free = on_free
        self._on_lost = on_lost
        self.call: Call | None = None
        self.dead = False
        self._has: set[int] = set()
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        try:
            self._child = Child(
                _command(theirs.fileno()),
                self._ended,
                cwd="/",
                # What a function forks keeps this environment, and is found by it.
                env={**os.environb, MARK.encode(): mark.encode()},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.pid = self._child.pid
        self._loop.add_reader(self._socket, self._readable)

    def run(self, call: Call) -> bool:
        """Send a call; False if the worker is dead."""
        message = call.message
        number = message["number"]
        if number in self._has:
            message = {**message, "function": None}
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if not self._send(memoryview(HEADER.pack(len(data)) + data)):
            self.dead = True
            return False
        self.call = call
        return True

    def _send(self, data: memoryview) -> bool:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.add_writer(self._socket, self._writable)
        else:
            self._unsent = memoryview(b"")
        return True

    def _writable(self) -> None:
        # Where the worker has died meanwhile, its end is on the way and settles the call.
        self._loop.remove_writer(self._socket)
        self._send(self._unsent)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket)
            return
        self._received += data
        if len(self._received) < HEADER.size:
            return
        (size,) = HEADER.unpack_from(self._received)
        if len(self._received) < HEADER.size + size:
            return
        answer = pickle.loads(memoryview(self._received)[HEADER.size : HEADER.size + size])
        whole = len(self._received) == HEADER.size + size
        self._received = bytearray()
        if self.call is None or answer["uid"] != self.call.uid or not whole:
            # Somebody else writes on this socket; whatever it says, it is no answer.
            self.dead = True
            self._child.kill()
            return
        self.dead = self.dead or answer["retire"]
        if answer["kept"]:
            self._has.add(self.call.message["number"])
        call, self.call = self.call, None
        self._on_free(self, call)
        call.on_answer(answer)

    def _ended(self, end: End) -> None:
        self.dead = True
        # An answer that was sent before the end still counts.
        while self.call is not None:
            before = len(self._received)
            self._readable()
            if len(self._received) == before:
                break
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        call, self.call = self.call, None
        self._on_lost(self, call)
        if call is not None:
            call.on_answer(end)

    def terminate(self, grace: float) -> None:
        if grace > 0:
            self._child.terminate(grace)
        else:
            self._child.kill()

    def kill(self) -> None:
        self._child.kill()


def _command(descriptor: int) -> list[str]:
    # The driver's search path goes along: it may have been changed, or hold the directory of the main script.
    path = [os.path.abspath(entry) for entry in sys.path]
    start = f"import sys; sys.path[:] = {path!r}; from {__package__}.worker import serve; serve({descriptor})"
    return [sys.executable, "-c", start]


def remove_captures(session: str, mark: str) -> None:
    """Remove the files in which workers that have ended kept the output of their calls."""
    directory = Path(capture_path(session, mark, 0, "out")).parent
    for path in directory.glob(f"{mark}.*"):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()


def died_of_memory(end: End, kills_before: int) -> bool:
    """Tell whether the kernel killed a process for want of memory.

    Args:
        end: of the process.
        kills_before: `memory_kills()` when it was started.
    """
    return end.signal == signal.SIGKILL and memory_kills() > kills_before


def memory_kills() -> int:
    """Count the processes that this kernel has killed for want of memory; 0 where it does not say.

    Source: proc(5), /proc/vmstat, oom_kill (since Linux 4.13).
    """
    try:
        with open("/proc/vmstat", encoding="ascii") as stream:
            for line in stream:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    except (OSError, ValueError):
        pass
    return 0
