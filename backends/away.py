"""Tasks that ran as a script somewhere: what is left for a function, and what the driver takes from their end."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task

from .call_files import write_call
from .call_results import Result, Returned, read_result
from .evidence import Record
from .output import read_large
from .pickling import FunctionPickles, dump_arguments, dump_context
from .shortage import is_short, once_there_is_more
from .verdict import Verdict, memory_text

__all__ = [
    "Left",
    "PickledCall",
    "left_by",
    "result_of",
    "runner_argv",
    "take_left",
    "take_record",
    "take_verdict",
]

log = logging.getLogger(__name__)

# As `-m asyncflow_hpc.backends.run_function`, but no file of the sandbox stands for a module while Python starts.
_RUN_FUNCTION = """\
import sys
sys.path[:] = filter(None, sys.path)
try:
    from asyncflow_hpc.backends.run_function import main
except BaseException:
    sys.excepthook(*sys.exc_info())
    sys.exit(127)
sys.exit(main(sys.argv[1:]))
"""

# What a shell, and the lines above, say of a program that cannot be started.
_NOT_STARTED = (126, 127)

# Characters of its words.
_TAIL = 1000


def runner_argv(python: str, sandbox: str) -> list[str]:
    """Make the command that runs the call in a sandbox."""
    return [python, "-c", _RUN_FUNCTION, sandbox]


@dataclass(frozen=True, slots=True)
class PickledCall:
    """The call of a function task, which any thread may leave in its sandbox.

    Attributes:
        name: of the task.
        function, arguments, context: pickled.
    """

    name: str
    function: bytes
    arguments: bytes
    context: list[tuple[bytes, bytes]] | None

    @classmethod
    def of(cls, task: Task, pickles: FunctionPickles) -> PickledCall:
        """Pickle what a task calls, on the loop: it is the script's own objects.

        Raises:
            SerializationError: the function or an argument cannot be pickled.
        """
        name, function = task["name"], task["function"]
        assert function is not None
        _, data = pickles.get(name, function)
        arguments = dump_arguments(name, task["args"], task["kwargs"])
        carried = task.get("context")
        return cls(name, data, arguments, None if carried is None else dump_context(carried))

    def leave(self, sandbox: str) -> None:
        """Write it into a sandbox.

        Raises:
            SessionError: it cannot be written.
        """
        write_call(sandbox, self.name, self.function, self.arguments, self.context, sys.path)


def take_record(task: Task, record: Record) -> None:
    """Put what a completion record says of an attempt's time and use into its task's dict."""
    task["started"], task["ended"] = record.start, record.end
    if record.oom_kills:
        log.warning("%s: %s", task["uid"], memory_text(record.oom_kills, record.memory_is_its_own))
    if record.max_rss is not None:
        task["max_rss"] = record.max_rss
    if record.cpu_time is not None:
        task["cpu_time"] = record.cpu_time


@dataclass(frozen=True, slots=True)
class Left:
    """What an attempt has left in its sandbox.

    Attributes:
        stdout, stderr: what it has printed, "" where that cannot be read.
        unread: why it cannot be read, else None.
        result: of a function that may have returned.
    """

    stdout: str
    stderr: str
    unread: OSError | None
    result: Result | None


def left_by(task: Task, verdict: Verdict, sandbox: str, recorded: bool) -> Left:
    """Read what an attempt has left; blocks as long as the file system does.

    Args:
        recorded: there is a completion record; its standard error it may have removed by itself, then.
    """
    return once_there_is_more(lambda: _read(task, verdict, sandbox, recorded))


def _read(task: Task, verdict: Verdict, sandbox: str, recorded: bool) -> Left:
    printed, unread = [], None
    for ending in ("out", "err"):
        try:
            printed.append(read_large(f"{sandbox}/{task['uid']}.{ending}"))
        except OSError as error:
            if is_short(error):
                raise
            printed.append("")
            # Its output is its result; a task that removed it has none to give.
            if ending == "out" or not (recorded and isinstance(error, FileNotFoundError)):
                unread = error
    return Left(printed[0], printed[1], unread, result_of(task, verdict, sandbox))


def result_of(task: Task, verdict: Verdict, sandbox: str) -> Result | None:
    """Read what a function has returned or raised, where it may have; blocks as long as the file system does."""
    if task.get("function") is None or verdict.cause not in (None, FailureCause.EXIT_CODE):
        return None
    return read_result(sandbox, verdict.exit_code)


def take_left(task: Task, verdict: Verdict, left: Left) -> tuple[TaskState, FailureCause | None]:
    """Put the end of an attempt, and what it has left, into its task's dict; see `take_verdict`."""
    task["stdout"], task["stderr"] = left.stdout, left.stderr
    # What a function prints is not its result.
    if left.unread is not None and verdict.state is TaskState.DONE and task.get("function") is None:
        task["exception"] = left.unread
        verdict = Verdict(TaskState.FAILED, FailureCause.BACKEND, 0)
    return take_verdict(task, verdict, left.result)


def take_verdict(task: Task, verdict: Verdict, result: Result | None) -> tuple[TaskState, FailureCause | None]:
    """Put the end of an attempt into its task's dict.

    Args:
        result: what `result_of` has read.

    Returns:
        The task's state, and why it failed.
    """
    if result is not None and verdict.cause in (None, FailureCause.EXIT_CODE):
        if not isinstance(result, Returned):
            task["exception"], task["exit_code"] = result.error, result.exit_code
            if result.missing and verdict.exit_code in _NOT_STARTED:
                said = (task.get("stderr") or "").strip()[-_TAIL:]
                task["exception"] = f"Python could not be started there with this package: {said}"
                return TaskState.FAILED, FailureCause.BOOTSTRAP
            return TaskState.FAILED, result.cause
        task["return_value"] = result.value
        if not task.get("capture_stdio"):
            task["stdout"] = task["stderr"] = None
    task["exit_code"], task["signal"] = verdict.exit_code, verdict.signal
    if verdict.text is not None:
        task["exception"] = verdict.text
    return verdict.state, verdict.cause
