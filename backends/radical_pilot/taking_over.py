"""What attempts in the pilots of an earlier driver have come to, by what lies in their sandboxes.

RADICAL-Pilot lets no second process use a pilot, so an attempt either has ended well and left its record, or it is run
again. That its pilot has ended was made sure of before (`BaseExecutionBackend.recover`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncflow_hpc.errors import SessionError
from asyncflow_hpc.states import TaskState
from asyncflow_hpc.task import REPORTED, Task

from ..away import left_by, take_left
from ..evidence import Record
from ..sandbox import sandbox_of
from ..staging.apply import deliver_again, missing
from ..verdict import verdict_on
from .jobs import PilotJob, recorded, take_claim, take_record_of

if TYPE_CHECKING:
    from asyncflow_hpc.earlier import Earlier

    from .backend import RadicalExecutionBackend

__all__ = ["TakingOver"]

log = logging.getLogger(__name__)

# Seconds: between two looks for records, and for which a file system that fails is asked at least.
_PAUSE, _TROUBLE = 0.2, 5.0


class TakingOver:
    """Takes over the tasks of one backend."""

    def __init__(self, backend: RadicalExecutionBackend) -> None:
        self._backend = backend
        # The processes have ended, and what they wrote last may be on its way: all tasks wait for it together.
        self._until: float | None = None

    async def take(self, tasks: Sequence[Task]) -> tuple[list[PilotJob], list[Task]]:
        """Look at what tasks of an earlier driver have left.

        Returns:
            Those that are DONE by evidence, with their results in their dicts, and the tasks of which nothing is
            there, so that they can still run. All others are to be run in a new attempt.

        Raises:
            SessionError: nobody can say whether an attempt has left a record, so it must not be run again.
        """
        loop, threads = asyncio.get_running_loop(), self._backend.threads
        started, waiting = await loop.run_in_executor(threads, self._sorted, tasks)
        jobs = []
        for task in started:
            try:
                jobs.append(self._backend.job_of(task))
            except Exception as error:
                log.warning("what %s left cannot be used: %s", task["uid"], error)
        if self._until is None:
            self._until = loop.time() + self._backend.patience
        records = await self._records(jobs)
        return await loop.run_in_executor(threads, _done, jobs, records), waiting

    def _sorted(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Tell those that have a sandbox from those that have none; of each, the last attempt counts."""
        session = str(self._backend.session.path)
        started: list[Task] = []
        waiting: list[Task] = []
        for task in tasks:
            earlier: Earlier = task["earlier"]
            if not earlier.unfinished:
                started.append(task)
                continue
            # A task is given to another pilot when its own ends, which the journal need not know.
            while os.path.lexists(sandbox_of(session, earlier.uid, task["attempt"] + 1)):
                task["attempt"] += 1
            begun = os.path.lexists(sandbox_of(session, earlier.uid, task["attempt"]))
            (started if begun else waiting).append(task)
        return started, waiting

    async def _records(self, jobs: Sequence[PilotJob]) -> dict[str, Record]:
        """Look for records until each is there, or cannot come any more."""
        loop = asyncio.get_running_loop()
        assert self._until is not None
        found: dict[str, Record] = {}
        sought, until, trouble = list(jobs), self._until, loop.time() + _TROUBLE
        while True:
            sought, failure = await loop.run_in_executor(self._backend.threads, _look, sought, found)
            if not sought or loop.time() >= (until if failure is None else max(until, trouble)):
                break
            await asyncio.sleep(_PAUSE)
        if failure is not None:
            raise SessionError(
                f"nobody can say whether {', '.join(job.uid for job in sought)} has ended: {failure}; resume the"
                " session again when its file system answers"
            )
        return found


def _look(jobs: Sequence[PilotJob], found: dict[str, Record]) -> tuple[list[PilotJob], OSError | None]:
    """Read records.

    Returns:
        The attempts whose records may still come, and what went wrong, if anything did.
    """
    left: list[PilotJob] = []
    failure: OSError | None = None
    for job in jobs:
        try:
            record = recorded(job)
            if record is not None:
                found[job.uid] = record
            # From here on it will not begin, if it has not.
            elif take_claim(job) is not None:
                left.append(job)
        except FileNotFoundError:
            log.debug("%s was not made ready to the end, or its sandbox was removed", job.uid)
        except OSError as error:
            failure = error
            left.append(job)
    return left, failure


def _done(jobs: Sequence[PilotJob], records: dict[str, Record]) -> list[PilotJob]:
    return [job for job in jobs if job.uid in records and _collect(job, records[job.uid])]


def _collect(job: PilotJob, record: Record) -> bool:
    """Put the result of an attempt into its task's dict, if it is DONE and all of it is there."""
    task, directory = job.task, job.description.cwd or job.sandbox
    verdict = verdict_on(record, job.plan.promised, directory, "")
    # Whether a service was ready when it ended, nobody knows any more.
    if verdict.state is not TaskState.DONE or task.get("is_service"):
        return False
    try:
        if missing(job.plan.promised, directory):
            return False
        deliver_again(job.plan.deliveries, directory, job.uid)
        take_record_of(task, record)
        if take_left(task, verdict, left_by(task, verdict, job.sandbox, True))[0] is TaskState.DONE:
            task["sandbox"] = job.sandbox
            return True
    except Exception as error:
        log.warning("what %s left in %s cannot be used: %s", job.uid, job.sandbox, error)
    for key in REPORTED:
        task.pop(key, None)  # type: ignore[misc]
    return False
