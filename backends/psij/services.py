"""Services in batch jobs: looking out for the file or the port that says that one is ready."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..output import read_output
from ..readiness import until_ready
from .jobs import BatchJob

if TYPE_CHECKING:
    from .backend import PsijExecutionBackend

__all__ = ["Services"]

# Seconds between two looks: over a network, and at a shared file system.
_POLL = 0.5


class Services:
    """Watches the services of one backend."""

    def __init__(self, backend: PsijExecutionBackend) -> None:
        self._backend = backend
        self._watching: dict[str, asyncio.Task[None]] = {}
        self.ready: set[str] = set()

    def watch(self, job: BatchJob) -> None:
        """Report when a service is ready."""
        self._watching[job.uid] = asyncio.get_running_loop().create_task(self._watch(job))

    def forget(self, job: BatchJob) -> None:
        """Stop looking."""
        watching = self._watching.pop(job.uid, None)
        if watching is not None:
            watching.cancel()

    async def close(self) -> None:
        """Stop looking at all."""
        watching, self._watching = list(self._watching.values()), {}
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    async def _watch(self, job: BatchJob) -> None:
        def host() -> str:
            return (read_output(f"{job.sandbox}/.asyncflow/host") or "").strip()

        result = await until_ready(job.description, job.sandbox, host, self._backend.threads, _POLL)
        self.ready.add(job.uid)
        self._backend.report_ready(job.task, result)
