"""Jobs that an earlier driver of the session submitted, or was about to submit when it died."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncflow_hpc.errors import SessionError, StagingError
from asyncflow_hpc.states import TaskState
from asyncflow_hpc.task import Task

from ..evidence import Record
from ..shortage import PAUSE, is_short
from ..staging.apply import deliver_again, missing
from ..verdict import Verdict, verdict_on
from .ending import Ending
from .jobs import BatchJob, Phase, recorded
from .submitting import Submitting

if TYPE_CHECKING:
    from asyncflow_hpc.earlier import Earlier

    from .backend import PsijExecutionBackend

__all__ = ["TakingOver"]

log = logging.getLogger(__name__)


class TakingOver:
    """Brings the jobs of an earlier driver back."""

    def __init__(self, backend: PsijExecutionBackend, submitting: Submitting, ending: Ending) -> None:
        self._backend = backend
        self._submitting = submitting
        self._ending = ending

    async def take(self, tasks: Sequence[Task]) -> set[str]:
        """Take tasks over; see `BaseExecutionBackend.reattach`."""
        taken = set()
        for task in tasks:
            if await self._take(task):
                taken.add(task["uid"])
        return taken

    async def _take(self, task: Task) -> bool:
        earlier: Earlier = task["earlier"]
        job = self._backend.job_of(task)
        if earlier.ended is not None:
            return await self._collect(job)
        if earlier.native_id is None:
            # Its driver died before it could tell: it is submitted if it is neither in the queue nor has run.
            job.unclear = True
            self._backend.begin(job)
        else:
            self._watch(job, earlier)
        return True

    async def _collect(self, job: BatchJob) -> bool:
        """Report what a job has come to that an earlier driver saw end well, if its evidence is still there.

        Raises:
            SessionError: nobody can say.
        """
        told = False
        while True:
            try:
                return await self._collected(job)
            except (OSError, StagingError) as error:
                if not is_short(error):
                    raise SessionError(
                        f"what {job.uid} left cannot be read, so it is not run again: {error}; resume the session when"
                        " it can"
                    ) from error
                if not told:
                    log.warning("what %s left cannot be read yet: %s", job.uid, error)
                told = True
                await asyncio.sleep(PAUSE)

    async def _collected(self, job: BatchJob) -> bool:
        loop = asyncio.get_running_loop()
        record: Record | None = await loop.run_in_executor(self._backend.threads, recorded, job)
        directory = job.description.cwd or job.sandbox
        if record is not None:
            verdict = verdict_on(record, job.plan.promised, directory, "")
        elif await loop.run_in_executor(self._backend.threads, _told_without_record, job):
            verdict = Verdict(TaskState.DONE, exit_code=0)
        else:
            return False
        if verdict.state is not TaskState.DONE:
            return False
        if await loop.run_in_executor(self._backend.threads, missing, job.plan.promised, directory):
            return False
        try:
            await loop.run_in_executor(self._backend.threads, deliver_again, job.plan.deliveries, directory, job.uid)
        except StagingError as error:
            if is_short(error):
                raise
            log.warning("%s is done, but not all of what it left is in its place: %s", job.uid, error)
            return False
        self._backend.enter(job)
        job.phase = Phase.COLLECTED
        await self._ending.conclude(job, record, verdict)
        return True

    def _watch(self, job: BatchJob, earlier: Earlier) -> None:
        self._backend.enter(job)
        job.native_id = job.task["native_id"] = earlier.native_id
        job.phase, job.placed = Phase.QUEUED, True
        self._submitting.adopt()
        if earlier.state is TaskState.RUNNING:
            self._backend.running(job)
        self._ending.look_at(job)
        self._backend.queue.expect_change()


def _told_without_record(job: BatchJob) -> bool:
    """Tell whether what a command printed is there, where the scheduler's records have told how it ended."""
    return job.task.get("function") is None and os.path.isfile(f"{job.sandbox}/{job.uid}.out")
