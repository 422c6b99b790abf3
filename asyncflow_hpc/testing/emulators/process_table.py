"""Which processes of this machine belong to which job: those of its session, or all that descend from its leader."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

__all__ = ["adopt_orphans", "children", "descendants", "has_orphans", "in_sessions", "owned"]

# From linux/prctl.h.
_SET_CHILD_SUBREAPER = 36

_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Process(NamedTuple):
    alive: bool
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


def in_sessions(leaders: Collection[int]) -> Iterator[tuple[int, int, int]]:
    """Find the processes of jobs by their session alone; returns the same as `owned`."""
    for pid, process in _table().items():
        if process.alive and process.session in leaders:
            yield pid, process.session, process.resident


def children(parent: int) -> list[int]:
    """Find the children of a process."""
    return [pid for pid, process in _table().items() if process.alive and process.parent == parent]


def descendants() -> list[int]:
    """Find all processes that descend from this one."""
    table, me = _table(), os.getpid()
    found: dict[int, bool] = {me: True}

    def below(pid: int) -> bool:
        if pid not in found:
            process = table.get(pid)
            found[pid] = process is not None and process.parent > 1 and below(process.parent)
        return found[pid]

    return [pid for pid, process in table.items() if pid != me and process.alive and below(pid)]


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
            alive = fields[0] not in (b"Z", b"X")
            table[int(name)] = _Process(alive, int(fields[1]), int(fields[3]), int(fields[21]) * _PAGE)
    return table
