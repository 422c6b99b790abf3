"""A backend that runs nothing: for dry runs, and for measuring the engine."""

from __future__ import annotations

from collections.abc import Sequence

from asyncflow_hpc.backend import BackendCapabilities, BaseExecutionBackend
from asyncflow_hpc.states import TaskState
from asyncflow_hpc.task import Task

__all__ = ["NoopExecutionBackend"]

_DONE = TaskState.DONE


class NoopExecutionBackend(BaseExecutionBackend):
    """Reports every task as done at once, with "Dummy Output" ("Dummy Prompt Output" for a prompt).

    Args:
        name: under which an engine knows it.
    """

    capabilities = BackendCapabilities(prompts=True, ranks=True, gpus=True, nodes=True, services=True)

    def __init__(self, name: str = "noop") -> None:
        super().__init__(name)

    def state(self) -> str:
        """Return IDLE: there is never anything to do."""
        return "IDLE"

    async def submit_tasks(self, tasks: Sequence[Task]) -> None:
        """Report all tasks as done."""
        report = self._callback
        for task in tasks:
            output = "Dummy Prompt Output" if task.get("prompt") else "Dummy Output"
            task["stdout"] = task["return_value"] = output
            report(task, _DONE)

    async def cancel_task(self, uid: str) -> bool:
        """Return False: what was submitted is done."""
        return False

    async def shutdown(self) -> None:
        """Do nothing."""
