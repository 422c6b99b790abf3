"""LocalExecutionBackend: slots, processes and function workers of one machine."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from asyncflow_hpc.backend import BackendCapabilities
from asyncflow_hpc.errors import ConfigurationError, UnsupportedTaskError
from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task, TaskDescription, describe

from ..base import SandboxBackend
from ..cgroup import MemoryKills
from ..pickling import FunctionPickles
from ..sandbox import make_session
from ..shortage import is_short
from ..site import SiteRules, site_for
from ..staging.downloads import remote
from ..staging.fetching import Fetching
from .attempts import Attempt
from .call_attempts import FunctionAttempt, ThreadAttempt
from .captures import remove_captures
from .command_attempts import CommandAttempt
from .functions import FunctionWorkers, memory_kills
from .launch import request_for, visible_gpus
from .machine import total_memory, usable_cores
from .plain_calls import PlainFunctions
from .processes import MARK, kill_marked
from .script_calls import ScriptedCallAttempt, needs_script
from .slots import Request, Slots
from .taking_over import end_earlier, leave_mark, take_over
from .worker_process import Call

if TYPE_CHECKING:
    from asyncflow_hpc.site_model import Site

__all__ = ["LocalExecutionBackend"]

log = logging.getLogger(__name__)

# Seconds between the request to end and the kill.
GRACE = 2.0
SHUTDOWN_GRACE = 1.0

# Seconds until a machine that was full for the moment is asked again.
_RETRY = 0.1

# Descriptors left to the driver and its user; each running task needs at most two, and each worker two more.
_RESERVED_DESCRIPTORS = 64


class LocalExecutionBackend(SandboxBackend):
    """Runs executables as processes, and functions in worker processes, on this machine.

    Args:
        executor: runs the function tasks instead, as in radical.asyncflow; it is shut down with the backend.
        cores: that may be busy at once; those of the site where None, else those this process may use.
        gpus: how many to hand out; those of the site where None, else none.
        memory: bytes, or text such as "8GB"; that of the machine where None.
        functions: "process" (as in a fresh interpreter), "shared" (they share processes), or "thread" (of an executor).
        scripted: run every task through the run script, as the batch backends do; a rehearsal, and slower.
        site: profile of this machine, by name, path or loaded: its first node type says what nobody says here.
        name: under which an engine knows it.
    """

    capabilities = BackendCapabilities(
        ranks=True, gpus=True, staging=True, services=True, reattach=True, cancel_running=True, contextvars=True
    )

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        cores: int | None = None,
        gpus: int | None = None,
        memory: int | str | None = None,
        functions: Literal["process", "shared", "thread"] = "process",
        scripted: bool = False,
        site: str | os.PathLike[str] | Site | None = None,
        name: str = "local",
    ) -> None:
        super().__init__(name)
        self._rules = SiteRules(site_for(site, "local"))
        of_site = self._rules.machine()
        cores = next(value for value in (cores, of_site.cores, usable_cores()) if value is not None)
        gpus = of_site.gpus if gpus is None else gpus
        memory = of_site.memory if memory is None else memory
        if isinstance(cores, bool) or not isinstance(cores, int) or cores < 1:
            raise ConfigurationError(f"cores of backend '{name}' must be a whole number above zero, not {cores!r}")
        if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 0:
            raise ConfigurationError(f"gpus of backend '{name}' must be a whole number, not {gpus!r}")
        if functions not in ("process", "shared", "thread"):
            raise ConfigurationError(f"functions of backend '{name}' cannot be {functions!r}")
        if executor is not None and not isinstance(executor, Executor):
            raise ConfigurationError(f"executor of backend '{name}' is not a concurrent.futures.Executor: {executor!r}")
        if executor is None and functions == "thread":
            executor = ThreadPoolExecutor(cores, thread_name_prefix="asyncflow-function")
        self.executor, self.scripted = executor, scripted
        self.slots = Slots(cores, visible_gpus(gpus), total_memory(name, memory))
        self.pickles, self.plain = FunctionPickles(), PlainFunctions()
        self._functions = functions
        self._attempts: dict[str, Attempt] = {}
        self._waiting: dict[str, Attempt] = {}
        self._sessions: set[Path] = set()
        self._starting = self._warned = False

    async def start(self) -> None:
        """Get ready for tasks."""
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED_DESCRIPTORS
        self.mark = uuid.uuid4().hex
        self.workers = FunctionWorkers(self.mark, self, shared=self._functions == "shared")
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="asyncflow-local")
        self._fetching = Fetching[Attempt](self._fetched)
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self.null = os.open(os.devnull, os.O_RDWR)
        self.kills_before, self.memory_kills = memory_kills(), MemoryKills()

    def check_description(self, description: TaskDescription) -> None:
        """Refuse a task that this machine could never hold."""
        self._refuse_too_big(self._rules.complete(description))

    def _refuse_too_big(self, description: TaskDescription) -> None:
        lacking = self.slots.lacking(request_for(description))
        if lacking is not None:
            raise UnsupportedTaskError(f"backend '{self.name}' can never run this task: it needs {lacking}")

    async def submit_tasks(self, tasks: Sequence[Task]) -> None:
        """Queue tasks; each starts when there is room for it."""
        if not self._started:
            await self._start_once()
        if self._closed:
            raise ConfigurationError(f"backend '{self.name}' was shut down")
        self._make_session()
        for task in tasks:
            try:
                self._queue(task)
            except Exception as error:
                task["exception"] = error
                self.task_state_cb(task, TaskState.FAILED)
        self.start_waiting()

    def _make_session(self) -> None:
        if self.session.path not in self._sessions:
            make_session(self.session.path)
            leave_mark(self.session.path, self.mark)
            self._sessions.add(self.session.path)

    async def recover(self) -> None:
        """End what earlier drivers left running here: it cannot be watched as a child is."""
        await asyncio.get_running_loop().run_in_executor(None, end_earlier, self.session.path)

    async def reattach(self, tasks: Sequence[Task]) -> Collection[str]:
        """Take what tasks of an earlier driver have come to; those that never began are run now."""
        self._make_session()
        loop = asyncio.get_running_loop()
        done, waiting = await loop.run_in_executor(self.threads, take_over, tasks, self.session, self.executor is None)
        for task in done:
            self.report(task, TaskState.DONE)
        if waiting:
            await self.submit_tasks(waiting)
        return {task["uid"] for task in (*done, *waiting)}

    def _queue(self, task: Task) -> None:
        description = self._rules.complete(describe(task))
        self._refuse_too_big(description)
        attempt = self._attempt_for(task, description)
        if remote(attempt.plan):
            self._fetching.begin(attempt, self.session.path)
        else:
            self._admit(attempt)

    def _admit(self, attempt: Attempt) -> None:
        task = attempt.task
        if attempt.needs_slots:
            self._waiting[task["uid"]] = attempt
            self.slots.put(task["uid"], attempt.request)
        else:
            self._start_attempt(attempt)

    def _attempt_for(self, task: Task, description: TaskDescription) -> Attempt:
        self.refuse_what_no_sandbox_holds(task, description)
        if task.get("function") is None:
            return CommandAttempt(self, task, description)
        if self.executor is not None:
            return ThreadAttempt(self, task, description)
        if self.scripted or needs_script(description, self._functions == "process"):
            return ScriptedCallAttempt(self, task, description)
        return FunctionAttempt(self, task, description)

    def _fetched(self, attempt: Attempt, failure: Exception | None) -> None:
        """Go on with an attempt whose downloads are there, or failed."""
        if failure is None:
            self._admit(attempt)
            self.start_waiting()
            return
        attempt.task["exception"] = str(failure)
        self.report(attempt.task, TaskState.FAILED, FailureCause.STAGING)

    def start_waiting(self) -> None:
        """Start all that there is room for, and send workers what comes next."""
        # An attempt that fails to start frees its slots in the loop below, which then goes on with them itself.
        if self._starting or self._closed:
            return
        self._starting = True
        try:
            # What is ahead of one worker may run on another that has nothing to do.
            while self._start_next() or (self._room() and self.workers.reclaim(self.slots.fits)):
                pass
            if len(self.slots):
                self.workers.refill()
        finally:
            self._starting = False
        self._warn_of_services()

    def _room(self) -> bool:
        busy = self.slots.granted
        return not busy or 2 * (busy + 1 + len(self.workers)) <= self._descriptors

    def _start_next(self) -> bool:
        taken = self.slots.take() if self._room() else None
        if taken is None:
            return False
        uid, grant = taken
        attempt = self._waiting.pop(uid)
        attempt.grant = grant
        attempt.holds_slots = True
        self.workers.count_start()
        return self._start_attempt(attempt)

    def _warn_of_services(self) -> None:
        if not self._waiting or self._warned or not self._attempts:
            return
        if all(attempt.task.get("is_service") for attempt in self._attempts.values()):
            self._warned = True
            log.warning(
                "services hold all that %d waiting tasks need; give backend '%s' more cores",
                len(self._waiting),
                self.name,
            )

    def _start_attempt(self, attempt: Attempt) -> bool:
        """Start an attempt; False if the machine has no room for a process just now."""
        uid = attempt.task["uid"]
        self._attempts[uid] = attempt
        self._all_ended.clear()
        try:
            attempt.look_before_start()
            attempt.start()
        except Exception as error:
            if is_short(error) and attempt.holds_slots:
                if not attempt.put_off:
                    log.warning("no room to start %s now: %s", uid, error)
                attempt.put_off = True
                self._wait_first(attempt)
                # The end of any other starts it too; but there may be none.
                asyncio.get_running_loop().call_later(_RETRY, self.start_waiting)
                return False
            attempt.task["exception"] = error
            if isinstance(error, OSError):
                # Not of the function's own.
                attempt.task["cause"] = FailureCause.BACKEND
            self.ended(attempt, TaskState.FAILED)
        return True

    def _wait_first(self, attempt: Attempt) -> None:
        uid = attempt.task["uid"]
        del self._attempts[uid]
        attempt.holds_slots = False
        self.slots.release(uid)
        self.slots.put(uid, attempt.request, first=True)
        self._waiting[uid] = attempt
        if not self._attempts:
            self._all_ended.set()

    def free(self, attempt: Attempt) -> None:
        """Take back the slots of an attempt whose processes have ended, and start what waited for them.

        Comes before its result is looked at, so that the next task runs meanwhile.
        """
        if attempt.holds_slots:
            attempt.holds_slots = False
            self.slots.release(attempt.task["uid"])
            self.start_waiting()

    def wait_again(self, attempt: Attempt) -> None:
        """Let an attempt that was to run, but never began, wait before all others."""
        self._wait_first(attempt)
        self.report(attempt.task, TaskState.SUBMITTED)
        self.start_waiting()

    def next_calls(self, request: Request, most: int, sharing: int) -> list[Call]:
        """Take out what is next to run, if it can be sent ahead; no worker gets more than its share."""
        calls: list[Call] = []
        most = min(most, -(-len(self.slots) // sharing))
        while len(calls) < most and (uid := self.slots.ahead(request)) is not None:
            attempt = self._waiting[uid]
            if not isinstance(attempt, FunctionAttempt) or not attempt.may_go_ahead():
                self.slots.put(uid, request, first=True)
                break
            calls.append(attempt)
        return calls

    def put_back(self, calls: Sequence[Call]) -> None:
        """Let calls that were sent ahead wait for room again, before all others."""
        for call in reversed(calls):
            assert isinstance(call, FunctionAttempt)
            self.slots.put(call.task["uid"], call.request, first=True)

    def pass_on(self, old: Attempt, new: Attempt) -> None:
        """Give an attempt that was sent ahead the slots of the one before it."""
        uid = new.task["uid"]
        self._attempts[uid] = self._waiting.pop(uid)
        new.grant = self.slots.pass_on(old.task["uid"], uid)
        new.holds_slots, old.holds_slots = True, False

    def recall(self, attempt: Attempt) -> None:
        """Settle whether an attempt that was sent to a worker has begun or ended; nothing is started meanwhile."""
        starting, self._starting = self._starting, True
        try:
            attempt.recall()
        finally:
            self._starting = starting

    def ended(self, attempt: Attempt, state: TaskState) -> None:
        """Report an attempt that has ended."""
        if self._attempts.pop(attempt.task["uid"], None) is not None:
            self.free(attempt)
            self.report(attempt.task, state)
            if not self._attempts:
                self._all_ended.set()

    async def cancel_task(self, uid: str) -> bool:
        """Cancel a task that waits, or end its processes; it is reported CANCELED when they are gone."""
        fetching = self._fetching.stop(uid)
        if fetching is not None:
            self.report(fetching.task, TaskState.CANCELED, FailureCause.CANCELLED)
            return True
        if uid in self._waiting:
            self.recall(self._waiting[uid])
        waiting = self._waiting.pop(uid, None)
        if waiting is not None:
            self.slots.remove(uid)
            self.report(waiting.task, TaskState.CANCELED, FailureCause.CANCELLED)
            self.start_waiting()
            return True
        attempt = self._attempts.get(uid)
        if attempt is None:
            self.start_waiting()
            return False
        attempt.end(FailureCause.CANCELLED, GRACE)
        return True

    async def _shut(self) -> None:
        if not self._started:
            return
        for fetching in await self._fetching.close():
            self.report(fetching.task, TaskState.CANCELED, FailureCause.CANCELLED)
        self.workers.recall_all()
        waiting, self._waiting = self._waiting, {}
        for attempt in waiting.values():
            self.slots.remove(attempt.task["uid"])
            self.report(attempt.task, TaskState.CANCELED, FailureCause.CANCELLED)
        try:
            for attempt in list(self._attempts.values()):
                attempt.end(FailureCause.CANCELLED, SHUTDOWN_GRACE)
            await self._all_ended.wait()
            await self.workers.close(SHUTDOWN_GRACE)
            if self._sessions:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self.threads, kill_marked, MARK, self.mark)
            for session in self._sessions:
                remove_captures(str(session), self.mark)
        finally:
            self.abandon()
            if self.executor is not None:
                # Its threads cannot be stopped; waiting for them here would hold up the loop.
                self.executor.shutdown(wait=False, cancel_futures=True)
            self.threads.shutdown(wait=False, cancel_futures=True)
            os.close(self.null)
            self.memory_kills.close()

    def abandon(self) -> None:
        """Kill all processes without waiting for them."""
        # The loop may turn a few times more, in which their ends would let others start.
        self._closed = True
        if not self._started:
            return
        for attempt in list(self._attempts.values()):
            attempt.kill()
        self.workers.kill()
