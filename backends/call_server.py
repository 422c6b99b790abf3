"""A warm process that forks one process for each call: `python -c ... NAME`, started by what has calls to run.

It reads lines of JSON from its standard input, `{"uid", "sandbox"}`, and writes such lines to its standard output:
`{"event": "ready"}`, `{"event": "begun", "uid"}`, `{"event": "ended", "uid", "code"}`. When its input ends, all that it
has forked is killed, by itself and by each of them.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import traceback
from contextlib import suppress
from typing import Any, NoReturn

# What every call needs, so that none has to import it.
from . import calling, pickling, run_function  # noqa: F401
from .forked_call import run_forked

__all__ = ["SERVE", "main"]

SERVE = """\
import sys
sys.path[:] = filter(None, sys.path)
from asyncflow_hpc.backends.call_server import main
sys.exit(main(sys.argv[1]))
"""
"""What Python is given with -c."""


def main(name: str) -> int:
    """Serve until the input ends.

    Args:
        name: of this server, for the claims of its calls.
    """
    import asyncio  # noqa: F401

    server = _Server(name, _taken(0, os.O_RDONLY), _taken(1, os.O_WRONLY))
    gc.collect()
    gc.freeze()
    server.serve()
    return 0


def _taken(descriptor: int, mode: int) -> int:
    """Move a stream to where no function finds it by its number."""
    moved = os.dup(descriptor)
    if descriptor == 1:
        os.dup2(2, 1)
    else:
        empty = os.open(os.devnull, mode)
        os.dup2(empty, descriptor)
        os.close(empty)
    return moved


class _Server:
    def __init__(self, name: str, requests: int, events: int) -> None:
        self._name = name
        self._requests, self._events = requests, events
        self._running: dict[int, str] = {}
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)

    def serve(self) -> None:
        """Fork a process for each request, and tell how it ended."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._tell("ready")
        poll, unread = select.poll(), b""
        poll.register(self._requests, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                data = os.read(descriptor, 1 << 16)
                if descriptor == self._wake:
                    self._reap()
                    continue
                if not data:
                    self._kill_all()
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    self._fork(json.loads(line))

    def _tell(self, event: str, **more: Any) -> None:
        # Short enough to be written in one piece, whoever else writes.
        os.write(self._events, json.dumps({"event": event, **more}).encode() + b"\n")

    def _fork(self, request: dict[str, Any]) -> None:
        uid = request["uid"]
        try:
            pid = os.fork()
        except OSError as error:
            self._tell("ended", uid=uid, code=126, text=f"no process can be forked: {error.strerror}")
            return
        if pid:
            self._running[pid] = uid
            return
        self._run(uid, request["sandbox"])

    def _run(self, uid: str, sandbox: str) -> NoReturn:
        signal.set_wakeup_fd(-1)
        try:
            code = run_forked(sandbox, self._name, self._requests, lambda: self._tell("begun", uid=uid), self._close)
        except Exception:
            # There is no record, and its absence is told with this code.
            traceback.print_exc()
            code = 125
        os._exit(code)

    def _close(self) -> None:
        for descriptor in (self._events, self._wake, self._woken):
            with suppress(OSError):
                os.close(descriptor)

    def _reap(self) -> None:
        while self._running:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            uid = self._running.pop(pid, None)
            if uid is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                # Killed, it has left the function behind.
                with suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
            self._tell("ended", uid=uid, code=code if code >= 0 else 128 - code)

    def _kill_all(self) -> None:
        for pid in self._running:
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
