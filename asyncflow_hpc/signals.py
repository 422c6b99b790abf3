"""SIGINT, SIGTERM and SIGHUP: one graceful shutdown, then the end that the signal means."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import WorkflowEngine

__all__ = ["guard", "unguard"]

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Guard:
    """The handlers of this process, shared by all engines that are open.

    Handlers run in the main thread between two instructions; all they do is to hand over to the engines' loop.
    """

    def __init__(self) -> None:
        self._engines: dict[WorkflowEngine, None] = {}
        self._old: dict[signal.Signals, Any] = {}
        self._ending: asyncio.Task[None] | None = None

    def add(self, engine: WorkflowEngine) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._engines:
            self._ending = None
            # A handler that C code installed cannot be put back, so it is left alone.
            self._old = {number: old for number in SIGNALS if (old := signal.getsignal(number)) is not None}
            for number, old in self._old.items():
                if old is not signal.SIG_IGN:
                    signal.signal(number, self._handle)
        self._engines[engine] = None

    def discard(self, engine: WorkflowEngine) -> None:
        if self._engines.pop(engine, self) is None and not self._engines and self._ending is None:
            self._restore()

    def _restore(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, old in self._old.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, old)
        self._old = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._ending is not None:
            self._end_at_once(number)
            return
        loop = next(iter(self._engines)).loop
        # Set before the loop gets to it, so that a second signal is seen as one even when the loop is stuck.
        self._ending = loop.create_task(self._end(signal.Signals(number)))
        loop.call_soon_threadsafe(lambda: None)

    def _end_at_once(self, number: int) -> None:
        for engine in list(self._engines):
            engine.abandon()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    async def _end(self, number: signal.Signals) -> None:
        log.warning("%s: shutting down; a second signal ends the process at once", number.name)
        engines = list(self._engines)
        try:
            await asyncio.gather(*(engine.shutdown() for engine in engines), return_exceptions=True)
        except asyncio.CancelledError:
            # The loop is being closed under us: what is left is ended without waiting.
            for engine in engines:
                engine.abandon()
        finally:
            self._restore()
            os.kill(os.getpid(), number)


_guard = _Guard()
guard = _guard.add
unguard = _guard.discard
