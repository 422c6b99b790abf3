"""Tasks that wait for their downloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from asyncflow_hpc.task import Task

from .downloads import Downloads
from .plan import Plan

__all__ = ["Fetching"]


class Planned(Protocol):
    """One attempt of a task, with what is to be staged for it."""

    task: Task
    plan: Plan


PlannedT = TypeVar("PlannedT", bound=Planned)


class Fetching(Generic[PlannedT]):
    """Fetches what attempts need before they run or wait for room.

    Args:
        on_fetched: called with an attempt, and with what went wrong where something did.
    """

    def __init__(self, on_fetched: Callable[[PlannedT, Exception | None], None]) -> None:
        self._on_fetched = on_fetched
        self._downloads: dict[Path, Downloads] = {}
        self._running: dict[str, tuple[PlannedT, asyncio.Task[None]]] = {}

    def begin(self, attempt: PlannedT, session: Path) -> None:
        """Fetch what an attempt needs."""
        downloads = self._downloads.get(session)
        if downloads is None:
            downloads = self._downloads[session] = Downloads(str(session))
        uid = attempt.task["uid"]
        work = asyncio.get_running_loop().create_task(self._fetch(attempt, downloads))
        self._running[uid] = (attempt, work)

    async def _fetch(self, attempt: PlannedT, downloads: Downloads) -> None:
        failure = None
        try:
            attempt.plan = await downloads.localized(attempt.plan)
        except Exception as error:
            failure = error
        del self._running[attempt.task["uid"]]
        self._on_fetched(attempt, failure)

    def stop(self, uid: str) -> PlannedT | None:
        """Give up on an attempt; returns it if it was here."""
        found = self._running.pop(uid, None)
        if found is None:
            return None
        attempt, work = found
        work.cancel()
        return attempt

    async def close(self) -> list[PlannedT]:
        """Give up on all, and return them."""
        stopped = [attempt for uid in list(self._running) if (attempt := self.stop(uid)) is not None]
        for downloads in self._downloads.values():
            await downloads.close()
        return stopped
