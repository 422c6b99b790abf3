"""What a completion record means for a task: pure, and the same on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from asyncflow_hpc.states import FailureCause, TaskState

from .evidence import Record

__all__ = ["OnOom", "Verdict", "memory_text", "missing_text", "verdict_on"]

OnOom = Literal["fail", "warn"]

# What a shell gives for a command that it cannot find.
_NOT_FOUND = 127


class Verdict(NamedTuple):
    """How an attempt ended.

    Attributes:
        exit_code: of the task's own command; None where it did not run, or was ended by a signal.
        text: what is to be said beside its cause.
    """

    state: TaskState
    cause: FailureCause | None = None
    exit_code: int | None = None
    signal: int | None = None
    text: str | None = None


def verdict_on(record: Record, promised: Sequence[str], directory: str, said: str, on_oom: OnOom = "fail") -> Verdict:
    """Judge an attempt by its completion record.

    Args:
        promised: the files that it had to write.
        directory: in which it had to write them.
        said: what the script said when staging failed.
        on_oom: "fail" a task of whose processes the kernel has killed one for want of memory, whatever its exit code.
    """
    failed = TaskState.FAILED
    if record.oom_kills and record.memory_is_its_own and on_oom == "fail":
        return Verdict(
            failed, FailureCause.MEMORY, record.exit_code, record.signal, memory_text(record.oom_kills, True)
        )
    if record.missing:
        names = [promised[index] for index in record.missing if index < len(promised)]
        return Verdict(failed, FailureCause.MISSING_OUTPUT, 0, text=missing_text(names, directory))
    if record.stage == "stage_in":
        return Verdict(failed, FailureCause.STAGING, signal=record.signal, text=said)
    if record.stage == "stage_out":
        return Verdict(failed, FailureCause.STAGING, 0, text=said)
    if record.stage == "pre_exec":
        return Verdict(failed, FailureCause.BOOTSTRAP, record.exit_code, record.signal, _never_began(record))
    if record.stage == "lost":
        lost = f"its command began, and how it ended is not known: its shell ended before it, with {_code(record)}"
        return Verdict(failed, FailureCause.BACKEND, record.exit_code, record.signal, lost)
    if record.signal is not None:
        return Verdict(failed, FailureCause.SIGNAL, signal=record.signal)
    if record.stage == "post_exec" and record.exit_code == 0:
        return Verdict(failed, FailureCause.BACKEND, 0, text="a line of its post_exec ended the script")
    if record.exit_code != 0:
        text = None if record.stage == "run" else f"a line of its {record.stage} failed"
        return Verdict(failed, FailureCause.EXIT_CODE, record.exit_code, text=text)
    return Verdict(TaskState.DONE, exit_code=0)


def _code(record: Record) -> str:
    return f"exit code {record.exit_code}" if record.signal is None else f"signal {record.signal}"


def _never_began(record: Record) -> str:
    if record.noted:
        return f"its command never began: signal {record.noted} came first"
    text = f"its command never began: its set-up lines (pre_exec, or set-up of the site) ended with {_code(record)}"
    if record.exit_code == _NOT_FOUND:
        return f"{text}, not found; a function such as module needs shell='/bin/bash', or a line that defines it"
    if record.exit_code == 0:
        return f"{text}; a line must not replace or end its shell, as exec and exit do"
    return text


def memory_text(kills: int, own: bool) -> str:
    """Return the text on processes that the kernel has killed for want of memory, in the task's own cgroup or not."""
    if own:
        return f"the kernel killed {kills} of its processes for want of memory: ask for more with mem_per_rank"
    return f"while it ran, the kernel killed {kills} processes for want of memory; they may have been another task's"


def missing_text(names: Sequence[str], directory: str) -> str:
    """Say which promised files a task did not write."""
    return f"it ended well, but did not write {', '.join(names)} in {directory}"
