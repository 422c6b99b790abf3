"""SIGINT, SIGTERM and SIGHUP: one graceful shutdown, then the end that the signal means."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import WorkflowEngine

__all__ = ["forget", "guard", "received", "stopped"]

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Guard:
    """The handlers of this process, shared by all engines that are open.

    Handlers run in the main thread between two instructions; all they do is to hand over to the engines' loop.
    """

    def __init__(self) -> None:
        self._engines: dict[WorkflowEngine, None] = {}
        self._old: dict[signal.Signals, Any] = {}
        self._number: signal.Signals | None = None
        self._ending: asyncio.Future[Any] | None = None

    def add(self, engine: WorkflowEngine) -> None:
        """Open an engine: from now on signals shut it down."""
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._engines:
            # A handler that C code installed (None) cannot be put back, and an ignored signal stays ignored.
            olds = {number: signal.getsignal(number) for number in SIGNALS}
            self._old = {number: old for number, old in olds.items() if old not in (None, signal.SIG_IGN)}
            for number in self._old:
                signal.signal(number, self._handle)
        self._engines[engine] = None

    def forget(self, engine: WorkflowEngine) -> None:
        """Let go of an engine whose loop ended without a shutdown."""
        if self._engines.pop(engine, self) is None and not self._engines:
            self._restore()

    def _restore(self) -> None:
        for number, old in self._old.items():
            if signal.getsignal(number) == self._handle and threading.current_thread() is threading.main_thread():
                signal.signal(number, old)
        self._old = {}

    def stopped(self, engine: WorkflowEngine) -> None:
        """Take note that all that an engine ran has ended; before its futures are settled."""
        if engine not in self._engines:
            return
        del self._engines[engine]
        if self._engines:
            return
        self._restore()
        received, self._number = self._number, None
        if received is not None:
            # A callback of its own comes before the user's code wakes up, and no task has to carry what it raises.
            engine.loop.call_soon(_end_by, received)

    def received(self) -> str | None:
        """Return the name of the signal that shuts the engines down; None if there was none."""
        return None if self._number is None else self._number.name

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._number is None:
            self._number = signal.Signals(number)
            next(iter(self._engines)).loop.call_soon_threadsafe(self._shut_down)
            return
        for engine in self._engines:
            engine.abandon()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _shut_down(self) -> None:
        assert self._number is not None
        log.warning("%s: shutting down; a second signal ends the process at once", self._number.name)
        self._ending = asyncio.gather(*(engine.shutdown() for engine in self._engines), return_exceptions=True)


def _end_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    # Here Python looks for signals, and not first somewhere in the user's code.
    time.sleep(0)


_guard = _Guard()
guard = _guard.add
forget = _guard.forget
received = _guard.received
stopped = _guard.stopped
