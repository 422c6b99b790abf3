"""What a call of a function leaves running: processes that become children of the one that has forked the call."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

__all__ = ["adopt", "die_with", "end_all"]

# prctl(2).
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_KILL = int(signal.SIGKILL)

_prctl: Callable[[int, int], int] | None = None

# Seconds that they have to end after SIGTERM, and after SIGKILL, and between two looks.
_GRACE, _DYING, _PAUSE = 0.5, 2.0, 0.005


def adopt() -> bool:
    """Become the parent of all descendants that lose theirs, even of daemons; False where there is no such thing."""
    global _prctl
    if sys.platform != "linux":
        return False
    try:
        import ctypes
    except ImportError:
        return False
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong]
    _prctl = prctl
    # A call imports it itself, by which its end is told that there may be output of C code to be flushed.
    for name in ("ctypes", "ctypes._endian"):
        sys.modules.pop(name, None)
    return prctl(_SET_CHILD_SUBREAPER, 1) == 0  # type: ignore[no-any-return]


def die_with(parent: int) -> None:
    """Let this process be killed when its parent ends, even if it leaves its process group."""
    if _prctl is not None and _prctl(_SET_PDEATHSIG, _KILL) == 0 and os.getppid() != parent:
        # It was too fast.
        os.kill(os.getpid(), _KILL)


def end_all(spared: int) -> bool:
    """End all children of this process but one; False if some do not end."""
    if not _left(spared):
        return True
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _DYING)):
        deadline = time.monotonic() + patience
        asked: set[int] = set()
        while time.monotonic() < deadline:
            left = _left(spared)
            if not left:
                return True
            for pid in left - asked:
                # A child of ours that nobody has waited for: its pid cannot be another's.
                os.kill(pid, number)
            asked |= left
            time.sleep(_PAUSE)
    return False


def _left(spared: int) -> set[int]:
    """Wait for those that have ended; returns the others."""
    return {pid for pid in _children() if pid != spared and os.waitpid(pid, os.WNOHANG)[0] == 0}


def _children() -> set[int]:
    pid = os.getpid()
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
            return set(map(int, stream.read().split()))
    except OSError:
        import psutil

        return {child.pid for child in psutil.Process().children()}
