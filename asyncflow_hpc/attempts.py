"""What becomes of attempts that failed: another one, the end of the task, or the end of all submitting."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .components import BLOCK
from .errors import (
    AsyncFlowError,
    CommandError,
    ConfigurationError,
    FailureBudgetError,
    SerializationError,
    StagingConflictError,
    SubmitError,
    TaskDescriptionError,
    UnsupportedTaskError,
)
from .outcome import end_not_taken, failed_attempt, submit_error
from .retries import FailedAttempt, RetryPolicy, as_policy
from .states import FINAL, FailureCause, TaskState
from .task import REPORTED

if TYPE_CHECKING:
    from .engine import WorkflowEngine
    from .futures import TaskFuture
    from .ledger import Ledger
    from .preparing import Preparing
    from .task import Task

__all__ = ["Attempts"]

log = logging.getLogger(__name__)

# What is wrong with the task itself, and would be the same again.
_HOPELESS = (
    CommandError,
    ConfigurationError,
    SerializationError,
    StagingConflictError,
    TaskDescriptionError,
    UnsupportedTaskError,
)


class Attempts:
    """Takes the failures of an engine's tasks; all of it happens on the engine's loop.

    Every failed attempt of every task counts against the budget, retried or not: each has used the machine, and a
    broken site shows in all of them. Tasks that never ran because of others, and bodies that failed in the driver,
    do not count.

    Args:
        engine, ledger, preparing: the engine and its parts.
        policy: for tasks that do not say it themselves.
        max_failures: number of failed attempts at which nothing is submitted any more; None: there is no such number.
    """

    def __init__(
        self,
        engine: WorkflowEngine,
        ledger: Ledger,
        preparing: Preparing,
        policy: RetryPolicy,
        max_failures: int | None,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._preparing = preparing
        self._policy = policy
        self._max_failures = max_failures
        self._failures = 0
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self._withdrawn: set[str] = set()
        self._last = ""

    @property
    def _spent(self) -> bool:
        return self._max_failures is not None and self._failures >= self._max_failures

    def not_taken(self, future: TaskFuture, error: Exception) -> None:
        """Take a task that its backend did not take.

        Args:
            error: what the backend raised, for this task or for several.
        """
        if not isinstance(error, AsyncFlowError):
            future.task["cause"] = FailureCause.BACKEND
        self.failed(future, submit_error(future._spec.lane.name, future.task, error))

    def failed(self, future: TaskFuture, error: Exception | None = None) -> None:
        """Take a failed attempt: try the task again, or let it fail.

        Args:
            future: of the task, whose dict says what went wrong.
            error: why its backend did not take it, where that is so.
        """
        task = future.description
        if future.uid in self._waiting:
            log.debug("%s is said to have failed once more, and waits for its next attempt already", future.uid)
            return
        attempt = failed_attempt(task, error)
        before = task.get("attempts", ())
        self._failures += 1
        said = error if error is not None else task.get("exception")
        policy = self._policy if task["description"].retries is None else as_policy(task["description"].retries)
        changes: dict[str, Any] | None = None
        # Counted from here: a task that an earlier driver has tried does not begin with attempt 0.
        if self._may_follow(future, said) and policy.tries_again(attempt.cause, len(before), _may_pass(said)):
            changes, remark = self._grown(future, policy, len(before) + 1)
            attempt = replace(attempt, remark=remark)
        task["attempts"] = (*before, attempt)
        if changes is not None:
            self._try_again(future, policy, attempt, changes)
        else:
            if before or attempt.remark:
                log.warning("%s '%s' is not tried again: %s", future.uid, task["name"], attempt.remark or attempt)
            self._engine.handle_task_failure(task, future, error)
        if self._failures == self._max_failures and not self._engine.closing:
            self._stop_submitting(task, attempt)

    def end_unknown(self, reported: Any, state: str, error: Exception) -> None:
        """Fail a task whose end was reported in a way that nobody can use: no other report will come.

        Args:
            reported: by its backend.
            error: what came of taking it.
        """
        uid = reported.get("uid") if isinstance(reported, dict) else getattr(reported, "uid", None)
        future = self._ledger.live.get(uid) if isinstance(uid, str) else None
        if future is not None and isinstance(state, str) and future._spec.lane.meaning.get(state) in FINAL:
            future.task["state"] = TaskState.FAILED
            self._ledger.fail(future, end_not_taken(future.task, state, error))

    def _may_follow(self, future: TaskFuture, said: object) -> bool:
        over = self._engine.closing or future.done()
        return not (over or future._spec.kind == BLOCK or isinstance(said, _HOPELESS))

    def _grown(self, future: TaskFuture, policy: RetryPolicy, number: int) -> tuple[dict[str, Any] | None, str]:
        """Say what an attempt asks for beside what the one before did; None, and why, where it cannot be made."""
        if self._spent:
            return None, f"max_failures={self._max_failures} attempts have failed"
        spec, task = future._spec, future.task
        if spec.lane.capabilities is None:
            return {}, ""
        moved = spec.lane.backend.moved_input(task)
        if moved is not None:
            return None, f"its input {moved} was moved into {task['sandbox']}; with action='copy' it could be"
        if not policy.escalate:
            return {}, ""
        changes: dict[str, Any] = {}
        try:
            changes = policy.escalated(spec.lane.backend.describe(task), number)
            # What the user wrote stays as it is.
            written = {**task["task_backend_specific_kwargs"], **changes}
            if task["description"].cwd is not None:
                # Already absolute; the driver may have changed its directory since the call.
                written["cwd"] = task["description"].cwd
            description = spec.check(written)
            spec.lane.refuse_unrunnable(description)
        except Exception as error:
            return None, f"with {_shown(changes)}: {error}"
        task["description"], task["task_backend_specific_kwargs"] = description, written
        return changes, ""

    def _try_again(
        self, future: TaskFuture, policy: RetryPolicy, attempt: FailedAttempt, changes: dict[str, Any]
    ) -> None:
        task: dict[str, Any] = future.task  # type: ignore[assignment]
        delay = policy.delay_after(len(task["attempts"]) - 1, random.random())
        more = f" with {_shown(changes)}" if changes else ""
        log.warning("%s '%s' is tried again in %.1f s%s: %s", future.uid, task["name"], delay, more, attempt)
        for key in REPORTED:
            task.pop(key, None)
        task["attempt"] = attempt.number + 1
        task["state"] = TaskState.PENDING
        future.state = "PENDING"
        future._submitted = False
        self._waiting[future.uid] = self._engine.loop.call_later(delay, self._submit, future.uid)

    def _submit(self, uid: str) -> None:
        del self._waiting[uid]
        # One that was cancelled while it waited is gone already.
        future = self._ledger.live.get(uid)
        if future is not None:
            future._spec.lane.add(future.task)

    def close(self) -> None:
        """Try nothing again any more."""
        for timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()

    def refuse(self, tasks: Sequence[Task]) -> bool:
        """Fail tasks that are about to be submitted, if the budget is used up; tells whether it is."""
        if not self._spent:
            return False
        for task in tasks:
            self._refuse(self._ledger.live[task["uid"]])
        return True

    def was_withdrawn(self, future: TaskFuture) -> bool:
        """Fail a task that was cancelled because the budget is used up; tells whether it was."""
        if future.uid not in self._withdrawn:
            return False
        self._withdrawn.discard(future.uid)
        self._refuse(future)
        return True

    def _refuse(self, future: TaskFuture) -> None:
        text = f"{future.uid} '{future._spec.name}' does not run: max_failures={self._max_failures} attempts had failed"
        future.description["state"] = TaskState.FAILED
        self._ledger.fail(future, FailureBudgetError(f"{text}; the last was {self._last}"))

    def _stop_submitting(self, task: Task, attempt: FailedAttempt) -> None:
        self._last = f"{task['uid']} '{task['name']}', {attempt}"
        log.error(
            "max_failures=%d attempts have failed: nothing is submitted any more, and what runs goes on to its end;"
            " the last was %s",
            self._max_failures,
            self._last,
        )
        queued = []
        # Dependents first: each is told of the budget, and not of another task that was.
        for future in reversed(list(self._ledger.live.values())):
            if future._submitted:
                queued.append(future)
            elif future.state == "PENDING" and future.uid in self._ledger.live:
                self._preparing.stop(future)
                self._refuse(future)
        self._engine.chore(self._withdraw(queued))

    async def _withdraw(self, queued: Sequence[TaskFuture]) -> None:
        """Cancel what a backend has, but does not run yet."""
        for future in queued:
            lane = future._spec.lane
            # A foreign backend may never say that a task runs.
            if lane.capabilities is not None and not future.done() and future.task["state"] == TaskState.SUBMITTED:
                self._withdrawn.add(future.uid)
                await lane.cancel(future)


def _may_pass(said: object) -> bool:
    return isinstance(said, SubmitError) and said.transient


def _shown(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in changes.items())
