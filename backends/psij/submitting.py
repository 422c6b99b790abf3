"""Submission: in a few threads, no faster than is kind to a shared cluster, again after failures that pass."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from asyncflow_hpc.errors import SubmitError

from .jobs import BatchJob, Phase
from .scheduler import Transient

__all__ = ["NotBegunError", "Pace", "Submitting", "TransientError"]

log = logging.getLogger(__name__)

# Jobs that wait for a free thread, so that none waits for the loop.
_AHEAD = 8

# Seconds after a first failure that may pass, and at most.
_SOON, _LATE = 1.0, 60.0


class TransientError(Exception):
    """A submission failed in a way that may pass.

    Attributes:
        unclear: the job may have been submitted all the same.
        refused: another attempt makes no sense; all that is left is to look for the job, and to withdraw it.
        delay: seconds until another attempt makes sense.
        limit: the end of one of our own jobs may help; while any is queued, that is waited for.
        while_queued: nothing else helps.
    """

    def __init__(self, text: str, unclear: bool = False, delay: float = 0.0, refused: bool = False) -> None:
        super().__init__(text)
        self.unclear = unclear
        self.refused = refused
        self.delay = delay
        self.limit = self.while_queued = False

    @classmethod
    def of(cls, failure: Transient) -> TransientError:
        """Make it of what the scheduler said."""
        error = cls(failure.text, failure.unclear, failure.delay)
        error.limit, error.while_queued = failure.limit or failure.while_queued, failure.while_queued
        return error


class NotBegunError(Exception):
    """A submission was given up before it had begun."""


@dataclass(frozen=True)
class Pace:
    """How fast jobs are submitted.

    Attributes:
        rate: at most so many in a second.
        at_once: at most so many commands at the same time.
        most: at most so many jobs in the queue.
        patience: seconds for which a failure that may pass is tried again.
    """

    rate: float
    at_once: int
    most: int
    patience: float


class Submitting:
    """The way of jobs into the queue, in the order in which they came.

    Args:
        submit: submits one job, or raises TransientError, or NotBegunError if the job is not wanted any more, or
            anything else, which is final.
        find: looks for a job that may have been submitted; returns whether it is there.
        withdraw: sees to it that a job that may have been submitted runs nothing; returns whether that is sure.
        on_submitted, on_failed: called with a job, and with what went wrong.
    """

    def __init__(
        self,
        pace: Pace,
        submit: Callable[[BatchJob], Awaitable[None]],
        find: Callable[[BatchJob], Awaitable[bool]],
        withdraw: Callable[[BatchJob], Awaitable[bool]],
        on_submitted: Callable[[BatchJob], None],
        on_failed: Callable[[BatchJob, Exception], None],
    ) -> None:
        self._pace = pace
        self._submit = submit
        self._find = find
        self._withdraw = withdraw
        self._on_submitted = on_submitted
        self._on_failed = on_failed
        self._jobs: deque[BatchJob] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Semaphore(pace.most)
        self._next = 0.0
        self._workers: list[asyncio.Task[None]] = []
        self._carrying: set[int] = set()
        self._closing = False
        self._queued = self._adopted = 0
        self._left, self._stopped = asyncio.Event(), asyncio.Event()

    def start(self) -> None:
        """Begin to submit."""
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work(worker)) for worker in range(self._pace.at_once + _AHEAD)]

    def add(self, job: BatchJob) -> None:
        """Let a job wait for its submission."""
        self._jobs.append(job)
        self._filled.set()

    def remove(self, job: BatchJob) -> bool:
        """Take out a job that waits; False if it is not waiting any more."""
        if job.phase is not Phase.WAITING:
            return False
        job.phase = Phase.ENDED
        return True

    def adopt(self) -> None:
        """Take note of a job that an earlier driver has submitted."""
        self._adopted += 1
        self._queued += 1

    def left_queue(self) -> None:
        """Take note that a submitted job has ended."""
        if self._adopted:
            # These took no room: there may be more of them than there is.
            self._adopted -= 1
        else:
            self._room.release()
        self._queued -= 1
        self._left.set()

    async def close(self) -> None:
        """Stop; a submission that has begun is carried through, as its job would be lost otherwise.

        A job that was taken, and cancelled before its turn came, is told to have failed.
        """
        self._closing = True
        self._left.set()
        self._stopped.set()
        for number, worker in enumerate(self._workers):
            if number not in self._carrying:
                worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, worker: int) -> None:
        while not self._closing:
            await self._filled.wait()
            await self._room.acquire()
            job = self._take()
            if job is None:
                self._room.release()
                continue
            self._carrying.add(worker)
            try:
                await self._keep_pace()
                if job.asked is None and self._closing:
                    # A later driver submits it.
                    return
                await self._carry_through(job)
            finally:
                self._carrying.discard(worker)

    def _take(self) -> BatchJob | None:
        while self._jobs:
            job = self._jobs.popleft()
            if job.phase is Phase.WAITING:
                job.phase = Phase.SUBMITTING
                return job
        self._filled.clear()
        return None

    async def _keep_pace(self) -> None:
        now = asyncio.get_running_loop().time()
        turn = max(self._next, now)
        self._next = turn + 1 / self._pace.rate
        if turn > now:
            await self._pause(turn - now)

    async def _carry_through(self, job: BatchJob) -> None:
        try:
            await self._until_submitted(job)
        except NotBegunError:
            # A later driver submits it.
            self._room.release()
        except Exception as error:
            job.phase = Phase.ENDED
            self._room.release()
            self._on_failed(job, error)
        else:
            if job.phase is Phase.ENDED:
                # Its record was faster than the answer of the submit command.
                self._room.release()
                return
            job.phase = Phase.QUEUED
            self._queued += 1
            self._on_submitted(job)

    async def _until_submitted(self, job: BatchJob) -> None:
        loop = asyncio.get_running_loop()
        until, pause, unclear = loop.time() + self._pace.patience, _SOON, job.unclear
        refused: TransientError | None = None
        while True:
            if job.phase is Phase.ENDED:
                # An attempt of which nobody knew has run.
                return
            try:
                if unclear and await self._find(job):
                    return
                if refused is not None:
                    raise refused
                unclear = False
                if job.asked is not None:
                    raise SubmitError(f"{job.uid} '{job.task['name']}' was cancelled before it was submitted")
                await self._submit(job)
                return
            except NotBegunError:
                if job.asked is None:
                    raise
            except SubmitError:
                # The words are known, but a hook may have printed them after the submission.
                with suppress(SubmitError):
                    if job.placed and await self._runs(job):
                        return
                raise
            except TransientError as error:
                unclear = unclear or error.unclear
                if error.refused and refused is None:
                    refused = error
                    continue
                full = error.limit and self._queued > 0
                hopeless = refused is error or (error.while_queued and not full)
                late = not full and loop.time() >= until
                if self._closing and job.asked is None:
                    # A later driver looks for it, and submits it.
                    raise NotBegunError from error
                if hopeless or late or job.asked is not None:
                    if unclear and await self._runs(job):
                        return
                    text = f"{job.uid} '{job.task['name']}' was not submitted: {refused or error}"
                    passing = late and not hopeless and refused is None
                    raise SubmitError(text, transient=passing) from error
                log.warning("%s is not submitted yet, will be tried again: %s", job.uid, error)
                await self._pause(max(pause, error.delay) * random.uniform(0.8, 1.2), full)
                pause = min(2 * pause, _LATE)
                if full:
                    until = loop.time() + self._pace.patience

    async def _runs(self, job: BatchJob) -> bool:
        """See to it that a job that is given up runs nothing, should it be in the queue.

        Returns:
            Whether it has begun to run already, so that it goes on as every job.

        Raises:
            SubmitError: nobody can say.
        """
        if await self._withdraw(job):
            return False
        with suppress(TransientError):
            if await self._find(job):
                return True
        raise SubmitError(
            f"{job.uid} '{job.task['name']}' may or may not have been submitted: look for job {job.name} in the queue,"
            f" and for its files in {job.sandbox}"
        )

    async def _pause(self, seconds: float, full: bool = False) -> None:
        """Wait, where there are too many jobs only until one of ours ends."""
        if full:
            self._left.clear()
        with suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for((self._left if full else self._stopped).wait(), seconds)
