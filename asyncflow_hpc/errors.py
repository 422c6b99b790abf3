"""Every exception of asyncflow_hpc.

AsyncFlowError
 +-- EngineClosedError          (RuntimeError)         a call after shutdown
 +-- ArgumentError              (TypeError)            a public entry point got a value of the wrong type
 +-- ConfigurationError         (ValueError)           engine or backend set up in a way that cannot work
 |    +-- UnknownBackendError   (KeyError)             no backend of that name
 |    +-- SiteError                                    a site profile that cannot be found, trusted or understood
 +-- SessionError               (RuntimeError)         the session directory cannot be used
 |    +-- JournalError                                 its journal cannot be read or written
 +-- TaskDescriptionError       (ValueError)           a value in a task description
 |    +-- DescriptionTypeError  (TypeError)            a task description that is no dict, or a value of a wrong type
 |    +-- TooLargeError        (CommandError)         more than a process can be started with
 +-- CommandError               (ValueError)           an executable or prompt task gave no command or prompt
 +-- CycleError                 (ValueError)           a component would wait for itself
 +-- UnsupportedTaskError       (NotImplementedError)  the backend cannot run such a task
 +-- SerializationError         (TypeError)            an argument or a result that cannot be pickled
 +-- StagingError               (ValueError)           a file that cannot be staged
 |    +-- StagingConflictError                         two files that would land on one name
 +-- SubmitError                (RuntimeError)         a backend did not take a task
 +-- FailureBudgetError         (RuntimeError)         a task was not submitted, as too much had failed before it
 +-- TaskFailedError            (RuntimeError)         a task ran and failed
 +-- DependencyFailureError     (RuntimeError)         a task could not run because one it needs failed
 +-- RemoteTraceback                                   where in another process an error was raised; a `__cause__`
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from .states import FailureCause

if TYPE_CHECKING:
    from .retries import FailedAttempt

__all__ = [
    "ArgumentError",
    "AsyncFlowError",
    "CommandError",
    "ConfigurationError",
    "CycleError",
    "DependencyFailureError",
    "DescriptionTypeError",
    "EngineClosedError",
    "FailureBudgetError",
    "JournalError",
    "RemoteTraceback",
    "SerializationError",
    "SessionError",
    "SiteError",
    "StagingConflictError",
    "StagingError",
    "SubmitError",
    "TaskDescriptionError",
    "TaskFailedError",
    "TooLargeError",
    "UnknownBackendError",
    "UnsupportedTaskError",
    "is_plain_line",
    "nearest",
    "visible",
]

# Control characters but newline and tab, separators of lines and paragraphs, marks that change the direction of text,
# and surrogates, which UTF-8 cannot hold.
_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return a text in which control characters are shown as escapes, such as ``\x1b``, and not obeyed.

    Newlines and tabs stay.
    """
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], text)


def is_plain_line(text: str) -> bool:
    """Return whether a text is one line that can be written in UTF-8, without control characters."""
    return "\n" not in text and "\t" not in text and _OBEYED.search(text) is None


