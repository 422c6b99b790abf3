"""Tasks that many tests are made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError

__all__ = ["output_of", "sandbox_of", "shell", "trivial", "umask_here"]


def shell(flow: WorkflowEngine, **options: Any) -> Any:
    """An executable task: a call with a command runs it."""

    async def command(text: Any, *_: Any, **__: Any) -> Any:
        return text

    return flow.executable_task(command, **options)


def trivial(flow: WorkflowEngine, **options: Any) -> Any:
    """A task of a kind that the backend takes; a call with a number just ends well."""
    capabilities = getattr(flow.backend, "capabilities", None)

    async def echo(number: int, *_: Any) -> list[str]:
        return ["echo", str(number)]

    def same(number: int, *_: Any) -> int:
        return number

    if capabilities is None or capabilities.executables:
        return flow.executable_task(echo, **options)
    return flow.function_task(same, **options)


def umask_here() -> int:
    """Return the umask of this process."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sandbox_of(future: Any) -> Path:
    """The directory in which a task runs."""
    return Path(future.task["sandbox"])


def output_of(error: TaskFailedError) -> str:
    """What a failed task wrote to standard output."""
    assert error.sandbox is not None
    return Path(error.sandbox, f"{error.uid}.out").read_text()
