"""The cgroup of this process: how many processes the kernel has killed in it for want of memory.

Sources: cgroups(7); the kernel's Documentation/admin-guide/cgroup-v2.rst (memory.events) and cgroup-v1/memory.rst
(memory.oom_control, whose oom_kill counts since Linux 4.13).
"""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["MemoryKills", "events_file"]

_ROOT = "/sys/fs/cgroup"


def events_file(lines: str) -> str | None:
    """Return the file that counts memory kills in a cgroup; None where it cannot be read.

    Args:
        lines: the content of /proc/<pid>/cgroup.
    """
    found = None
    for line in lines.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            file = f"{_ROOT}{path}/memory.events"
        elif "memory" in controllers.split(","):
            file = f"{_ROOT}/memory{path}/memory.oom_control"
        else:
            continue
        if os.access(file, os.R_OK):
            found = file
    return found


class MemoryKills:
    """Counts the processes that the kernel kills for want of memory in the cgroup of this process."""

    def __init__(self) -> None:
        self._file = -1
        with suppress(OSError), open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as stream:
            path = events_file(stream.read())
            if path is not None:
                self._file = os.open(path, os.O_RDONLY)
        self._seen = self._count()

    def since_last(self) -> int:
        """Return how many there were since the last look; it takes microseconds."""
        before, self._seen = self._seen, self._count()
        return max(0, self._seen - before)

    def _count(self) -> int:
        if self._file >= 0:
            with suppress(OSError, ValueError):
                for line in os.pread(self._file, 4096, 0).splitlines():
                    if line.startswith(b"oom_kill "):
                        return int(line.split()[1])
        return 0

    def close(self) -> None:
        """Look no more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
