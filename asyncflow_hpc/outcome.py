"""What the future of a failed task raises."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from .errors import AsyncFlowError, DependencyFailureError, StagingError, SubmitError, TaskFailedError, visible
from .retries import FailedAttempt
from .states import FailureCause

if TYPE_CHECKING:
    from .task import Task

__all__ = ["dependency_failure", "end_not_taken", "failed_attempt", "failure", "short", "submit_error", "text_of"]

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
    if isinstance(error, AsyncFlowError):
        if override is None:
            _add_notes(error, _history(task.get("attempts", ())))
    elif override is None and not _raised_it(task):
        made = _task_failed(task, text_of(error), error)
        made.__cause__ = error
        return made
    else:
        _add_notes(error, [_origin(task), *(_history(task.get("attempts", ())) if override is None else ())])
    return error


def _raised_it(task: Any) -> bool:
    """Return whether what a task failed with can come from its own function, and not from its backend."""
    return task.get("function") is not None and task.get("cause") != FailureCause.BACKEND


def _origin(task: Any) -> str:
    """Name a task and its arguments in short, for the traceback of what it has raised."""
    arguments = [short(value) for value in task.get("args", ())]
    arguments += [f"{name}={short(value)}" for name, value in task.get("kwargs", {}).items()]
    where = f", in {task['sandbox']}" if task.get("sandbox") else ""
    return f"raised by {task.get('uid')}: {task.get('name')}({', '.join(arguments)}){where}"


# Of a container that is written down.
_MEMBERS = 100


class _Short(reprlib.Repr):
    """Representations of arguments: one short line, whatever their classes do."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = self.maxlong = 60
        self.maxlevel = 3

    def repr1(self, value: Any, level: int) -> str:
        if isinstance(value, (dict, set, frozenset)) and len(value) > _MEMBERS:
            # They would be sorted first.
            return f"<{type(value).__name__} of {len(value)}>"
        return super().repr1(value, level)

    def repr_instance(self, value: Any, level: int) -> str:
        kind = type(value)
        # It would write down all that the object holds: too much, and a custom one too slow, for a line.
        if is_dataclass(value) or hasattr(kind, "__array__") or hasattr(kind, "__len__"):
            return f"<{kind.__name__}>"
        return super().repr_instance(value, level)


_SHORT = _Short()

# User and password in a URL.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@'\"]+@")


def short(value: object) -> str:
    """Return a short representation of an argument, in one line and without the credentials of URLs."""
    try:
        text = _SHORT.repr(value)
    except BaseException:
        # It is a user's class.
        text = f"<{type.__repr__(type(value))}>"
    return visible(_CREDENTIALS.sub("***@", " ".join(text.splitlines())))


def _task_failed(task: Any, text: str, error: Exception | None = None) -> TaskFailedError:
    printed, text = task.get("stderr") or "", text.strip("\n")
    stderr = printed[-STDERR_TAIL:]
    code = task.get("exit_code")
    signal = task.get("signal")
    cause = _cause(task, error)
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
    # For a class that lets nothing be set, they are in the task's dict alone.
    with suppress(Exception):
        notes = getattr(error, "__notes__", [])
        # One object may be raised by several tasks. Python shows notes from 3.11 on.
        error.__notes__ = [*notes, *(visible(line) for line in lines if line not in notes)]  # type: ignore[attr-defined]


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
        text=visible(first)[:_LINE],
    )


def _first_of(text: str) -> str:
    """Return the line of a text that says most: the first, or that with the exception below a traceback."""
    lines = text.splitlines() or [""]
    if "Traceback (most recent call last)" not in lines[0]:
        return lines[0]
    below = max((number for number, line in enumerate(lines) if line.startswith(" ")), default=-1) + 1
    return next((line for line in lines[below:] if line), lines[-1])


def text_of(said: object) -> str:
    """Write down an error, or a text that stands for one, whatever its class does; control characters as escapes."""
    try:
        return visible(f"{type(said).__name__}: {said}" if isinstance(said, BaseException) else str(said or ""))
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
        if isinstance(error, AsyncFlowError) or (isinstance(error, Exception) and not _raised_it(task)):
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
    # The last line of a traceback is what many read alone.
    reason = " ".join(text_of(root).split("\n", 1)[0].split())
    if len(reason) > _LINE:
        reason = f"{reason[:_LINE]}..."
    return DependencyFailureError(f"Cannot execute '{name}' due to dependency failure: {reason}", failed, root)


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
