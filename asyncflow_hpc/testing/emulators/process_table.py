"""Which processes of this machine belong to which job: those that descend from its script, orphans among them."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

__all__ = ["adopt_orphans", "has_orphans", "owned"]

# From linux/prctl.h.
_SET_CHILD_SUBREAPER = 36

_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Process(NamedTuple):
    parent: int
    session: int
    resident: int


def adopt_orphans() -> None:
    """Become the parent of all processes whose parent among the descendants of this one ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def has_orphans(leaders: Collection[int]) -> bool:
    """Tell whether this process has children beside those that lead jobs."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as stream:
            return any(int(pid) not in leaders for pid in stream.read().split())
    except OSError:
        return True


def owned(leaders: Collection[int], marks: Mapping[bytes, int]) -> Iterator[tuple[int, int, int]]:
    """Find the processes of jobs.

    Args:
        leaders: the process ids of the scripts of jobs.
        marks: what is in the environment of a job alone -> its leader.

    Returns:
        Process id, leader of its job, and resident memory in bytes.
    """
    table = _table()
    if not table:
        yield from ((leader, leader, 0) for leader in leaders)
        return
    me = os.getpid()
    found: dict[int, int | None] = {pid: pid for pid in leaders}

    def leader_of(pid: int) -> int | None:
        path: list[int] = []
        while pid not in found:
            path.append(pid)
            process = table.get(pid)
            if process is None or process.parent <= 1:
                found[pid] = None
            elif process.parent == me:
                found[pid] = process.session if process.session in leaders else _marked(pid, marks)
            else:
                pid = process.parent
        for one in path:
            found[one] = found[pid]
        return found[pid]

    for pid, process in table.items():
        leader = leader_of(pid)
        if leader is not None:
            yield pid, leader, process.resident


def _marked(pid: int, marks: Mapping[bytes, int]) -> int | None:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as stream:
        return next((marks[word] for word in stream.read().split(b"\0") if word in marks), None)
    return None


def _table() -> Mapping[int, _Process]:
    table: dict[int, _Process] = {}
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return table
    for name in names:
        with suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{name}/stat", "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
            table[int(name)] = _Process(int(fields[1]), int(fields[3]), int(fields[21]) * _PAGE)
    return table
