"""Processes that outlive the tasks that started them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["assert_none_left", "processes_here"]


def processes_here(path: Path) -> Sequence[Any]:
    """Find the processes of this machine that were started by tasks in a directory or below it.

    Args:
        path: a sandbox, a session, or what holds sessions.
    """
    # Function workers import this package; they need no psutil.
    import psutil

    def belongs(process: psutil.Process) -> bool:
        try:
            environment = process.environ()
            places = [environment.get(name, "") for name in ("ASYNCFLOW_SANDBOX", "ASYNCFLOW_SESSION")]
            below = any(f"{place}/".startswith(f"{path}/") for place in places)
            return below and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    return [process for process in psutil.process_iter() if belongs(process)]


def assert_none_left(
    path: Path, leftovers: Callable[[Path], Sequence[Any]] = processes_here, patience: float = 0
) -> None:
    """Fail if something still runs; processes of this machine are killed first, so that the next test starts clean.

    Args:
        path: as for `leftovers`.
        leftovers: says what still runs.
        patience: seconds in which it may still end.
    """
    deadline = time.monotonic() + patience
    while (left := leftovers(path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        if hasattr(process, "kill"):
            process.kill()
    assert not left, f"processes left behind: {left}"
