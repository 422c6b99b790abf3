"""What the backends share that run tasks in sandboxes."""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from asyncflow_hpc.errors import UnsupportedTaskError
from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task, TaskDescription, describe

from .site import SiteRules
from .staging import StagesFiles

__all__ = ["SandboxBackend"]


class SandboxBackend(StagesFiles):
    """A backend that runs each task in a directory of its own.

    Args:
        name: under which an engine knows it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._closed = False
        self._shutting: asyncio.Task[None] | None = None
        self._rules = SiteRules(None)

    def describe(self, task: Task) -> TaskDescription:
        """Return what a task asks for, with the defaults of the backend and its site where it says nothing."""
        return self._rules.complete(describe(task))

    def refuse_what_no_sandbox_holds(self, task: Task, description: TaskDescription) -> None:
        """Refuse prompts, and functions on several ranks.

        Raises:
            UnsupportedTaskError: it is one of them.
        """
        if task.get("prompt"):
            raise UnsupportedTaskError(f"backend '{self.name}' does not answer prompts; give the engine one that does")
        if task.get("function") is not None and (description.ranks > 1 or description.launcher):
            raise UnsupportedTaskError(f"function task '{task['name']}': ranks and launcher are for executable tasks")

    def report(self, task: Task, state: TaskState, cause: FailureCause | None = None) -> None:
        """Tell the engine what a task's state is now, and why."""
        task["state"] = state
        if cause is not None:
            task["cause"] = cause
        self.task_state_cb(task, state)

    def report_ready(self, task: Task, result: str) -> None:
        """Tell the engine that a service is ready; its future gets the result."""

        def resolve(future: asyncio.Future[str], *_: object) -> None:
            if not future.done():
                future.set_result(result)

        self._callback(task, TaskState.RUNNING, resolve)

    def state(self) -> str:
        """Return NEW, RUNNING or CLOSED."""
        return "CLOSED" if self._closed else super().state()

    async def shutdown(self) -> None:
        """End all tasks, wait for their ends, and leave nothing behind."""
        if self._shutting is None:
            self._closed = True
            self._shutting = asyncio.get_running_loop().create_task(self._shut())
        await asyncio.shield(self._shutting)

    @abstractmethod
    async def _shut(self) -> None: ...
