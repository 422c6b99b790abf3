"""From a task to the argv, environment and directory of its process: pure translation."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from asyncflow_hpc.command import argv_of
from asyncflow_hpc.task import Task, TaskDescription

from .ranks import GPU_VARIABLES
from .slots import Grant, Request

__all__ = ["argv_for", "environment_for", "request_for"]


def request_for(description: TaskDescription) -> Request:
    """Say what a task occupies while it runs."""
    return Request(
        description.cores,
        description.ranks * description.gpus_per_rank,
        description.ranks * (description.mem_per_rank or 0),
    )


def environment_for(
    task: Task, description: TaskDescription, session: str, sandbox: str, grant: Grant, gpus_counted: bool
) -> dict[str, str]:
    """Make the variables that a task sees beside those of the driver.

    Args:
        gpus_counted: the backend hands out GPUs, so a task sees those it was given and no other.
    """
    environment = {
        "ASYNCFLOW_TASK_UID": task["uid"],
        "ASYNCFLOW_SESSION": session,
        "ASYNCFLOW_SANDBOX": sandbox,
        "ASYNCFLOW_ATTEMPT": "0",
    }
    if gpus_counted:
        environment.update(dict.fromkeys(GPU_VARIABLES, ",".join(grant.gpus)))
    environment.update(description.environment)
    return environment


def argv_for(task: Task, description: TaskDescription) -> list[str]:
    """Make the argv of a task: its command, with the ranks and the lines around it."""
    argv = argv_of(_command(task), description.shell)
    if description.launcher:
        argv = [*shlex.split(description.launcher), "-n", str(description.ranks), *argv]
    elif description.ranks > 1:
        ranks = str(Path(__file__).with_name("ranks.py"))
        argv = [sys.executable, "-I", "-S", ranks, str(description.ranks), str(description.gpus_per_rank), *argv]
    if not description.pre_exec and not description.post_exec:
        return argv
    # A line that fails ends the task; braces keep a line of several commands together.
    lines = [f"{{ {line}\n}} || exit" for line in description.pre_exec]
    if description.post_exec:
        lines += ['"$@"', "asyncflow_code=$?", *description.post_exec, "exit $asyncflow_code"]
    else:
        lines.append('exec "$@"')
    return ["/bin/sh", "-c", "\n".join(lines), "sh", *argv]


def _command(task: Task) -> str | list[str]:
    command = task.get("command")
    if command is not None:
        return command
    # An engine that is not ours sends only these two.
    return [task["executable"] or "", *task.get("arguments", [])]


def visible_gpus(count: int, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Name the GPUs to hand out: the first ones that this process may see itself."""
    for name in GPU_VARIABLES:
        seen = [gpu.strip() for gpu in environment.get(name, "").split(",") if gpu.strip()]
        if len(seen) >= count > 0:
            return tuple(seen[:count])
    return tuple(str(number) for number in range(count))
