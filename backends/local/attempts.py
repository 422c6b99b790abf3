"""One attempt of a task on this machine, from its sandbox to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from asyncflow_hpc.errors import ConfigurationError
from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task, TaskDescription

from ..output import read_large, read_output
from ..readiness import State, answers, state_of_ready_file, until_ready
from ..sandbox import sandbox_of
from ..shortage import PAUSE, is_short
from ..staging.apply import missing
from ..staging.plan import make_plan
from ..verdict import memory_text, missing_text
from .functions import died_of_memory
from .launch import environment_for, request_for
from .processes import MARK, End, kill_marked
from .slots import Grant

if TYPE_CHECKING:
    from .backend import LocalExecutionBackend

__all__ = ["SANDBOX_REMOVED", "Attempt"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")

WALLTIME_GRACE = 2.0
# Tries to read what is left by an attempt that nobody waits for any more, where the driver has no descriptor for it.
_LAST_TRIES = 20
_SERVICE_POLL = 0.05
_HERE = "127.0.0.1"

SANDBOX_REMOVED = "its sandbox was removed while it ran"
"""Text of the error of a task without a sandbox at its end."""


class Attempt(ABC):
    """What the backend knows of a task that it runs, or that waits for room.

    Attributes:
        number: of the attempt, 0 for the first.
        needs_slots, holds_slots: it counts against the machine's cores; it does so now.
        leaves_output: its standard output is a file of the sandbox, and its result.
        put_off: the machine had no room for its process when it was to start.
        request: what it needs of them.
        sandbox: directory in which it runs.
        plan: the files that it gets and leaves.
        grant: what it was given, once it may run.
    """

    needs_slots = True
    holds_slots = False
    put_off = False
    leaves_output = False

    def __init__(self, backend: LocalExecutionBackend, task: Task, description: TaskDescription) -> None:
        self.backend = backend
        self.task = task
        self.description = description
        self.request = request_for(description)
        self.grant = Grant(self.request)
        session = str(backend.session.path)
        self.number = task.get("attempt", 0)
        self.sandbox = sandbox_of(session, task["uid"], self.number)
        self.plan = make_plan(task, session, _device_of)
        self._loop = asyncio.get_running_loop()
        self._cause: FailureCause | None = None
        self._walltime: asyncio.TimerHandle | None = None
        self._readiness: asyncio.Task[None] | None = None
        self._ready_file: State | None = None
        self._ready = False
        self._settling: asyncio.Task[None] | None = None
        self._over = False
        self._unread: OSError | None = None

    @abstractmethod
    def start(self) -> None:
        """Run it.

        Raises:
            OSError: the machine cannot start it now.
            AsyncFlowError: it cannot be run at all.
        """

    def end(self, cause: FailureCause, grace: float) -> None:
        """Make it end, and say why; the first reason counts, and none once it has ended by itself."""
        if self._over:
            return
        if self._cause is None:
            self._cause = cause
        self._terminate(grace)

    def look_before_start(self) -> None:
        """Look at the file and the port of a service before it starts: another's must not pass for its own.

        Raises:
            ConfigurationError: the port is taken.
        """
        port = self.description.ready_port
        if self.task.get("is_service"):
            self._ready_file = state_of_ready_file(self.description, self.sandbox)
        if self.task.get("is_service") and port is not None and answers(_HERE, port):
            raise ConfigurationError(
                f"port {port} of service '{self.task['name']}' is answered by another process already"
            )

    def may_go_ahead(self) -> bool:
        """Tell whether it can be sent to a worker before it has room."""
        return False

    def recall(self) -> None:  # noqa: B027
        """Settle whether it has begun or ended, where that may not be known yet."""

    @abstractmethod
    def _terminate(self, grace: float) -> None: ...

    @abstractmethod
    def kill(self) -> None:
        """Kill it without waiting."""

    def _path(self, ending: str) -> str:
        return f"{self.sandbox}/{self.task['uid']}.{ending}"

    def _environment(self) -> dict[str, str]:
        slots = self.backend.slots
        session = str(self.backend.session.path)
        counted = slots.total.gpus > 0
        made = environment_for(self.task, self.description, session, self.sandbox, self.grant, counted)
        return {**made, MARK: self.backend.mark}

    def _running(self, native_id: str | None) -> None:
        task = self.task
        task["native_id"] = native_id
        task["started"] = time.time()
        task["state"] = TaskState.RUNNING
        if self.description.walltime is not None:
            self._walltime = self._loop.call_later(
                self.description.walltime, self.end, FailureCause.WALLTIME, WALLTIME_GRACE
            )
        self.backend.task_state_cb(task, TaskState.RUNNING)
        if task.get("is_service"):
            self._readiness = self._loop.create_task(self._watch_service())

    async def _watch_service(self) -> None:
        threads = self.backend.threads
        result = await until_ready(
            self.description, self.sandbox, lambda: _HERE, threads, _SERVICE_POLL, self._ready_file
        )
        self._ready = True
        self.backend.report_ready(self.task, result)

    def _conclude(self, state: TaskState, cause: FailureCause | None = None) -> None:
        """Report the end."""
        self._stop_timers()
        if self._unread is not None and self.task.get("function") is None and cause in (None, FailureCause.EXIT_CODE):
            gone = not os.path.isdir(self.sandbox)
            if gone or state is TaskState.DONE:
                state, cause = TaskState.FAILED, FailureCause.BACKEND
                self.task["exception"] = SANDBOX_REMOVED if gone else self._unread
        if self._readiness is not None and state is TaskState.DONE and not self._ready:
            state, cause = TaskState.FAILED, FailureCause.EXIT_CODE
            self.task["exception"] = "the service ended before it was ready"
        kills = self.backend.memory_kills.since_last()
        if kills and state is TaskState.DONE:
            log.warning("%s: %s", self.task["uid"], memory_text(kills, own=False))
        self.task["ended"] = time.time()
        self.task["cause"] = cause
        self.backend.ended(self, state)

    def _stop_timers(self) -> None:
        if self._walltime is not None:
            self._walltime.cancel()
        if self._readiness is not None:
            self._readiness.cancel()

    def _settle(self, end: End | None) -> None:
        """Read what it left, and conclude; what takes long is done off the loop."""
        out = err = None
        if self._cause is None:
            with suppress(OSError):
                out = read_output(self._path("out"), self.leaves_output)
                err = read_output(self._path("err"))
        if out is not None and err is not None:
            self.task["stdout"], self.task["stderr"] = out, err
            self.settle_by_judgement(end)
        else:
            self._settling = self._loop.create_task(self._settle_slowly(end))

    def settle_by_judgement(self, end: End | None) -> None:
        """Conclude, come what may: an attempt that is never reported would hang its future and the shutdown."""
        try:
            self._judge(end)
        except Exception as error:
            if is_short(error):
                self._settling = self._loop.create_task(self._settle_slowly(end))
            else:
                self._broken(error)

    async def _settle_slowly(self, end: End | None) -> None:
        tries = 0
        while True:
            try:
                await self._read_all()
                self._judge(end)
                return
            except Exception as error:
                unwanted = self._cause is not None or self.backend.state() == "CLOSED"
                if not is_short(error) or (unwanted and tries >= _LAST_TRIES):
                    self._broken(error)
                    return
                if not tries:
                    log.warning("what %s left cannot be read yet: %s", self.task["uid"], error)
            tries += 1
            await asyncio.sleep(PAUSE)

    async def _read_all(self) -> None:
        if self._cause is not None:
            # It was ended from outside, so what it had started may have left its group and live on.
            await self._off_the_loop(kill_marked, "ASYNCFLOW_SANDBOX", self.sandbox)
        for key, ending in (("stdout", "out"), ("stderr", "err")):
            try:
                self.task[key] = await self._off_the_loop(read_large, self._path(ending))  # type: ignore[literal-required]
            except OSError as error:
                if is_short(error):
                    raise
                self.task[key] = ""  # type: ignore[literal-required]
                if not isinstance(error, FileNotFoundError) or (self.leaves_output and ending == "out"):
                    self._unread = error

    def _off_the_loop(self, function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        return self._loop.run_in_executor(self.backend.threads, function, *arguments)

    def _broken(self, error: Exception) -> None:
        log.warning("what %s left cannot be read", self.task["uid"], exc_info=error)
        self.task["exception"] = error
        self._conclude(TaskState.FAILED, FailureCause.BACKEND)

    def _conclude_cut_short(self) -> None:
        """Report the end of one that was ended from outside."""
        cancelled = self._cause is FailureCause.CANCELLED
        self._conclude(TaskState.CANCELED if cancelled else TaskState.FAILED, self._cause)

    @abstractmethod
    def _judge(self, end: End | None) -> None: ...

    def _judge_end(self, end: End, kills_before: int) -> tuple[TaskState, FailureCause | None]:
        self.task["exit_code"], self.task["signal"] = end.exit_code, end.signal
        if self._cause is FailureCause.CANCELLED:
            return TaskState.CANCELED, self._cause
        if self._cause is not None:
            self.task["exception"] = f"its walltime of {self.description.walltime:g} s was over"
            return TaskState.FAILED, self._cause
        if end.exit_code == 0:
            return self._judge_outputs(self.sandbox)
        if end.exit_code is not None:
            return TaskState.FAILED, FailureCause.EXIT_CODE
        if end.signal is None:
            return TaskState.FAILED, FailureCause.LOST
        return TaskState.FAILED, FailureCause.MEMORY if died_of_memory(end, kills_before) else FailureCause.SIGNAL

    def _judge_outputs(self, ran_in: str) -> tuple[TaskState, FailureCause | None]:
        directory = self.description.cwd or ran_in
        names = missing(self.plan.promised, directory)
        if not names:
            return TaskState.DONE, None
        self.task["exception"] = missing_text(names, directory)
        return TaskState.FAILED, FailureCause.MISSING_OUTPUT


def _device_of(directory: str) -> int:
    return os.stat(directory).st_dev
