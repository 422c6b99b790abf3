"""The last step of ready tasks to their backends: recorded first, where the backend can take over tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from .states import TaskState

if TYPE_CHECKING:
    from .attempts import Attempts
    from .earlier import Earlier
    from .futures import TaskFuture
    from .lanes import Lane
    from .ledger import Ledger
    from .recording import Recording
    from .task import Task

__all__ = ["HandingOver"]

log = logging.getLogger(__name__)

_SUBMITTED = TaskState.SUBMITTED

# Tasks that are recorded at once: the first are to run while the others are still being recorded.
_SLICE = 256


class HandingOver:
    """Submits the tasks of an engine.

    Args:
        ledger: knows those that are unfinished.
        attempts: takes those that a backend does not take.
        recording: the session's; None where nothing is recorded.
        closing: tells whether the engine is being shut down, which cancels all that is not handed over.
    """

    def __init__(
        self, ledger: Ledger, attempts: Attempts, recording: Recording | None, closing: Callable[[], bool]
    ) -> None:
        self._ledger = ledger
        self._closing = closing
        self._attempts = attempts
        self._recording = recording
        self._on_the_way: dict[str, asyncio.Future[None]] = {}

    async def submit(self, lane: Lane, batch: list[Task]) -> None:
        """Hand tasks over to a backend; those that were settled meanwhile are left out."""
        if not lane.recorded or self._recording is None:
            await self._hand_over(lane, batch)
            return
        for start in range(0, len(batch), _SLICE):
            if self._closing():
                return
            await self._hand_over(lane, batch[start : start + _SLICE], self._recording)

    async def _hand_over(self, lane: Lane, batch: list[Task], recording: Recording | None = None) -> None:
        live = self._ledger.live
        if recording is not None:
            await recording.recognition.prepare([live[task["uid"]] for task in batch if task["uid"] in live])
            if self._closing():
                return
        tasks = []
        for task in batch:
            future = live.get(task["uid"])
            if future is not None:
                future._submitted = True
                task["state"] = _SUBMITTED
                if recording is not None and (earlier := _known(recording, future)) is not None:
                    self._ledger.rename(future, earlier.uid)
                    if (error := recording.elsewhere(lane, earlier)) is not None:
                        self._attempts.not_taken(future, error)
                        continue
                tasks.append(task)
        if not tasks or self._attempts.refuse(tasks):
            return
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        uids = [task["uid"] for task in tasks]
        self._on_the_way.update(dict.fromkeys(uids, arrived))
        try:
            if recording is not None:
                tasks = await self._unanswered(lane, tasks, recording)
                if tasks:
                    tasks = self._wanted(await recording.admit(lane, tasks), recording)
            if tasks and not self._closing():
                await lane.submit(tasks)
        except Exception as error:
            log.debug("backend '%s' did not take %d tasks", lane.name, len(tasks), exc_info=True)
            for future in [live[task["uid"]] for task in tasks if task["uid"] in live and task["state"] == _SUBMITTED]:
                # A shutdown may be why, and cancels what is unfinished.
                if future._cancelling or self._closing():
                    self._ledger.cancel(future)
                else:
                    self._attempts.not_taken(future, error)
        finally:
            for uid in uids:
                self._on_the_way.pop(uid, None)
            arrived.set_result(None)

    async def cancel(self, future: TaskFuture) -> None:
        """Ask the backend to stop a task, once it has it; what it was not given yet, it does not get."""
        arrived = self._on_the_way.get(future.uid)
        if arrived is not None:
            await asyncio.wait([arrived])
        # A service that is ready is done, and goes on.
        if future.uid in self._ledger.live:
            await future._spec.lane.cancel(future)

    def _wanted(self, tasks: list[Task], recording: Recording) -> list[Task]:
        """Leave out the tasks that were cancelled while they were recorded."""
        live = self._ledger.live
        for task in tasks:
            future = live.get(task["uid"])
            if future is not None and future._cancelling:
                task["state"] = TaskState.CANCELED
                recording.note(task, TaskState.CANCELED)
                self._ledger.cancel(future)
        return [task for task in tasks if task["state"] != TaskState.CANCELED]

    async def _unanswered(self, lane: Lane, tasks: list[Task], recording: Recording) -> list[Task]:
        """Settle the tasks whose results are in the cache; returns the others."""
        if recording.cache is None:
            return tasks
        answered = await recording.answer(lane, tasks)
        for task in answered:
            task["state"] = TaskState.DONE
            future = self._ledger.live.get(task["uid"])
            if future is not None and future._cancelling:
                self._ledger.cancel(future)
            elif future is not None:
                self._ledger.succeed(future, task.get(future._spec.result_key))
        return [task for task in tasks if task["state"] != TaskState.DONE]


def _known(recording: Recording, future: TaskFuture) -> Earlier | None:
    """Find the task of an earlier driver that this one is."""
    if future.task.get("attempts"):
        # It has its key and its uid, and whatever an earlier driver left of it has failed.
        future.task["earlier"] = None
        return None
    return recording.identify(future)
