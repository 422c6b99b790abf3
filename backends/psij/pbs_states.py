"""The job states of PBS Pro and OpenPBS, their substates and exit statuses, and what they mean.

Sources: PBS Professional Reference Guide, chapters "States" (job states, job substates) and "Exit codes" (job exit
status); qstat(1B) and src/include/job.h of OpenPBS; and what a real 23.06.06 has answered, in tests/unit/recorded/pbs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from asyncflow_hpc.states import FailureCause, TaskState

from .judging import by_code
from .scheduler import UNKNOWN, JobStatus, Meaning

__all__ = ["EXITS", "HELD", "ODD_EXIT", "STATES", "SUBSTATES", "Exit", "Exits", "meaning", "obstacle", "unrunnable"]

_QUEUED = Meaning(TaskState.SUBMITTED)
_RUNNING = Meaning(TaskState.RUNNING)
_DONE = Meaning(TaskState.DONE, None, True)
_CANCELLED = Meaning(TaskState.CANCELED, FailureCause.CANCELLED, True)

# Of a finished job, a substate tells more; F and X alone say nothing. A moved job lives on at another server.
STATES: Mapping[str, Meaning] = MappingProxyType(
    {
        "B": _RUNNING,
        "E": Meaning(TaskState.RUNNING, ending=True),
        "F": UNKNOWN,
        "H": _QUEUED,
        "M": UNKNOWN,
        "Q": _QUEUED,
        "R": _RUNNING,
        "S": _RUNNING,
        "T": _QUEUED,
        "U": _RUNNING,
        "W": _QUEUED,
        "X": UNKNOWN,
    }
)

TERMINATED, FINISHED, FAILED, MOVED = 91, 92, 93, 94

# All that the Reference Guide lists; those of jobs that have not ended add nothing to their state.
SUBSTATES: Mapping[int, str] = MappingProxyType(
    {
        0: "transit in, prior to waiting for commit",
        1: "transit in, waiting for commit",
        2: "transiting out, not ready to commit",
        3: "transiting out, ready to commit",
        10: "queued",
        11: "queued, with files to stage in",
        13: "waiting on the start of a synchronized set",
        14: "staging in, then waits",
        15: "staging in, then runs",
        16: "stage in is complete",
        20: "held",
        21: "held, waiting for the master of a synchronized set",
        22: "held on a dependency",
        30: "waiting for its start time",
        37: "held, as its files could not be staged in",
        41: "being sent to a node",
        42: "running",
        43: "suspended by an operator or manager",
        44: "suspended, as another job uses its node",
        45: "suspended by the scheduler",
        50: "the server has heard of its end",
        51: "staging out",
        52: "deleting staged files",
        53: "exiting",
        54: "being aborted by the server",
        56: "its nodes are being told to end it",
        57: "its epilogue runs",
        58: "its end is being reported",
        59: "being terminated by the site",
        60: "being rerun: its output is recovered",
        61: "being rerun: files are staged out",
        62: "being rerun: files are deleted",
        63: "being rerun: its node lets it go",
        69: "a subjob that is gone",
        70: "an array that has begun",
        71: "waiting for nodes to be provisioned",
        72: "waiting for its nodes to join",
        TERMINATED: "terminated",
        FINISHED: "finished",
        FAILED: "failed",
        MOVED: "moved to another server",
        153: "its nodes are being told to delete it",
    }
)


class Exit(NamedTuple):
    """What an exit status below zero stands for: PBS ended the job, or never started it."""

    name: str
    cause: FailureCause


Exits = Mapping[int, Exit]

_NODE, _START = FailureCause.NODE_FAILURE, FailureCause.BOOTSTRAP

EXITS: Exits = MappingProxyType(
    {
        -1: Exit("JOB_EXEC_FAIL1", _START),
        -2: Exit("JOB_EXEC_FAIL2", _START),
        -3: Exit("JOB_EXEC_RETRY", _START),
        -4: Exit("JOB_EXEC_INITABT", _NODE),
        -5: Exit("JOB_EXEC_INITRST", _NODE),
        -6: Exit("JOB_EXEC_INITRMG", _NODE),
        -7: Exit("JOB_EXEC_BADRESRT", FailureCause.BACKEND),
        -10: Exit("JOB_EXEC_FAILUID", _START),
        -11: Exit("JOB_EXEC_RERUN", FailureCause.PREEMPTED),
        -12: Exit("JOB_EXEC_CHKP", FailureCause.PREEMPTED),
        -13: Exit("JOB_EXEC_FAIL_PASSWORD", _START),
        -14: Exit("JOB_EXEC_RERUN_SIS_FAIL", _NODE),
        -15: Exit("JOB_EXEC_QUERST", FailureCause.PREEMPTED),
        -16: Exit("JOB_EXEC_FAILHOOK_RERUN", FailureCause.BACKEND),
        -17: Exit("JOB_EXEC_FAILHOOK_DELETE", FailureCause.BACKEND),
        -18: Exit("JOB_EXEC_HOOK_RERUN", FailureCause.BACKEND),
        -19: Exit("JOB_EXEC_HOOK_DELETE", FailureCause.BACKEND),
        -20: Exit("JOB_EXEC_RERUN_MS_FAIL", _NODE),
        -21: Exit("JOB_EXEC_FAIL_SECURITY", FailureCause.BACKEND),
        -22: Exit("JOB_EXEC_HOOKERROR", FailureCause.BACKEND),
        -23: Exit("JOB_EXEC_FAIL_KRB5", _START),
        -24: Exit("JOB_EXEC_KILL_NCPUS_BURST", FailureCause.BACKEND),
        -25: Exit("JOB_EXEC_KILL_NCPUS_SUM", FailureCause.BACKEND),
        -26: Exit("JOB_EXEC_KILL_VMEM", FailureCause.MEMORY),
        -27: Exit("JOB_EXEC_KILL_MEM", FailureCause.MEMORY),
        -28: Exit("JOB_EXEC_KILL_CPUT", FailureCause.WALLTIME),
        -29: Exit("JOB_EXEC_KILL_WALLTIME", FailureCause.WALLTIME),
        -30: Exit("JOB_EXEC_JOINJOB", _NODE),
        -31: Exit("JOB_EXEC_KILL_HPMEM", FailureCause.MEMORY),
        -32: Exit("JOB_EXEC_RERUN_ZOMBIE_JOB", _NODE),
    }
)

_NAMED = {found.name: found.cause for found in EXITS.values()}

# Begins the reason of a job whose exit status is in no table.
ODD_EXIT = "exit status "

HELD = "job held, too many failed attempts to run"


def meaning(status: JobStatus) -> Meaning:
    """Say what the state of a job means.

    A finished job is "F/" and its substate, and its reason begins with the name of an exit status below zero. One that
    has finished without an exit status has never run.

    Returns:
        `UNKNOWN` itself if the word is not in the table, or if what would be needed is missing.
    """
    letter, _, rest = status.state.partition("/")
    if letter not in ("F", "X") or not rest:
        return STATES.get(status.state, UNKNOWN)
    cause = _NAMED.get(status.reason.partition(":")[0])
    if cause is not None:
        return _failed(cause)
    if status.reason.startswith(ODD_EXIT):
        return _failed(FailureCause.BACKEND)
    if HELD in status.reason:
        return _failed(FailureCause.BOOTSTRAP)
    if rest == str(TERMINATED):
        return _CANCELLED
    if rest not in (str(FINISHED), str(FAILED)):
        return UNKNOWN
    if status.exit_code is None and status.signal is None:
        # As after a dependency that failed; with a start time, it broke off before the exit status was told.
        return _CANCELLED if status.started is None else UNKNOWN
    if status.exit_code == 0:
        return _DONE if rest == str(FINISHED) else _failed(FailureCause.EXIT_CODE)
    return _failed(by_code(status))


def _failed(cause: FailureCause) -> Meaning:
    return Meaning(TaskState.FAILED, cause, True)


# What a comment begins with: for ever, or until somebody acts.
_UNRUNNABLE = (
    (re.compile("Can Never Run", re.IGNORECASE), "no node has what it asks for: ask for less, or set another queue"),
    (re.compile(HELD, re.IGNORECASE), "its nodes could not start it: see whether they can read its directory"),
)
_OBSTACLES = (
    (re.compile("Not Running: Queue not started"), "its queue starts no jobs now: wait, or set another queue"),
    (re.compile("Hold_Types = .*[uo]"), "it is held: `qrls` it"),
    (re.compile("Hold_Types = .*[sp]"), "it is held by the system: ask the site"),
)


def unrunnable(reason: str) -> str | None:
    """Say what to do about a job that is queued for a reason for which it never runs as it is."""
    return next((text for pattern, text in _UNRUNNABLE if pattern.search(reason)), None)


def obstacle(reason: str) -> str | None:
    """Say what keeps a job queued until somebody acts."""
    return next((text for pattern, text in _OBSTACLES if pattern.match(reason)), None)
