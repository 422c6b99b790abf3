"""How tasks in pilots end: evidence is looked for, tasks are ended, and settled."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from asyncflow_hpc.states import FailureCause, TaskState

from ..away import left_by, take_left
from ..evidence import Record
from ..local.processes import kill_marked
from ..psij.commands import CommandTimeoutError, run_blocking
from ..run_script import group_of, said, script_path
from ..sandbox import sandbox_of
from ..verdict import Verdict
from .dispatching import TaskEvent
from .jobs import (
    Phase,
    PilotJob,
    claimed_for,
    ended_from_outside,
    recorded,
    take_claim,
    take_record_of,
    verdict_of,
)
from .masters import ALL_WORKERS

if TYPE_CHECKING:
    from .backend import RadicalExecutionBackend

__all__ = ["Ending"]

log = logging.getLogger(__name__)

# Seconds: between the request to end and the kill; until a record is looked for again; that a command may take; and
# until Slurm is asked again to end a step.
_GRACE, _PAUSE, _TIMEOUT, _AGAIN = 2.0, 0.2, 20.0, 15.0

# Attempts of a task that was running when its pilots ended.
_MOST_ATTEMPTS = 10

# Seconds to look for a record when the pilot of a task has ended.
_HURRY = 2.0

# A process beside those that run in an allocation.
_IN_JOB = ("srun", "--overlap", "--ntasks=1", "--nodes=1", "--mem=0", "--quiet", "--input=none")

# Seconds in which the end of a pilot is seen.
_NOTICE = {"local": 1.5, "slurm": 4.5, "other": 1.5}


class Ending:
    """Ends and settles the tasks of one backend."""

    def __init__(self, backend: RadicalExecutionBackend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._remote = backend.pool.settings.kind != "local"

    def look_at(self, job: PilotJob, sure: bool = False) -> None:
        """Settle a task, if there is evidence of its end, or if its end was told.

        Args:
            sure: its marker is there, so its record must be, too; the file system may lag.
        """
        if not job.settling:
            job.settling = True
            self._backend.chore(self._settle(job, sure))

    async def _settle(self, job: PilotJob, sure: bool) -> None:
        attempt = job.attempt
        try:
            while job.phase is not Phase.ENDED and job.attempt == attempt:
                told = job.told
                record = await self._record(job, self._patience(job, sure))
                if told is not None and await self._explained(job, told, record):
                    continue
                text = await self._in_thread(said, job.sandbox) if record is not None and record.in_staging else ""
                verdict = verdict_of(job, record, text, self._remote)
                if verdict is not None:
                    await self._conclude(job, record, verdict)
                    return
                if job.told is told:
                    return
        except Exception as error:
            log.warning("what became of %s cannot be found out now", job.uid, exc_info=error)
        finally:
            job.settling = False

    def _patience(self, job: PilotJob, sure: bool) -> float:
        if sure:
            return self._backend.patience
        if job.told is None or job.asked is not None or not job.begun:
            # Who was ended by us may have been killed before it could leave a record.
            return 0.0
        return self._backend.patience if job.told.state else min(self._backend.patience, _HURRY)

    async def _explained(self, job: PilotJob, told: TaskEvent, record: Record | None) -> bool:
        """Find out whether a task that something has ended was ended with its pilot, whose end is seen later."""
        outside = record is None or ended_from_outside(record, self._remote)
        if not outside or job.asked is not None or told.cause is not None or told.state == "":
            return False
        pool = self._backend.pool
        until = self._loop.time() + _NOTICE[pool.settings.kind]
        # The pool learns of it in other threads.
        while pool.end_of(told.pilot) is None and job.told is told and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)
        end = pool.end_of(told.pilot)
        if end is None or job.told is not told:
            return job.told is not told
        job.told = told._replace(state="", text=f"its pilot has ended: {end[0]}", cause=end[1])
        return True

    async def _record(self, job: PilotJob, patience: float) -> Record | None:
        until = self._loop.time() + patience
        while True:
            with suppress(OSError):
                record: Record | None = await self._in_thread(recorded, job)
                if record is not None or self._loop.time() >= until:
                    return record
            await asyncio.sleep(_PAUSE)

    async def _conclude(self, job: PilotJob, record: Record | None, verdict: Verdict) -> None:
        task = job.task
        by_itself = record is not None and record.ended_by_itself
        if not by_itself and self._run_again(job):
            return
        if record is not None:
            self._backend.running(job)
            take_record_of(task, record)
        left = await self._in_thread(left_by, task, verdict, job.sandbox, record is not None)
        state, cause = take_left(task, verdict, left)
        if task.get("is_service") and state is TaskState.DONE and not self._backend.was_ready(job):
            state, cause = TaskState.FAILED, FailureCause.EXIT_CODE
            task["exception"] = "the service ended before it was ready"
        self._backend.ended(job, state, cause)

    def _run_again(self, job: PilotJob) -> bool:
        """Give a task to another pilot, if its own has ended and the policy is to do so."""
        told, backend = job.told, self._backend
        ended = told is not None and not told.state and told.cause not in (None, FailureCause.SUBMIT)
        # What was never begun loses nothing, and costs nobody anything.
        allowed = backend.pool.on_pilot_end == "resubmit" or not job.begun
        wanted = job.asked is None and allowed and backend.state() != "CLOSED"
        if not ended or not wanted or job.attempt - job.first + 1 >= _MOST_ATTEMPTS:
            return False
        # Whatever may be left of it will not begin.
        take_claim(job)
        assert told is not None
        log.warning("%s is run again: %s", job.uid, told.text)
        backend.forget(job)
        job.attempt = job.task["attempt"] = job.attempt + 1
        job.sandbox = sandbox_of(job.session, job.uid, job.attempt)
        job.nonce, job.told, job.begun = backend.session.nonce(job.uid, job.attempt), None, True
        if job.phase is Phase.RUNNING:
            backend.report(job.task, TaskState.SUBMITTED)
        job.phase = Phase.WAITING
        backend.place(job)
        return True

    def end(self, job: PilotJob, cause: FailureCause) -> None:
        """End a task that a pilot was given; the first cause counts."""
        if job.asked is None:
            job.asked = cause
            self._backend.chore(self._end(job))

    async def _end(self, job: PilotJob) -> None:
        native = await self._in_thread(take_claim, job)
        if job.phase is Phase.ENDED:
            return
        if native is None:
            self._backend.pool.cancel(job.rp_uid)
            job.told = job.told or TaskEvent(job.rp_uid, "CANCELED")
            self.look_at(job)
        elif "@" in native:
            await self._end_step(job, native)
        else:
            await self._in_thread(end_processes, int(native), job.sandbox, _GRACE)
            # Killed, it can leave no record.
            job.told = job.told or TaskEvent(job.rp_uid, "CANCELED")
            self.look_at(job)

    def worker_ended(self, job: PilotJob, told: TaskEvent) -> None:
        """Settle a call if the worker of RAPTOR that has ended had it, or if nobody has begun it."""
        self._backend.chore(self._worker_ended(job, told, job.attempt))

    async def _worker_ended(self, job: PilotJob, told: TaskEvent, attempt: int) -> None:
        native = await self._in_thread(take_claim, job)
        if native is not None and told.worker not in (ALL_WORKERS, await self._in_thread(claimed_for, job)):
            return
        if native is not None:
            # It ends with its worker; but not before now, perhaps.
            if "@" in native:
                await self._signal(native, job.sandbox, "KILL")
            else:
                await self._in_thread(end_processes, int(native), job.sandbox, 0.0)
        if job.phase is not Phase.ENDED and job.attempt == attempt:
            job.begun, job.told = native is not None, told
            self.look_at(job)

    async def _signal(self, native: str, sandbox: str, *names: str) -> None:
        """Send signals to a runner and to its task, in an allocation of Slurm."""
        step, _, process = native.partition("@")
        node, _, pid = process.rpartition(":")
        kills = "; ".join(f'kill -{name} -{pid}; [ -z "$task" ] || kill -{name} "-$task"' for name in names)
        script = f'task=""; [ ! -r "$1" ] || read -r task <"$1"; {kills}'
        group = f"{sandbox}/.asyncflow/group"
        job_id = step.partition(".")[0]
        await self._command(*_IN_JOB, f"--jobid={job_id}", f"--nodelist={node}", "/bin/sh", "-c", script, "sh", group)

    async def _end_step(self, job: PilotJob, native: str) -> None:
        """End what runs in an allocation of Slurm.

        The step's end alone would kill the run script before it has ended the ranks, which are a step of their own.
        """
        job_id = native.partition(".")[0]
        for names in (("TERM", "CONT"), ("KILL",)):
            await self._signal(native, job.sandbox, *names)
            if await self._ended_within(job, _GRACE):
                break
        steps = await self._steps_of(job_id, job.rp_uid)
        while steps:
            await self._command("scancel", *steps)
            if await self._ended_within(job, _AGAIN):
                return
            steps = await self._steps_of(job_id, job.rp_uid)
        # Killed, it can leave no record.
        job.told = job.told or TaskEvent(job.rp_uid, "CANCELED")
        self.look_at(job)

    async def _ended_within(self, job: PilotJob, seconds: float) -> bool:
        until = self._loop.time() + seconds
        # The job ends by its record, by what RADICAL-Pilot tells, or with its pilot.
        while job.phase is not Phase.ENDED and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)
        return job.phase is Phase.ENDED

    async def _steps_of(self, job_id: str, name: str) -> list[str]:
        """Find the steps of a task: its own, and that of its ranks."""
        argv = ["squeue", "--steps", f"--jobs={job_id}", "--noheader", "--format=%i %j"]
        with suppress(OSError, CommandTimeoutError):
            _, out, _ = await self._in_thread(run_blocking, argv, _TIMEOUT)
            rows = [line.split(None, 1) for line in out.decode(errors="replace").splitlines()]
            # RADICAL-Pilot's step bears the name of its script.
            return [row[0] for row in rows if len(row) == 2 and row[1].strip() in (name, f"{name}.exec.sh")]
        return []

    async def _command(self, *argv: str) -> None:
        try:
            code, _, err = await self._in_thread(run_blocking, argv, _TIMEOUT)
        except (OSError, CommandTimeoutError) as error:
            log.warning("a task cannot be ended now: %s", error)
        else:
            log.debug("%s: %s %s", argv, code, err)

    def _in_thread(self, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(self._backend.threads, function, *arguments)


def end_processes(pid: int, sandbox: str, grace: float) -> None:
    """End what runs in a sandbox on this machine, and wait until it is gone; in a thread.

    Args:
        pid: of the run script, or of the process that does its work for RAPTOR, which leads a group of its own.
        grace: seconds between the request to end and the kill.
    """
    with suppress(psutil.Error, OSError):
        script = psutil.Process(pid)
        # The number may be another's by now. A forked call has the words of what forked it.
        if script_path(sandbox) in script.cmdline() or os.path.samefile(script.cwd(), sandbox):
            group = os.getpgid(pid)
            if group == pid:
                task = group_of(sandbox)
                _signal_groups((group, task), signal.SIGTERM, signal.SIGCONT)
                _wait_for(script, grace)
                _signal_groups((group, task), signal.SIGKILL)
            else:
                script.terminate()
                _wait_for(script, grace)
                script.kill()
    kill_marked("ASYNCFLOW_SANDBOX", sandbox)


def _signal_groups(groups: Iterable[int | None], *numbers: signal.Signals) -> None:
    # The runner's own group first: so it notes the signal before the task has ended of it.
    for group in groups:
        for number in numbers:
            if group is not None:
                with suppress(OSError):
                    os.killpg(group, number)


def _wait_for(process: psutil.Process, seconds: float) -> None:
    # It is not our child, so its end is not told.
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