class AsyncFlowError(Exception):
    """Base of every error that this package raises."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        # Names, standard error and words of schedulers are in it: a terminal is to show them, not to obey them.
        return visible(str(self.args[0]) if len(self.args) == 1 else super().__str__())


class EngineClosedError(AsyncFlowError, RuntimeError):
    """The engine was shut down; it takes no more calls."""


class ArgumentError(AsyncFlowError, TypeError):
    """An argument of a public entry point has the wrong type."""


class ConfigurationError(AsyncFlowError, ValueError):
    """An engine or backend is set up in a way that cannot work."""


class UnknownBackendError(ConfigurationError, KeyError):
    """No backend is registered under that name."""


class SiteError(ConfigurationError):
    """A site profile cannot be found, trusted or understood."""


class SessionError(AsyncFlowError, RuntimeError):
    """The session directory cannot be made, written or trusted."""


class JournalError(SessionError):
    """The journal of a session cannot be read or written, or is damaged."""


class TaskDescriptionError(AsyncFlowError, ValueError):
    """A task description has an unknown key or a value out of range."""


class DescriptionTypeError(TaskDescriptionError, TypeError):
    """A task description is no dict, or one of its values has the wrong type."""


class CommandError(AsyncFlowError, ValueError):
    """The body of an executable or prompt task returned no command or prompt."""


class TooLargeError(TaskDescriptionError, CommandError):
    """A variable, an argument, a line of shell text, or all together, exceed what a process can be started with."""


class CycleError(AsyncFlowError, ValueError):
    """A component would have to wait for itself."""


class UnsupportedTaskError(AsyncFlowError, NotImplementedError):
    """The task asks for something that its backend cannot do."""


class SerializationError(AsyncFlowError, TypeError):
    """A function, argument or result cannot be pickled."""


class StagingError(AsyncFlowError, ValueError):
    """A file cannot be staged: it is missing, or its name leaves the sandbox."""


class StagingConflictError(StagingError):
    """Two files would land on one name."""


class SubmitError(AsyncFlowError, RuntimeError):
    """The backend did not take the task; it never ran.

    Attributes:
        transient: it never will run as it was submitted, and another submission may succeed.
    """

    def __init__(self, message: str = "", *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class FailureBudgetError(AsyncFlowError, RuntimeError):
    """The task was not submitted: as much as `max_failures` allows had failed before."""


class TaskFailedError(AsyncFlowError, RuntimeError):
    """A task ran and failed.

    Attributes:
        uid, name: which task.
        cause: our normal form of why.
        exit_code: of the command, None when it did not exit by itself.
        signal: number of the signal that ended it, else None.
        stderr: the end of its standard error.
        sandbox: the directory in which it ran, else None.
        native_state, native_reason: in the scheduler's own words, else None.
        attempts: all that failed, this one last; empty where the error was not made by an engine.
    """

    def __init__(
        self,
        message: str,
        *,
        uid: str = "",
        name: str = "",
        cause: FailureCause = FailureCause.EXIT_CODE,
        exit_code: int | None = None,
        signal: int | None = None,
        stderr: str = "",
        sandbox: str | None = None,
        native_state: str | None = None,
        native_reason: str | None = None,
        attempts: tuple[FailedAttempt, ...] = (),
    ) -> None:
        super().__init__(message)
        self.uid = uid
        self.name = name
        self.cause = cause
        self.exit_code = exit_code
        self.signal = signal
        self.stderr = stderr
        self.sandbox = sandbox
        self.native_state = native_state
        self.native_reason = native_reason
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class DependencyFailureError(AsyncFlowError, RuntimeError):
    """A component could not run because one that it depends on failed.

    Attributes:
        failed_dependencies: names of the direct dependencies that failed.
        root_cause: the exception of the first component that failed; also `__cause__`.
    """

    def __init__(
        self,
        message: str,
        failed_dependencies: Sequence[str] | None = None,
        root_cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.failed_dependencies = list(failed_dependencies or ())
        self.root_cause = root_cause
        self.__cause__ = root_cause

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class RemoteTraceback(AsyncFlowError):
    """The traceback of an error raised in another process, as text."""

    def __str__(self) -> str:
        return f"\n{visible(str(self.args[0]))}"


def _rebuild(cls: type[AsyncFlowError], args: tuple[Any, ...], attributes: dict[str, Any]) -> AsyncFlowError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    if "root_cause" in attributes:
        error.__cause__ = attributes["root_cause"]
    return error


def nearest(word: str, valid: Iterable[str]) -> str:
    """Say which valid names are nearest to a wrong one.

    Args:
        word: what was given.
        valid: the names that would have been right.

    Returns:
        A clause to put behind "unknown ...", such as "did you mean 'ranks'?", or the list of valid names.
    """
    names = sorted(valid)
    close = get_close_matches(word, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "valid are: " + ", ".join(names)
