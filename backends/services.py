"""Services elsewhere: looking out for the file or the port that says that one is ready."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Protocol

from asyncflow_hpc.task import Task, TaskDescription

from .output import read_output
from .readiness import noted_ready_file, until_ready

__all__ = ["Services"]

# Seconds between two looks: over a network, and at a shared file system.
_POLL = 0.5


class Watched(Protocol):
    """A service that runs."""

    task: Task
    description: TaskDescription
    sandbox: str

    @property
    def uid(self) -> str:
        """The task's uid."""


class Watching(Protocol):
    """The backend that runs it."""

    @property
    def threads(self) -> Executor:
        """In which files and ports are looked at."""

    def report_ready(self, task: Task, result: str) -> None:
        """Tell the engine that a service is ready."""


class Services:
    """Watches the services of one backend."""

    def __init__(self, backend: Watching) -> None:
        self._backend = backend
        self._watching: dict[str, asyncio.Task[None]] = {}
        self.ready: set[str] = set()

    def watch(self, job: Watched) -> None:
        """Report when a service is ready."""
        self._watching[job.uid] = asyncio.get_running_loop().create_task(self._watch(job))

    def forget(self, job: Watched) -> None:
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

    async def _watch(self, job: Watched) -> None:
        def host() -> str:
            return (read_output(f"{job.sandbox}/.asyncflow/host") or "").strip()

        threads, loop = self._backend.threads, asyncio.get_running_loop()
        # It counts as running a little before its script begins.
        while not (place := await loop.run_in_executor(threads, host)):  # noqa: ASYNC110
            await asyncio.sleep(_POLL)
        before = await loop.run_in_executor(threads, noted_ready_file, job.sandbox)
        result = await until_ready(job.description, job.sandbox, lambda: place, threads, _POLL, before)
        self.ready.add(job.uid)
        self._backend.report_ready(job.task, result)
