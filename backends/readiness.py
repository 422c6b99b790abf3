"""When a service is ready: when a file that it names is there, and a port answers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress

from asyncflow_hpc.task import TaskDescription

from .output import read_output

__all__ = ["answers", "until_ready"]


async def until_ready(
    description: TaskDescription, sandbox: str, host: Callable[[], str], threads: Executor, pause: float
) -> str:
    """Wait until a service is ready.

    Args:
        host: tells where its port is; called in a thread.
        threads: in which files and ports are looked at.
        pause: seconds between two looks: another program does not tell when it is ready, it can only be asked.

    Returns:
        What its file says, else its address, else nothing.
    """
    loop = asyncio.get_running_loop()
    result = ""
    if description.ready_file is not None:
        path = os.path.join(description.cwd or sandbox, description.ready_file)
        while not await loop.run_in_executor(threads, os.path.exists, path):  # noqa: ASYNC110
            await asyncio.sleep(pause)
        with suppress(OSError):
            result = (await loop.run_in_executor(threads, read_output, path) or "").strip()
    if description.ready_port is not None:
        place = await loop.run_in_executor(threads, host)
        while not await loop.run_in_executor(threads, answers, place, description.ready_port):  # noqa: ASYNC110
            await asyncio.sleep(pause)
        result = result or f"{place}:{description.ready_port}"
    return result


def answers(host: str, port: int) -> bool:
    """Tell whether somebody listens on a port; blocks for 2 s at most."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
