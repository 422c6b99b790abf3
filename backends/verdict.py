"""What a completion record means for a task: pure, and the same on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from asyncflow_hpc.states import FailureCause, TaskState

from .evidence import Record

__all__ = ["Verdict", "missing_text", "verdict_on"]


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


def verdict_on(record: Record, promised: Sequence[str], directory: str, said: str) -> Verdict:
    """Judge an attempt by its completion record.

    Args:
        promised: the files that it had to write.
        directory: in which it had to write them.
        said: what the script said when staging failed.
    """
    failed = TaskState.FAILED
    if record.missing:
        names = [promised[index] for index in record.missing if index < len(promised)]
        return Verdict(failed, FailureCause.MISSING_OUTPUT, 0, text=missing_text(names, directory))
    if record.stage == "stage_in":
        return Verdict(failed, FailureCause.STAGING, signal=record.signal, text=said)
    if record.stage == "stage_out":
        return Verdict(failed, FailureCause.STAGING, 0, text=said)
    if record.signal is not None:
        return Verdict(failed, FailureCause.SIGNAL, signal=record.signal)
    if record.exit_code != 0:
        text = None if record.stage == "run" else f"a line of its {record.stage} failed"
        return Verdict(failed, FailureCause.EXIT_CODE, record.exit_code, text=text)
    if record.stage != "run":
        return Verdict(failed, FailureCause.BACKEND, 0, text=f"a line of its {record.stage} ended the script")
    return Verdict(TaskState.DONE, exit_code=0)


def missing_text(names: Sequence[str], directory: str) -> str:
    """Say which promised files a task did not write."""
    return f"it ended well, but did not write {', '.join(names)} in {directory}"
