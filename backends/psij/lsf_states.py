"""The job states and termination reasons of LSF, and what they mean.

Sources: IBM Spectrum LSF 10.1 documentation: "About job states" and bjobs (STAT), "Termination reasons displayed by
bacct, bhist, and bjobs", "Exit codes" (a code above 128 is 128 and the signal). No real LSF has been asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from asyncflow_hpc.states import FailureCause, TaskState

from .judging import by_code
from .scheduler import UNKNOWN, JobStatus, Meaning

__all__ = ["REASONS", "REQUEUED", "STATES", "meaning", "obstacle", "unrunnable"]

_QUEUED = Meaning(TaskState.SUBMITTED)
_RUNNING = Meaning(TaskState.RUNNING)

# DONE is a hint. Of UNKWN and ZOMBI the node cannot be reached, so that nobody knows whether they run.
STATES: Mapping[str, Meaning] = MappingProxyType(
    {
        "DONE": Meaning(TaskState.DONE, None, True),
        "EXIT": Meaning(TaskState.FAILED, FailureCause.EXIT_CODE, True),
        "PEND": _QUEUED,
        "PROV": _QUEUED,
        "PSUSP": _QUEUED,
        "RUN": _RUNNING,
        "SSUSP": _RUNNING,
        "UNKWN": _RUNNING,
        "USUSP": _RUNNING,
        "WAIT": _QUEUED,
        "ZOMBI": _RUNNING,
    }
)

_CANCELLED = FailureCause.CANCELLED

# Why LSF ended a job; None where the exit code has to tell.
REASONS: Mapping[str, FailureCause | None] = MappingProxyType(
    {
        "TERM_ADMIN": _CANCELLED,
        "TERM_BUCKET_KILL": _CANCELLED,
        "TERM_CHKPNT": FailureCause.PREEMPTED,
        "TERM_CPULIMIT": FailureCause.WALLTIME,
        "TERM_CSM_ALLOC": FailureCause.BACKEND,
        "TERM_CWD_NOTEXIST": FailureCause.BOOTSTRAP,
        "TERM_DATA": FailureCause.STAGING,
        "TERM_DEADLINE": FailureCause.WALLTIME,
        "TERM_EXTERNAL_SIGNAL": FailureCause.SIGNAL,
        "TERM_FORCE_ADMIN": _CANCELLED,
        "TERM_FORCE_OWNER": _CANCELLED,
        "TERM_KUBE": FailureCause.BACKEND,
        "TERM_LOAD": FailureCause.PREEMPTED,
        "TERM_MC_RECALL": FailureCause.PREEMPTED,
        "TERM_MEMLIMIT": FailureCause.MEMORY,
        "TERM_ORPHAN_SYSTEM": _CANCELLED,
        "TERM_OTHER": FailureCause.PREEMPTED,
        "TERM_OWNER": _CANCELLED,
        "TERM_PREEMPT": FailureCause.PREEMPTED,
        "TERM_PRE_EXEC_FAIL": FailureCause.BOOTSTRAP,
        "TERM_PROCESSLIMIT": FailureCause.BACKEND,
        "TERM_RC": FailureCause.PREEMPTED,
        "TERM_REMOVE_HUNG_JOB": FailureCause.NODE_FAILURE,
        "TERM_REQUEUE_ADMIN": FailureCause.PREEMPTED,
        "TERM_REQUEUE_OWNER": FailureCause.PREEMPTED,
        "TERM_REQUEUE_RC": FailureCause.PREEMPTED,
        "TERM_RMS": FailureCause.NODE_FAILURE,
        "TERM_RUNLIMIT": FailureCause.WALLTIME,
        "TERM_SLURM": FailureCause.NODE_FAILURE,
        "TERM_SWAP": FailureCause.MEMORY,
        "TERM_THREADLIMIT": FailureCause.BACKEND,
        "TERM_UNKNOWN": None,
        "TERM_WINDOW": FailureCause.PREEMPTED,
        "TERM_ZOMBIE": FailureCause.NODE_FAILURE,
    }
)

# With these, a job waits to run again: its next state is PEND.
REQUEUED = frozenset({"TERM_REQUEUE_ADMIN", "TERM_REQUEUE_OWNER", "TERM_REQUEUE_RC"})

# What bhist says of a bkill where it gives no reason.
_BKILL = re.compile("(Signal <(KILL|TERM|INT)>|Termination) requested by user or administrator", re.IGNORECASE)
_REASON = re.compile(r"\bTERM_[A-Z_]+\b")


def meaning(status: JobStatus) -> Meaning:
    """Say what the state of a job means.

    Returns:
        `UNKNOWN` itself if the word is not in the table.
    """
    found = STATES.get(status.state, UNKNOWN)
    if status.state != "EXIT":
        return found
    named = _REASON.search(status.reason)
    if named is not None and named[0] in REQUEUED:
        return _QUEUED
    cause = REASONS.get(named[0]) if named is not None else None
    if cause is None:
        cause = _CANCELLED if _BKILL.search(status.reason) else by_code(status)
    if cause is _CANCELLED:
        return Meaning(TaskState.CANCELED, cause, True)
    return Meaning(TaskState.FAILED, cause, True)


# Pending reasons, as bjobs words them.
_UNRUNNABLE = (
    ("cannot be satisfied|not (be )?met by any host|no host satisf", "no host has what it asks for: ask for less"),
    ("dependency condition (is )?(invalid|never satisfied)", "a job that it depends on has not ended as it must"),
    ("requeue.* limit|exit.* hold", "it was put back into the queue too often"),
)
_OBSTACLES = (
    ("closed by (its )?administrator|queue.*(inactiv|closed)", "its queue or hosts are closed: wait, or set another"),
    ("no suitable hosts", "no host has what it asks for now: ask for less, if that stays"),
    ("suspended by (the )?user|while pending|held|user suspended", "it is held: `bresume` it"),
)


def unrunnable(reason: str) -> str | None:
    """Say what to do about a job that is pending for a reason for which it never runs as it is."""
    return _first(_UNRUNNABLE, reason)


def obstacle(reason: str) -> str | None:
    """Say what keeps a job pending until somebody acts."""
    return _first(_OBSTACLES, reason)


def _first(table: tuple[tuple[str, str], ...], reason: str) -> str | None:
    return next((text for pattern, text in table if re.search(pattern, reason, re.IGNORECASE)), None)
