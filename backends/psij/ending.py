"""How jobs end: evidence is looked for, jobs are cancelled, and tasks are settled."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.states import FailureCause, TaskState

from ..away import left_by, take_left, take_record
from ..evidence import Record
from ..run_script import claimed_by, forbid, marks_of, said
from ..staging.apply import missing
from ..verdict import Verdict, missing_text
from .batching import Batches
from .commands import CommandTimeoutError
from .environment import clean_environment
from .jobs import BatchJob, Phase, is_of, needs_no_word, recorded, said_of, verdict_of
from .scheduler import JobStatus, Meaning, Report, Settlement

if TYPE_CHECKING:
    from .backend import PsijExecutionBackend

__all__ = ["Ending"]

log = logging.getLogger(__name__)

# Seconds: until a record is looked for again, over a walltime before we end a job, and between two requests to end it.
_PAUSE, _LATE, _AGAIN = 0.2, 10.0, 15.0

# Requests to end a job after which the log tells that it is still there.
_MANY = 4

# Seconds for which a job that has left its record may stay in the queue, as while an epilog runs, or a node hangs; and
# so many times as long without one, as what takes no SIGTERM is given time as well (KillWait, kill_delay).
_LINGERING, _LONGER = 30.0, 4

_LOST = Meaning(TaskState.FAILED, FailureCause.LOST, True)
_UNKNOWN = Meaning(TaskState.RUNNING)
_CANCELLED = Meaning(TaskState.CANCELED, FailureCause.CANCELLED, True)
# Of a job of which nothing is left but its record: who sends SIGTERM to a whole job, and forgets it, has deleted it.
_FORGOTTEN = Meaning(TaskState.FAILED, FailureCause.SIGNAL, True, if_sent_term=FailureCause.CANCELLED)
# Of a job that lingers though its record is there, and of whose end nobody says anything.
_OVER = Meaning(TaskState.FAILED, final=True)

_NEVER_BEGAN = "it is not in the queue any more and has never begun: it was deleted, or its node could not start it"


class Ending:
    """Settles the jobs of one backend."""

    def __init__(self, backend: PsijExecutionBackend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        # When, and how often, a job was asked to end; since when one stays that is over, and when it was looked at.
        self._cancelled: dict[str, tuple[float, int]] = {}
        self._lingering: dict[str, tuple[float, float]] = {}
        self._no_accounting = False
        self._accounting: Batches[JobStatus] = Batches(self._ask_accounting, backend.chore)
        self._cancelling: Batches[None] = Batches(self._cancel, backend.chore)

    def look_at(self, job: BatchJob, sure: bool = False) -> None:
        """Settle a job, if there is evidence of its end.

        Args:
            sure: its marker is there, so its record must be, too; the file system may lag.
        """
        if not job.settling:
            job.settling = True
            self._backend.chore(self._settle(job, sure))

    async def _settle(self, job: BatchJob, sure: bool) -> None:
        try:
            record = await self._record(job, self._backend.patience if sure else 0.0)
            meaning, settlement = await self._asked_scheduler(job, record)
            if meaning is not None and not meaning.final and (record is not None or meaning.ending):
                meaning, settlement = await self._lingers(job, record, meaning)
            if record is None and meaning is not None and meaning.final:
                # It has ended since it was looked for, or is on its way through the file system.
                hopeless = meaning is _LOST or (meaning.state is TaskState.CANCELED and job.never_ran)
                record = await self._record(job, 0.0 if hopeless else self._backend.patience)
            text = await self._in_thread(said, job.sandbox) if record is not None and record.in_staging else ""
            marks = await self._in_thread(marks_of, job.sandbox) if record is None and settlement is not None else None
            verdict = verdict_of(job, record, meaning, settlement, text, marks)
            if job.phase is Phase.ENDED:
                # Its submission was given up meanwhile, and the task's dict may be of another attempt by now.
                return
            if verdict is not None and (record is not None or not await self._belongs_to_another(job)):
                if verdict.cause is FailureCause.LOST:
                    # Another attempt may follow.
                    never_began = await self._in_thread(forbid, job.sandbox)
                    if never_began and self._may_have_been_deleted(job):
                        verdict = Verdict(TaskState.CANCELED, FailureCause.CANCELLED, text=_NEVER_BEGAN)
                await self.conclude(job, record, verdict)
            elif record is not None:
                # It will run again, and leave another one.
                self._backend.forget_marker(job)
        except Exception as error:
            log.warning("what became of %s cannot be found out now", job.uid, exc_info=error)
        finally:
            job.settling = False

    async def _belongs_to_another(self, job: BatchJob) -> bool:
        """Tell whether another job of the same attempt runs it; that one counts from now on."""
        first: str | None = await self._in_thread(claimed_by, job.sandbox)
        if first in (None, job.native_id):
            return False
        report = await self._backend.queue.report()
        if report is None:
            return True
        # A task may have written anything there.
        if not any(status.name == job.name and is_of(status, job) for status in report.by_id.get(first, ())):
            return False
        log.warning("%s was submitted twice: job %s runs it, and not job %s", job.uid, first, job.native_id)
        job.native_id = job.task["native_id"] = first
        job.status = job.unseen_since = None
        job.anothers = False
        return True

    async def _record(self, job: BatchJob, patience: float) -> Record | None:
        until = self._loop.time() + patience
        while True:
            with suppress(OSError):
                record: Record | None = await self._in_thread(recorded, job)
                if record is not None or self._loop.time() >= until:
                    return record
            await asyncio.sleep(_PAUSE)

    async def _asked_scheduler(self, job: BatchJob, record: Record | None) -> tuple[Meaning | None, Settlement | None]:
        """Ask the scheduler what it knows of a job, where the record does not say it all."""
        scheduler = self._backend.scheduler
        known = job.status is not None and job.unseen_since is None and scheduler.meaning(job.status).final
        if record is not None and needs_no_word(job, record) and not known:
            return None, None
        if known and job.status is not None:
            return await self._settled(job, job.status)
        # From here on only a fresh answer counts.
        report = await self._backend.queue.report()
        if report is None:
            return _UNKNOWN, None
        status = said_of(job, report, scheduler)
        if status is not None:
            job.status = status
            return await self._settled(job, status)
        accounted = await self._accounted(job)
        if accounted is not None:
            job.status = accounted
            return scheduler.meaning(accounted), scheduler.settle(accounted, "accounting")
        return self._nowhere(job, record, report), None

    async def _lingers(
        self, job: BatchJob, record: Record | None, meaning: Meaning
    ) -> tuple[Meaning, Settlement | None]:
        """Say what to make of the state of a job that is over, though the queue says that it goes on.

        It may be put back into the queue yet, where it was submitted so. Of others, the accounting records may tell why
        they ended; what nobody tells in time is not waited for. Without a record its processes may live on, on a node
        that hangs, so that only a task that was cancelled, of which no other attempt follows, has ended then.
        """
        if meaning is _UNKNOWN or meaning.paused or meaning.state is not TaskState.RUNNING:
            self._lingering.pop(job.uid, None)
            return meaning, None
        now = self._loop.time()
        since, _ = self._lingering.get(job.uid, (now, now))
        self._lingering[job.uid] = since, now
        if record is None:
            late = now - since >= _LONGER * _LINGERING
            return (_OVER if late and job.asked is FailureCause.CANCELLED else meaning), None
        if job.asked is not None:
            return _OVER, None
        if _may_run_again(job):
            return meaning, None
        accounted = await self._accounted(job)
        if accounted is not None and (found := self._backend.scheduler.meaning(accounted)).final:
            job.status = accounted
            return found, self._backend.scheduler.settle(accounted, "accounting")
        return (_OVER if now - since >= _LINGERING else meaning), None

    def look_again(self, job: BatchJob, ending: bool = False) -> None:
        """Settle a job that is over, and has stayed in the queue for long since.

        Args:
            ending: the queue says that it is being ended.
        """
        now = self._loop.time()
        if ending:
            self._lingering.setdefault(job.uid, (now, now))
        if job.uid in self._lingering and now - self._lingering[job.uid][1] >= _LINGERING:
            self.look_at(job)

    async def _settled(self, job: BatchJob, status: JobStatus) -> tuple[Meaning, Settlement | None]:
        """Take what the queue says of a job; that it ended well is for the accounting records to say."""
        scheduler = self._backend.scheduler
        meaning = scheduler.meaning(status)
        if meaning.final and meaning.state is TaskState.DONE:
            accounted = await self._accounted(job)
            if accounted is not None:
                return meaning, scheduler.settle(accounted, "accounting")
        return meaning, scheduler.settle(status, "queue")

    def _nowhere(self, job: BatchJob, record: Record | None, report: Report) -> Meaning | None:
        if record is not None:
            return _FORGOTTEN if self._backend.scheduler.forgetful and report.complete else None
        if not report.complete:
            return _UNKNOWN
        if job.asked is FailureCause.CANCELLED:
            return _CANCELLED
        now = self._loop.time()
        if now - (job.unseen_since or now) < self._backend.grace:
            return _UNKNOWN
        # Should the queue have told a lie, it does not go on beside whatever is done instead.
        self.cancel(job)
        return _LOST

    def _may_have_been_deleted(self, job: BatchJob) -> bool:
        """Tell whether a job that is gone without a trace was last seen waiting, on a site that keeps no history."""
        return self._backend.scheduler.forgetful and self._no_accounting and job.started is None and not job.why

    async def _accounted(self, job: BatchJob) -> JobStatus | None:
        if self._no_accounting or job.native_id is None:
            return None
        accounted = await asyncio.shield(self._accounting.add(job.native_id))
        return accounted if accounted is not None and is_of(accounted, job) else None

    async def _ask_accounting(self, ids: Sequence[str]) -> Mapping[str, JobStatus]:
        scheduler = self._backend.scheduler
        command = scheduler.accounting_command(ids)
        if not command:
            return {}
        with suppress(OSError, CommandTimeoutError):
            code, out, err = await self._backend.command(command)
            if scheduler.query_failure((err or out).decode(errors="replace"), code) is None:
                return {status.native_id: status for status in scheduler.parse_accounting(out, err)}
            self._no_accounting = scheduler.accounting_disabled((err + out).decode(errors="replace"))
        return {}

    async def conclude(self, job: BatchJob, record: Record | None, verdict: Verdict) -> None:
        """Report the end of a job.

        Raises:
            OSError: what it left cannot be read for want of something, such as a descriptor: nothing was reported.
        """
        task = job.task
        if record is not None:
            self._backend.running(job)
            # Its record may be faster than the answer of the submit command, or than a search for it in the queue.
            task["native_id"] = job.native_id or record.native_id
        if record is not None or verdict.state is TaskState.DONE:
            task["sandbox"] = job.sandbox
        left = await self._in_thread(left_by, task, verdict, job.sandbox, record is not None)
        if record is not None:
            take_record(task, record)
        if verdict.state is TaskState.DONE and record is None:
            names = await self._in_thread(missing, job.plan.promised, job.description.cwd or job.sandbox)
            if names:
                text = missing_text(names, job.description.cwd or job.sandbox)
                verdict = Verdict(TaskState.FAILED, FailureCause.MISSING_OUTPUT, 0, text=text)
        state, cause = take_left(task, verdict, left)
        if task.get("is_service") and state is TaskState.DONE and not self._backend.was_ready(job):
            state, cause = TaskState.FAILED, FailureCause.EXIT_CODE
            task["exception"] = "the service ended before it was ready"
        task["cause"] = cause
        self._forget_requests([job.native_id] if job.native_id is not None else [])
        self._lingering.pop(job.uid, None)
        self._backend.forget_marker(job)
        self._backend.ended(job, state)

    def enforce_walltime(self, job: BatchJob) -> None:
        """End a job that has run longer than it may: the scheduler counts in minutes."""
        walltime = job.description.walltime
        if walltime is None or job.started is None or job.asked is not None:
            return
        if self._loop.time() - job.started > walltime + _LATE:
            job.asked = FailureCause.WALLTIME
            self.cancel(job)

    def cancel(self, job: BatchJob) -> None:
        """Ask the scheduler to end a job, if it was not asked lately."""
        if job.uid in self._lingering:
            self.look_at(job)
        now = self._loop.time()
        if job.native_id is None or job.anothers:
            return
        last, requests = self._cancelled.get(job.native_id, (-_AGAIN, 0))
        if now - last < _AGAIN:
            return
        if requests == _MANY:
            log.warning(
                "job %s of %s is still there after %d requests to end it: look at it with the scheduler's own commands,"
                " end it by hand, or ask the site",
                job.native_id,
                job.uid,
                requests,
            )
        self._cancelled[job.native_id] = now, requests + 1
        self._cancelling.add(job.native_id)

    async def _cancel(self, ids: Sequence[str]) -> Mapping[str, None]:
        for argv in self._backend.scheduler.cancel_commands(ids):
            try:
                code, out, err = await self._backend.command(argv)
            except (OSError, CommandTimeoutError) as error:
                log.warning("jobs cannot be cancelled now: %s", error)
                self._forget_requests(ids)
                continue
            failure = self._backend.scheduler.cancel_failure((err + out).decode(errors="replace"), code)
            if failure is not None:
                log.warning("jobs cannot be cancelled now: %s", failure)
                self._forget_requests(ids)
        self._backend.queue.expect_change()
        return {}

    def _forget_requests(self, ids: Sequence[str]) -> None:
        """Let jobs be cancelled again as soon as the queue lists them."""
        for native_id in ids:
            self._cancelled.pop(native_id, None)

    def abandon(self, ids: Sequence[str]) -> None:
        """Ask the scheduler to end jobs, and do not wait for its answer."""
        for argv in self._backend.scheduler.cancel_commands(list(ids)):
            with suppress(OSError):
                subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=clean_environment(asking=True),
                    start_new_session=True,
                    cwd=os.sep,
                )

    def _in_thread(self, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(self._backend.threads, function, *arguments)


def _may_run_again(job: BatchJob) -> bool:
    """Tell whether a job was submitted so that the scheduler may put it back into the queue."""
    description = job.description
    native = {
        str(key).lstrip("-") for options in (description.slurm, description.pbs, description.lsf) for key in options
    }
    return not native.isdisjoint(("requeue", "r"))
