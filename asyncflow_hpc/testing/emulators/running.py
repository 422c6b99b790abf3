"""The processes of emulated jobs: their start, the signals that they get, their end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from . import process_table
from .leaders import job_file, login_shell, script_of
from .model import Ended, Job, State

__all__ = ["Processes"]

# Seconds between two looks at the memory of jobs that have a limit.
_LOOK = 0.5

# Seconds between two looks for the last processes of jobs that are being ended.
_LAST = 0.05


class Processes:
    """Starts the scripts of jobs, and says when they have ended; the machine of a `BatchSystem`.

    Args:
        place: directory for scripts and lists of nodes.
        on_over: called with a job and the code of what led its session.
        on_greedy: called with a job that uses more memory than it asked for.
        by_session: a job is its session, led by a login shell: what has left the session lives on. Else a job is all
            that it has started, as with cgroups, and a job file leads it.

    Attributes:
        environment: what a job that starts is told by the batch system, its id first.
    """

    def __init__(
        self,
        place: Path,
        on_over: Callable[[Job, int], None],
        on_greedy: Callable[[Job, Ended], None],
        by_session: bool,
    ) -> None:
        self._place = place
        self._by_session = by_session
        self._on_over = on_over
        self._on_greedy = on_greedy
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        process_table.adopt_orphans()
        self._running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        self._marks: dict[bytes, int] = {}
        # Scripts that have ended, until what they have left has been looked for.
        self._gone: set[int] = set()
        # Leaders that have ended with a signal to all of their job, which has time to follow.
        self._ending: dict[int, tuple[Job, int]] = {}
        self._sending: list[tuple[int, int]] = []
        self._due = False
        self._looking: asyncio.TimerHandle | None = None
        self.environment: Callable[[Job], Mapping[str, str]] = lambda job: {}

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def later(self, delay: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Call something in so many seconds."""
        return self._loop.call_later(delay, call)

    def node_file(self, job: Job) -> Path:
        """Say where the list of nodes of a job lies."""
        return self._place / f"{job.number}.nodes"

    def scratch(self, job: Job) -> Path:
        """Return the directory that a job has for itself while it runs."""
        return self._place / f"pbs.{job.number}"

    def _output_of(self, job: Job) -> Path:
        """Where pbsdsh finds the output of a job."""
        return self._place / f"{job.number}.out"

    def start(self, job: Job) -> int | None:
        """Start the script of a job."""
        launch = job.launch
        leader = (login_shell if self._by_session else job_file)(self._place, job)
        if self._by_session:
            self.scratch(job).mkdir(0o700, exist_ok=True)
            self._output_of(job).unlink(missing_ok=True)
            self._output_of(job).symlink_to(launch.output or os.devnull)
        self.node_file(job).write_text("".join(f"{share.node.name}\n" * share.ranks for share in job.shares))
        directory = launch.directory if os.access(launch.directory, os.X_OK) else os.sep
        streams: list[int] = []
        try:
            streams = self._streams(job)
            process = subprocess.Popen(
                leader.argv,
                executable=leader.program,
                cwd=directory,
                env={**launch.environment, **self.environment(job), **leader.environment},
                stdin=subprocess.PIPE,
                stdout=streams[0],
                stderr=streams[1],
                umask=launch.umask,
                start_new_session=True,
            )
        except OSError:
            return None
        finally:
            for stream in set(streams):
                os.close(stream)
        assert process.stdin is not None
        with suppress(OSError):
            # It fits into the pipe.
            process.stdin.write(leader.given)
            process.stdin.close()
        self._running[process.pid] = job, process
        self._marks[self._mark(job)] = process.pid
        if job.memory is not None and self._looking is None:
            self._looking = self._loop.call_later(_LOOK, self._look_at_memory)
        return process.pid

    def _mark(self, job: Job) -> bytes:
        return "=".join(next(iter(self.environment(job).items()))).encode()

    def _streams(self, job: Job) -> list[int]:
        launch = job.launch
        how = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if launch.truncate and job.runs < 2 else os.O_APPEND)

        def opened(path: str | None) -> int:
            try:
                return os.open(path or os.devnull, how, 0o666 & ~launch.umask)
            except OSError:
                if not self._by_session:
                    raise
                # PBS writes it elsewhere, and fails to bring it there at the end.
                job.undelivered = True
                return os.open(os.devnull, os.O_WRONLY)

        output = opened(launch.output)
        return [output, output] if launch.joined else [output, opened(launch.errors)]

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            job, process = self._running.get(found.si_pid, (None, None))
            if process is None or job is None:
                os.waitpid(found.si_pid, 0)
                continue
            # It has time to follow its leader only where a signal was sent to all of it.
            leader, follows = found.si_pid, self._by_session and job.asked in (Ended.CANCELLED, Ended.WALLTIME)
            if self._by_session and not follows:
                with suppress(OSError):
                    os.killpg(leader, signal.SIGKILL)
            code = process.wait()
            if not follows:
                self._over(leader, job, code)
                continue
            if not self._ending:
                self._loop.call_soon(self._look_for_the_last)
            self._ending[leader] = job, code

    def _look_for_the_last(self) -> None:
        left = {leader for _, leader, _ in process_table.in_sessions(self._ending)}
        for leader in self._ending.keys() - left:
            self._over(leader, *self._ending.pop(leader))
        if self._ending:
            self._loop.call_later(_LAST, self._look_for_the_last)

    def _over(self, leader: int, job: Job, code: int) -> None:
        for path in (script_of(self._place, job), self.node_file(job), self._place / f"{job.number}.job"):
            path.unlink(missing_ok=True)
        if self._by_session:
            shutil.rmtree(self.scratch(job), ignore_errors=True)
            self._output_of(job).unlink(missing_ok=True)
        self._gone.add(leader)
        self._on_over(job, code)
        self._send_soon()

    def signal(self, job: Job, number: int) -> None:
        """Send a signal to all processes of a job."""
        if job.pid is not None:
            self._sending.append((job.pid, number))
            self._send_soon()

    def _send_soon(self) -> None:
        # One look at all processes serves for many jobs.
        if not self._due:
            self._due = True
            self._loop.call_soon(self._send)

    def signal_script(self, job: Job, number: int) -> None:
        """Send a signal to the script of a job alone, and not to what leads its session."""
        if job.pid in self._running:
            for pid in process_table.children(job.pid):
                with suppress(OSError):
                    os.kill(pid, number)

    def _owned(self, leaders: Collection[int]) -> Iterator[tuple[int, int, int]]:
        """Find the processes of jobs: process ids, leaders, bytes of memory."""
        if self._by_session:
            return process_table.in_sessions(leaders)
        return process_table.owned(self._running, self._marks)

    def _send(self) -> None:
        self._due = False
        sending, self._sending = self._sending, []
        wanted: dict[int, list[int]] = {}
        for leader, number in sending:
            wanted.setdefault(leader, []).append(number)
        gone, self._gone = self._gone, set()
        if wanted.keys() - gone or process_table.has_orphans(self._running):
            for pid, leader, _ in self._owned(wanted):
                for number in wanted.get(leader, ()):
                    with suppress(OSError):
                        os.kill(pid, number)
        for leader in gone:
            job, _ = self._running.pop(leader)
            self._marks.pop(self._mark(job), None)

    def _look_at_memory(self) -> None:
        limited = {pid: job for pid, (job, _) in self._running.items() if job.memory is not None}
        used = dict.fromkeys(limited, 0)
        for _, leader, resident in self._owned(used):
            if leader in used:
                used[leader] += resident
        for pid, job in limited.items():
            job.used = max(job.used, used[pid])
            if used[pid] > (job.memory or 0) and job.state is State.RUNNING:
                self._on_greedy(job, Ended.MEMORY)
        self._looking = self._loop.call_later(_LOOK, self._look_at_memory) if limited else None

    def close(self) -> None:
        """End all that runs."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        # Some may be about to start others.
        for _ in range(3):
            for pid in {*process_table.descendants(), *self._running}:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        for _, process in self._running.values():
            process.wait()
