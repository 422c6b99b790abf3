"""What the future of a failed task raises."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .errors import AsyncFlowError, DependencyFailureError, StagingError, SubmitError, TaskFailedError
from .retries import FailedAttempt
from .states import FailureCause

if TYPE_CHECKING:
    from .task import Task

__all__ = ["dependency_failure", "end_not_taken", "failed_attempt", "failure", "submit_error", "text_of"]

STDERR_TAIL = 2000

# Characters of what is said of one attempt among others.
_LINE = 200


def failure(task: Any, override: BaseException | str | None = None) -> BaseException:
    """Find the exception of a failed task.

    Args:
        task: the dict as the backend left it.
        override: an exception or text that stands for what the dict says.

    Returns:
        The task's own exception where there is one, else one with what is known, its text from stderr.
    """
    error = override if override is not None else task.get("exception")
    if isinstance(error, (StopIteration, GeneratorExit)) or not isinstance(error, Exception):
        # A future cannot carry StopIteration, and what is no Exception would end the driver.
        return _task_failed(task, text_of(error))
    if override is None:
        _add_notes(error, _history(task.get("attempts", ())))
    return error


def _task_failed(task: Any, text: str) -> TaskFailedError:
    printed, text = task.get("stderr") or "", text.strip("\n")
    stderr = printed[-STDERR_TAIL:]
    code = task.get("exit_code")
    signal = task.get("signal")
    cause = _cause(task)
    attempts = task.get("attempts", ())
    lines = [f"{task.get('uid')} '{task.get('name')}' failed: {_reason(cause, code, signal)}"]
    # A function's exception may be in its standard error, too.
    others = (printed.replace(text, "") if text else printed)[-STDERR_TAIL:]
    lines += [part for part in (text, others.strip()) if part.strip()]
    if task.get("sandbox"):
        lines.append(f"sandbox: {task['sandbox']}")
    lines += _history(attempts)
    return TaskFailedError(
        "\n".join(lines),
        uid=task.get("uid") or "",
        name=task.get("name") or "",
        cause=cause,
        exit_code=code,
        signal=signal,
        stderr=stderr,
        sandbox=task.get("sandbox"),
        native_state=task.get("native_state"),
        native_reason=task.get("native_reason"),
        attempts=attempts,
    )


def end_not_taken(task: Task, state: str, error: Exception) -> TaskFailedError:
    """Make the exception of a task about whose end its backend says what nobody can use.

    Args:
        task: its dict in the engine.
        state: that was reported.
        error: what came of taking that.
    """
    text = f"{task['uid']} '{task['name']}' failed: its backend's report of '{state}' cannot be used: {text_of(error)}"
    return TaskFailedError(text, uid=task["uid"], name=task["name"], cause=FailureCause.BACKEND)


def _history(attempts: Sequence[FailedAttempt]) -> list[str]:
    """Say what is to be said of several attempts, or of why there was only one."""
    lines = [str(attempt) for attempt in attempts] if len(attempts) > 1 else []
    if attempts and attempts[-1].remark:
        lines.append(f"not tried again: {attempts[-1].remark}")
    return lines


def _add_notes(error: Exception, lines: Sequence[str]) -> None:
    # Before Python 3.11, and for a class that lets nothing be set, they are in the task's dict alone.
    with suppress(Exception):
        for line in lines:
            error.add_note(line)  # type: ignore[attr-defined]


def failed_attempt(task: Any, error: BaseException | None = None) -> FailedAttempt:
    """Note down how an attempt failed.

    Args:
        task: the dict as the backend left it.
        error: why the backend did not take it, where that is so.
    """
    said = error if error is not None else task.get("exception")
    lines = [line.strip() for line in (text_of(said), *(task.get("stderr") or "").splitlines()[-1:])]
    first = _first_of(next((line for line in lines if line), ""))
    return FailedAttempt(
        number=task.get("attempt", 0),
        cause=_cause(task, said),
        exit_code=task.get("exit_code"),
        signal=task.get("signal"),
        sandbox=task.get("sandbox"),
        native_id=task.get("native_id"),
        text=first[:_LINE],
    )


def _first_of(text: str) -> str:
    """Return the line of a text that says most: the first, or that with the exception below a traceback."""
    lines = text.splitlines() or [""]
    if "Traceback (most recent call last)" not in lines[0]:
        return lines[0]
    below = max((number for number, line in enumerate(lines) if line.startswith(" ")), default=-1) + 1
    return next((line for line in lines[below:] if line), lines[-1])


def text_of(said: object) -> str:
    """Write down an error, or a text that stands for one, whatever its class does."""
    try:
        return f"{type(said).__name__}: {said}" if isinstance(said, BaseException) else str(said or "")
    except BaseException:
        # It is a user's class, and even its name may be made by one.
        return type.__repr__(type(said))


def _cause(task: Any, error: object = None) -> FailureCause:
    word = task.get("cause")
    if word is None:
        # What our own errors say of tasks that never ran; a user's own are the task's.
        if isinstance(error, SubmitError):
            return FailureCause.SUBMIT
        if isinstance(error, StagingError):
            return FailureCause.STAGING
        if isinstance(error, AsyncFlowError):
            return FailureCause.BACKEND
        return FailureCause.SIGNAL if task.get("signal") else FailureCause.EXIT_CODE
    try:
        return FailureCause(word)
    except ValueError:
        return FailureCause.BACKEND


def _reason(cause: FailureCause, code: int | None, signal: int | None) -> str:
    if cause is FailureCause.EXIT_CODE and code is not None:
        return f"exit code {code}"
    if cause is FailureCause.SIGNAL and signal:
        return f"ended by signal {signal}"
    return str(cause)


def dependency_failure(name: str, failed: Sequence[str], error: BaseException) -> DependencyFailureError:
    """Make the exception of a component that cannot run.

    Args:
        name: of the component.
        failed: names of the dependencies that failed.
        error: what the first of them raised.
    """
    root = error.root_cause if isinstance(error, DependencyFailureError) and error.root_cause else error
    return DependencyFailureError(f"Cannot execute '{name}' due to dependency failure", failed, root)


def submit_error(backend: str, task: Any, error: Exception) -> AsyncFlowError:
    """Make the exception of a task that its backend did not take.

    Args:
        backend: its name.
        task: the dict of the task.
        error: what the backend raised; an error of our own tree stands as it is.
    """
    if isinstance(error, AsyncFlowError):
        return error
    made = SubmitError(f"backend '{backend}' did not take {task['uid']} '{task['name']}': {error}")
    made.__cause__ = error
    return made
