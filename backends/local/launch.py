"""From a task to the argv, environment and directory of its process: pure translation."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from asyncflow_hpc.command import argv_of
from asyncflow_hpc.task import Task, TaskDescription, command_of

from ..numbering import started_by
from ..sandbox import own_variables, thread_variables
from .ranks import GPU_VARIABLES
from .slots import Grant, Request

__all__ = ["environment_for", "launch_line", "request_for"]


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
    environment = own_variables(task["uid"], session, sandbox, task.get("attempt", 0))
    if gpus_counted:
        environment.update(dict.fromkeys(GPU_VARIABLES, ",".join(grant.gpus)))
    environment.update(thread_variables(description))
    environment.update(description.environment)
    return environment


def launch_line(task: Task, description: TaskDescription) -> list[str]:
    """Make the argv of a task: its command, with what starts its ranks before it."""
    argv = argv_of(command_of(task), description.shell)
    if description.launcher:
        return started_by(shlex.split(description.launcher), description.ranks, argv)
    if description.ranks > 1:
        ranks = str(Path(__file__).with_name("ranks.py"))
        return [sys.executable, "-I", "-S", ranks, str(description.ranks), str(description.gpus_per_rank), *argv]
    return argv


def visible_gpus(count: int, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Name the GPUs to hand out: the first ones that this process may see itself."""
    for name in GPU_VARIABLES:
        seen = [gpu.strip() for gpu in environment.get(name, "").split(",") if gpu.strip()]
        if len(seen) >= count > 0:
            return tuple(seen[:count])
    return tuple(str(number) for number in range(count))
