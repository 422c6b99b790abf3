"""Attempts that wait for their downloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from ..staging.downloads import Downloads
from .attempts import Attempt

__all__ = ["Fetching"]


class Fetching:
    """Fetches what attempts need before they take any room on the machine.

    Args:
        on_fetched: called with an attempt, and with what went wrong where something did.
        threads: in which files are written.
    """

    def __init__(self, on_fetched: Callable[[Attempt, Exception | None], None], threads: Executor) -> None:
        self._on_fetched = on_fetched
        self._threads = threads
        self._downloads: dict[Path, Downloads] = {}
        self._running: dict[str, tuple[Attempt, asyncio.Task[None]]] = {}

    def begin(self, attempt: Attempt, session: Path) -> None:
        """Fetch what an attempt needs."""
        downloads = self._downloads.get(session)
        if downloads is None:
            downloads = self._downloads[session] = Downloads(str(session), self._threads)
        uid = attempt.task["uid"]
        work = asyncio.get_running_loop().create_task(self._fetch(attempt, downloads))
        self._running[uid] = (attempt, work)

    async def _fetch(self, attempt: Attempt, downloads: Downloads) -> None:
        failure = None
        try:
            attempt.plan = await downloads.localized(attempt.plan)
        except Exception as error:
            failure = error
        del self._running[attempt.task["uid"]]
        self._on_fetched(attempt, failure)

    def stop(self, uid: str) -> Attempt | None:
        """Give up on an attempt; returns it if it was here."""
        found = self._running.pop(uid, None)
        if found is None:
            return None
        attempt, work = found
        work.cancel()
        return attempt

    async def close(self) -> list[Attempt]:
        """Give up on all, and return them."""
        stopped = [attempt for uid in list(self._running) if (attempt := self.stop(uid)) is not None]
        for downloads in self._downloads.values():
            await downloads.close()
        return stopped
