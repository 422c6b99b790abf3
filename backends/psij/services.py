"""Services in batch jobs: looking out for the file or the port that says that one is ready."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from ..output import read_output
from .jobs import BatchJob

if TYPE_CHECKING:
    from .backend import PsijExecutionBackend

__all__ = ["Services"]

# Another program does not tell when it is ready: it can only be asked.
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
        description, result = job.description, ""
        loop, threads = asyncio.get_running_loop(), self._backend.threads
        if description.ready_file is not None:
            path = os.path.join(description.cwd or job.sandbox, description.ready_file)
            while not await loop.run_in_executor(threads, os.path.exists, path):  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
            with suppress(OSError):
                result = (await loop.run_in_executor(threads, read_output, path) or "").strip()
        if description.ready_port is not None:
            host = (await loop.run_in_executor(threads, read_output, f"{job.sandbox}/.asyncflow/host") or "").strip()
            while not await loop.run_in_executor(threads, _answers, host, description.ready_port):  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
            result = result or f"{host}:{description.ready_port}"
        self.ready.add(job.uid)
        self._backend.report_ready(job, result)


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
