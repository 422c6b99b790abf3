"""Child processes: start them cheaply, learn of their end without polling, and leave none behind."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from ..shortage import is_short

__all__ = ["MARK", "Child", "End", "kill_marked"]

log = logging.getLogger(__name__)

# Every process of a backend has this variable, with a value of that backend's own.
MARK = "ASYNCFLOW_MARK"

# Seconds that killed processes may take to be gone, and between two looks at them.
_DYING, _POLL = 2.0, 0.005


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended.

    Attributes:
        exit_code: None if a signal ended it, or if nobody knows.
        signal: number, else None.
        max_rss: peak memory of the largest process in bytes; None where it was less than that of the driver, for then
            nobody knows.
        cpu_time: user and system seconds, with those of waited-for children.
    """

    exit_code: int | None
    signal: int | None
    max_rss: int | None = None
    cpu_time: float = 0.0


class Child:
    """A process that leads a group of its own, and all that it starts.

    Args:
        argv: what to run.
        on_end: called once on the loop with the End, when the process has ended and its group was killed.
        cwd, env, stdin, stdout, stderr, pass_fds: as for subprocess.Popen; as bytes an environment costs less.
        umask: of the process; -1 for that of the driver.
        beside: return another process group that the process has made for what it runs, once there is one.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        on_end: Callable[[End], None],
        *,
        cwd: str,
        env: Mapping[bytes, bytes],
        stdin: int,
        stdout: int | None = None,
        stderr: int | None = None,
        pass_fds: Sequence[int] = (),
        umask: int = 0o077,
        beside: Callable[[], int | None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._beside = beside
        self._kill_timer: asyncio.TimerHandle | None = None
        self._pidfd = -1
        self._ended = False
        # No preexec_fn and no user change: so subprocess takes vfork, three times as fast as fork.
        self._popen = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            umask=umask,
        )
        self.pid = self._popen.pid
        self._least_rss = _inherited_rss()
        try:
            self._watch()
        except BaseException as error:
            # Nobody would learn of its end, so it must not run.
            self._signal_group(signal.SIGKILL)
            self._popen.wait()
            raise OSError(errno.EAGAIN, f"the end of a process cannot be watched: {error}") from error

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            # No pidfd on macOS and on old kernels, or no descriptor left for one.
            threading.Thread(target=self._wait_in_thread, name=f"wait {self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(self._pidfd, self._pidfd_ready)

    def _pidfd_ready(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Still a zombie: its pid, and so the number of its group, cannot be another's yet.
        self._signal_group(signal.SIGKILL)
        self._settle(_reaped(self.pid, self._least_rss))

    def _wait_in_thread(self) -> None:
        end = _reaped(self.pid, self._least_rss)
        self._signal_group(signal.SIGKILL)
        try:
            self._loop.call_soon_threadsafe(self._settle, end)
        except RuntimeError:
            log.debug("process %d ended after the loop was closed", self.pid)

    def _settle(self, end: End) -> None:
        self._ended = True
        # Popen would warn that nobody waited for it.
        self._popen.returncode = end.exit_code if end.exit_code is not None else -(end.signal or 1)
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._on_end(end)

    def terminate(self, grace: float) -> None:
        """Ask the whole group to end, and kill it when `grace` seconds have passed."""
        if self._ended or self._kill_timer is not None:
            return
        self._signal_group(signal.SIGTERM)
        self._signal_group(signal.SIGCONT)
        self._kill_timer = self._loop.call_later(grace, self.kill)

    def kill(self) -> None:
        """Kill the whole group now."""
        if not self._ended:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        # Its own first: so it notes the signal before what it runs has ended of it.
        for group in (self.pid, self._beside() if self._beside is not None else None):
            if group is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, number)


# ru_maxrss is in KiB on Linux, in bytes on macOS: getrusage(2) of each.
_UNIT = 1 if sys.platform == "darwin" else 1024

# Bytes by which the kernel's counters of memory may be off.
_BLUR = 1 << 20


def _inherited_rss() -> int:
    """Return the peak memory in bytes up to which that of a child that has just started is not its own.

    Linux counts for a process what it shared with its parent until it began to execute its program.
    """
    if sys.platform != "linux":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT + _BLUR


def _reaped(pid: int, least_rss: int) -> End:
    try:
        _, status, usage = os.wait4(pid, 0)
    except ChildProcessError:
        log.error("somebody else waited for process %d; how it ended is lost", pid)
        return End(None, None)
    code = os.waitstatus_to_exitcode(status)
    max_rss = usage.ru_maxrss * _UNIT
    return End(
        code if code >= 0 else None,
        -code if code < 0 else None,
        max_rss if max_rss > least_rss else None,
        usage.ru_utime + usage.ru_stime,
    )


def kill_marked(name: str, value: str) -> bool:
    """Kill the processes of this user that carry a value in an environment variable, and wait until they are gone.

    Finds those that left their process group, as daemons do, and those that they start meanwhile.

    Args:
        name, value: of the variable; a value that starts with it and a slash counts too.

    Returns:
        Whether it is sure that there are none any more; the log says why not.
    """
    deadline = time.monotonic() + _DYING
    while True:
        found: Sequence[psutil.Process] = ()
        why = "they could not be ended"
        try:
            found = [process for process in psutil.process_iter() if _carries(process, name, value)]
            if not found:
                return True
        except OSError as error:
            why = f"they cannot be looked for: {error}"
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        if time.monotonic() > deadline:
            log.error("processes with %s=%s may still run: %s %s", name, value, why, found or "")
            return False
        # Their end cannot be waited for: they are not our children.
        time.sleep(_POLL)


def _carries(process: psutil.Process, name: str, value: str) -> bool:
    try:
        if process.pid == os.getpid() or process.uids().real != os.getuid():
            return False
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        marked: str | None = process.environ().get(name)
    except psutil.Error:
        return False
    except OSError as error:
        if is_short(error):
            # Nobody has looked at it.
            raise
        return False
    return marked is not None and (marked == value or marked.startswith(value + "/"))
