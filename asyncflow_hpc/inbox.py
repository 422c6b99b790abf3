"""The way of a backend's reports to an engine's loop, from any thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Inbox"]

log = logging.getLogger(__name__)

Take = Callable[[Any, str, Callable[..., Any] | None], None]


class Inbox:
    """Takes reports at once on the loop's own thread, and in batches from others, in the order in which they came.

    Args:
        loop: of the engine, running in the current thread.
        take: what is done with a report, on the loop.
        not_taken: what is done after that has raised; gets task, state and error.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, take: Take, not_taken: Callable[[Any, str, Exception], None]
    ) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._take = take
        self._not_taken = not_taken
        self._lock = threading.Lock()
        self._reports: list[tuple[Any, str, Callable[..., Any] | None]] = []
        self._holding = False

    def post(self, task: Any, state: str, service_callback: Callable[..., Any] | None = None) -> None:
        """Report a state; the arguments are those of `WorkflowEngine.task_callbacks`."""
        if not self._reports and not self._holding and threading.get_ident() == self._thread:
            self._take_one(task, state, service_callback)
            return
        with self._lock:
            self._reports.append((task, state, service_callback))
            if len(self._reports) > 1 or self._holding:
                return
        try:
            self._loop.call_soon_threadsafe(self._come)
        except RuntimeError:
            log.debug("a task reported '%s' after the loop was closed", state)

    def _come(self) -> None:
        if not self._holding:
            self.empty()

    def hold(self) -> None:
        """From now on keep what comes, until `empty`."""
        with self._lock:
            self._holding = True

    def empty(self) -> None:
        """Take all that has come."""
        with self._lock:
            self._holding = False
            reports, self._reports = self._reports, []
        for report in reports:
            self._take_one(*report)

    def _take_one(self, task: Any, state: str, service_callback: Callable[..., Any] | None) -> None:
        try:
            self._take(task, state, service_callback)
        except Exception as error:
            # The reports behind it are about other tasks.
            log.exception("a report of state '%s' cannot be taken: %r", state, task)
            self._not_taken(task, state, error)
