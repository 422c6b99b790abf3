"""What the queue says of all jobs of a backend: one command for all of them, and no more often than needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from .commands import CommandTimeoutError, run_command
from .scheduler import Report, Scheduler

__all__ = ["QueueWatcher"]

log = logging.getLogger(__name__)

# How much longer the interval gets each time when nothing changes.
_GROWTH = 1.5

# How much longer than an answer took the interval is, so that a scheduler that has much to tell is asked less often.
_SPARING = 50


class QueueWatcher:
    """Asks for the queue, at an interval that shrinks when something should happen.

    Jobs that have ended, of which there may be many more than others, are asked for only where somebody needs them.

    Args:
        shortest: seconds between two questions while jobs come and go.
        longest: seconds between two questions when nothing changes.
        timeout: seconds that a command may take.
        wanted: whether anybody wants to know.
        ended_wanted: whether jobs that have ended must be listed, too.
        on_answer: called with the answer, the loop's time at which the question was asked, and whether jobs that have
            ended would be there; returns whether something has changed.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        shortest: float,
        longest: float,
        timeout: float,
        wanted: Callable[[], bool],
        ended_wanted: Callable[[], bool],
        on_answer: Callable[[Report, float, bool], bool],
    ) -> None:
        self._scheduler = scheduler
        self._shortest = min(shortest, longest)
        self._longest = longest
        self._timeout = timeout
        self._wanted = wanted
        self._ended_wanted = ended_wanted
        self._on_answer = on_answer
        self._interval = self._shortest
        self._took = 0.0
        self._sooner = asyncio.Event()
        self._due = 0.0
        self._asked = -self._shortest
        self._waiting: list[asyncio.Future[Report | None]] = []
        self._closing = False
        self._told = ""
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    def expect_change(self) -> None:
        """Ask again soon."""
        self._interval = self._soonest()
        self._be_due(asyncio.get_running_loop().time() + self._interval)

    def _be_due(self, time: float) -> None:
        # Told for each job of many, the watcher need not wake up each time.
        if time < self._due:
            self._due = time
            self._sooner.set()

    async def report(self) -> Report | None:
        """Wait for an answer to a question that was asked after this call, and that all who wait have in common.

        Returns:
            It, or None where the scheduler does not answer, which says nothing about any job.
        """
        if self._closing:
            return None
        answer: asyncio.Future[Report | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._be_due(self._asked + self._shortest)
        return await answer

    async def close(self) -> None:
        """Stop."""
        self._closing = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._give(self._waiting, None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        # wait_for of Python 3.11 and earlier may lose a cancellation that comes together with what it waits for.
        while not self._closing:
            self._due = loop.time() + (self._shortest if self._waiting else self._interval)
            while (left := self._due - loop.time()) > 0 and not self._closing:
                self._sooner.clear()
                with suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(self._sooner.wait(), left)
            if (self._waiting or self._wanted()) and not self._closing:
                await self._ask()

    async def _ask(self) -> None:
        waiting, self._waiting = self._waiting, []
        every = self._scheduler.queue_command()
        command = every if waiting or self._ended_wanted() else self._scheduler.queue_command(ended=False)
        self._asked = asyncio.get_running_loop().time()
        report = None
        try:
            report = await self._answer(command)
        finally:
            self._give(waiting, report)
        changed = False
        if report is not None:
            try:
                changed = self._on_answer(report, self._asked, command == every)
            except Exception:
                # The next answer may be another.
                log.exception("what the queue says could not be dealt with")
        self._took = asyncio.get_running_loop().time() - self._asked
        if changed:
            self._interval = self._soonest()
        else:
            self._interval = min(max(self._interval * _GROWTH, self._soonest()), self._longest)

    def _soonest(self) -> float:
        return min(max(self._shortest, _SPARING * self._took), self._longest)

    @staticmethod
    def _give(waiting: list[asyncio.Future[Report | None]], report: Report | None) -> None:
        for answer in waiting:
            if not answer.done():
                answer.set_result(report)

    async def _answer(self, command: Sequence[str]) -> Report | None:
        try:
            code, out, err = await run_command(command, self._timeout)
        except (CommandTimeoutError, OSError) as error:
            self._tell(str(error))
            return None
        failure = self._scheduler.query_failure((err or out).decode(errors="replace"), code)
        if failure is not None:
            self._tell(failure.strip()[:500])
            return None
        report = self._scheduler.parse_queue(out, err)
        self._tell("; ".join(report.problems))
        return report

    def _tell(self, text: str) -> None:
        if text and text != self._told:
            log.warning("the queue cannot be asked, jobs stay as they are: %s", text)
        self._told = text
