"""When a service is ready: when a file that it names is there, and a port answers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress

from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.task import Task, TaskDescription

from .output import read_output
from .sandbox import write_file

__all__ = ["State", "answers", "note_ready_file", "noted_ready_file", "state_of_ready_file", "until_ready"]

State = tuple[int, int, int]
"""Of a file: inode, size, and time of modification in ns. It is compared, so that clocks may differ."""


async def until_ready(
    description: TaskDescription,
    sandbox: str,
    host: Callable[[], str],
    threads: Executor,
    pause: float,
    before: State | None,
) -> str:
    """Wait until a service is ready.

    Args:
        host: tells where its port is; called in a thread.
        threads: in which files and ports are looked at.
        pause: seconds between two looks: another program does not tell when it is ready, it can only be asked.
        before: state of its file before it started; as long as that has not changed, it is of another service.

    Returns:
        The content of its file, else its address, else nothing.
    """
    loop = asyncio.get_running_loop()
    result = ""
    if description.ready_file is not None:
        while await loop.run_in_executor(threads, state_of_ready_file, description, sandbox) in (None, before):  # noqa: ASYNC110
            await asyncio.sleep(pause)
        with suppress(OSError):
            path = _path(description, sandbox)
            result = (await loop.run_in_executor(threads, read_output, path) or "").strip()
    if description.ready_port is not None:
        place = await loop.run_in_executor(threads, host)
        while not await loop.run_in_executor(threads, answers, place, description.ready_port):  # noqa: ASYNC110
            await asyncio.sleep(pause)
        result = result or f"{place}:{description.ready_port}"
    return result


def state_of_ready_file(description: TaskDescription, sandbox: str) -> State | None:
    """Return the state of the file by which a service tells that it is ready; None where there is no such file."""
    if description.ready_file is None:
        return None
    path = _path(description, sandbox)
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return None
        with suppress(PermissionError):
            # Over a network, the state that `stat` returns may be old; to open a file asks the server.
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            found = os.fstat(file)
            os.close(file)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _path(description: TaskDescription, sandbox: str) -> str:
    return os.path.join(description.cwd or sandbox, description.ready_file or "")


def note_ready_file(task: Task, description: TaskDescription, sandbox: str) -> None:
    """Note the state of a service's file before it is submitted, also for a later driver.

    Raises:
        OSError: it cannot be written.
    """
    note = _note(sandbox)
    # What was noted first holds: the service may have started since.
    if task.get("is_service") and description.ready_file is not None and not os.path.exists(note):
        write_file(f"{note}.part", json.dumps(state_of_ready_file(description, sandbox)).encode())
        os.replace(f"{note}.part", note)


def noted_ready_file(sandbox: str) -> State | None:
    """Return the state that was noted; None where there was no file."""
    try:
        with open(_note(sandbox), "rb") as stream:
            state = json.load(stream)
    except (OSError, ValueError):
        return None
    return tuple(state) if state else None


def _note(sandbox: str) -> str:
    return f"{sandbox}/{BOOKKEEPING}/ready.json"


def answers(host: str, port: int) -> bool:
    """Tell whether somebody listens on a port; blocks for 2 s at most."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
