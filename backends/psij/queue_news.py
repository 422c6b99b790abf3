"""What the queue says of the jobs of a backend, and what follows from it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from asyncflow_hpc.states import FailureCause, TaskState

from .ending import Ending
from .jobs import BatchJob, Phase, said_of
from .scheduler import UNKNOWN, JobStatus, Report

if TYPE_CHECKING:
    from .backend import PsijExecutionBackend

__all__ = ["QueueNews"]

log = logging.getLogger(__name__)


class QueueNews:
    """Takes the answers of the queue.

    Args:
        ending: settles the jobs that have ended.
        fail_unrunnable: fail a task whose job can never run as it is, instead of only saying so.
    """

    def __init__(self, backend: PsijExecutionBackend, ending: Ending, fail_unrunnable: bool) -> None:
        self._backend = backend
        self._ending = ending
        self._fail_unrunnable = fail_unrunnable
        self._unlisted: list[BatchJob] = []

    def ended_wanted(self) -> bool:
        """Tell whether the queue must list jobs that have ended, too.

        So it is where one of ours was not among the others, or soon will not be.
        """
        self._unlisted = [job for job in self._unlisted if job.phase is not Phase.ENDED]
        return bool(self._unlisted) or any(job.asked is not None for job in self._backend.jobs)

    def take(self, report: Report, asked: float, with_ended: bool) -> bool:
        """Take what the queue says of all jobs, or of those that have not ended; returns whether anything changed."""
        changed = False
        for job in self._backend.jobs:
            if job.native_id is None or job.submitted >= asked or job.phase not in (Phase.QUEUED, Phase.RUNNING):
                continue
            status = said_of(job, report, self._backend.scheduler)
            job.anothers = status is None and job.native_id in report.by_id
            if status is None and not report.complete:
                continue
            if status is None and not with_ended:
                self._unlisted.append(job)
                changed = True
            elif status is None:
                if job.unseen_since is None:
                    job.unseen_since = asked
                self._ending.look_at(job)
            else:
                changed = self._take_status(job, status) or changed
                if job.asked is not None and not self._backend.scheduler.meaning(status).final:
                    # The request may have been lost.
                    self._ending.cancel(job)
        return changed

    def _take_status(self, job: BatchJob, status: JobStatus) -> bool:
        job.unseen_since = None
        before, job.status = job.status, status
        job.task["native_state"], job.task["native_reason"] = status.state, status.reason
        meaning = self._backend.scheduler.meaning(status)
        if meaning is UNKNOWN:
            # A word that says nothing, and not that it was put back.
            return False
        if meaning.final:
            self._ending.look_at(job)
        elif meaning.state is TaskState.RUNNING:
            self._backend.running(job)
            if meaning.paused:
                # How long it has run before that is for the scheduler to count.
                job.started = asyncio.get_running_loop().time()
            self._ending.enforce_walltime(job)
            self._ending.look_again(job, meaning.ending)
        elif job.phase is Phase.RUNNING:
            job.phase, job.started = Phase.QUEUED, None
            self._backend.forget_marker(job)
            log.warning("%s was put back into the queue: %s", job.uid, status.reason)
            self._backend.report(job.task, TaskState.SUBMITTED)
        elif before is None or before.reason != status.reason:
            self._warn_unrunnable(job, status)
        return before is None or (before.state, before.reason) != (status.state, status.reason)

    def _warn_unrunnable(self, job: BatchJob, status: JobStatus) -> None:
        reason = status.reason or ""
        text, obstacle = self._backend.scheduler.unrunnable(reason), self._backend.scheduler.obstacle(reason)
        if reason in job.warned or (text is None and obstacle is None):
            return
        job.warned.add(reason)
        if text is None:
            log.warning("job %s of %s waits (%s): %s", job.native_id, job.uid, reason, obstacle)
            return
        log.warning("job %s of %s cannot run as it is (%s): %s", job.native_id, job.uid, reason, text)
        if self._fail_unrunnable:
            job.why = f"its job cannot run as it is: {reason}: {text}"
            job.asked = job.asked or FailureCause.SUBMIT
            self._ending.cancel(job)
