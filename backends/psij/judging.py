"""Judging a task by its job alone, alike for all schedulers; pure."""

from __future__ import annotations

from asyncflow_hpc.states import FailureCause, TaskState

from ..verdict import Verdict
from .scheduler import JobStatus, Meaning, Settlement, Source

__all__ = ["SUSPECT_MEMORY", "by_code", "judged", "signal_of"]

SUSPECT_MEMORY = "it may have used more memory than it asked for: ask for more with mem_per_rank"

_SIGKILL = 9


def signal_of(status: JobStatus) -> int | None:
    """Say which signal ended a job; to a shell, an exit code of 128 + n means ended by signal n."""
    if status.exit_code is not None and 128 < status.exit_code <= 192:
        return status.exit_code - 128
    return status.signal


def by_code(status: JobStatus) -> FailureCause:
    """Say why a job failed of which no more is known than how its script ended."""
    return FailureCause.EXIT_CODE if signal_of(status) is None else FailureCause.SIGNAL


def judged(status: JobStatus, found: Meaning, by: Source, scheduler: str) -> Settlement | None:
    """Judge a task by its job, where it left no completion record.

    That it ended well counts only with an exit code of 0, and nodes on which it ran.

    Args:
        found: what its state means.
        scheduler: as people write it, such as "Slurm".

    Returns:
        How it ended; None if it may still run, or if what is known is no evidence.
    """
    if not found.final:
        return None
    if found.state is TaskState.DONE:
        proven = status.exit_code == 0 and status.nodes is not None and status.started is not None
        return Settlement(Verdict(TaskState.DONE, exit_code=0), by) if proven else None
    signal = None if found.cause is FailureCause.BOOTSTRAP else signal_of(status)
    code = status.exit_code if signal is None and found.cause is FailureCause.EXIT_CODE else None
    return Settlement(Verdict(found.state, found.cause, code, signal, _said(status, found, scheduler)), by)


def _said(status: JobStatus, found: Meaning, scheduler: str) -> str:
    reason = f" ({status.reason})" if status.reason else ""
    where = f" on {status.nodes}" if status.nodes else ", before it ran"
    text = f"{scheduler} says {status.state}{reason} of job {status.native_id}{where}"
    if found.cause is FailureCause.BOOTSTRAP:
        return f"{text}: its script could not be started; can its directory and its output be written on the node?"
    if found.cause is FailureCause.SIGNAL and signal_of(status) == _SIGKILL:
        return f"{text}: {SUSPECT_MEMORY}"
    return text
