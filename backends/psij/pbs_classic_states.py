"""The job states and exit statuses of Torque, and what they mean.

Sources: Torque Administrator Guide 6.1.2, "Job exit status", "Keeping completed jobs"; qstat(1B) of Torque; the
knowledge base of Adaptive Computing, which has 271 as the status of a running job that was cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from asyncflow_hpc.states import FailureCause, TaskState

from .judging import by_code
from .pbs_states import ODD_EXIT, Exit, Exits
from .scheduler import UNKNOWN, JobStatus, Meaning

__all__ = ["CANCELLED_EXIT", "EXITS", "OVERDUE", "STATES", "meaning"]

_QUEUED = Meaning(TaskState.SUBMITTED)
_RUNNING = Meaning(TaskState.RUNNING)
_CANCELLED = Meaning(TaskState.CANCELED, FailureCause.CANCELLED, True)

# C is a job that has ended; how, its exit status tells. S is of Unicos only.
STATES: Mapping[str, Meaning] = MappingProxyType(
    {
        "C": UNKNOWN,
        "E": Meaning(TaskState.RUNNING, ending=True),
        "H": _QUEUED,
        "Q": _QUEUED,
        "R": _RUNNING,
        "S": _RUNNING,
        "T": _QUEUED,
        "W": _QUEUED,
    }
)

_START, _NODE = FailureCause.BOOTSTRAP, FailureCause.NODE_FAILURE

EXITS: Exits = MappingProxyType(
    {
        -1: Exit("JOB_EXEC_FAIL1", _START),
        -2: Exit("JOB_EXEC_FAIL2", _START),
        -3: Exit("JOB_EXEC_RETRY", _START),
        -4: Exit("JOB_EXEC_INITABT", _NODE),
        -5: Exit("JOB_EXEC_INITRST", _NODE),
        -6: Exit("JOB_EXEC_INITRMG", _NODE),
        -7: Exit("JOB_EXEC_BADRESRT", FailureCause.BACKEND),
        -8: Exit("JOB_EXEC_CMDFAIL", _START),
        -9: Exit("JOB_EXEC_STDOUTFAIL", _START),
        -10: Exit("JOB_EXEC_OVERLIMIT_MEM", FailureCause.MEMORY),
        -11: Exit("JOB_EXEC_OVERLIMIT_WT", FailureCause.WALLTIME),
        -12: Exit("JOB_EXEC_OVERLIMIT_CPUT", FailureCause.WALLTIME),
        -13: Exit("JOB_EXEC_RETRY_CGROUP", _START),
        -14: Exit("JOB_EXEC_RETRY_PROLOGUE", _START),
    }
)

_NAMED = {found.name: found.cause for found in EXITS.values()}

# 128 and the number of SIGTERM.
_SENT_TERM = 143

CANCELLED_EXIT = "it was sent SIGTERM"

# Releases before 6 tell a job that was over its time from a cancelled one by its times alone.
OVERDUE = "walltime used up"


def meaning(status: JobStatus) -> Meaning:
    """Say what the state of a job means.

    Returns:
        `UNKNOWN` itself if the word is not in the table.
    """
    if status.state != "C":
        return STATES.get(status.state, UNKNOWN)
    cause = _NAMED.get(status.reason.partition(":")[0])
    if cause is None and status.exit_code == 0:
        return Meaning(TaskState.DONE, None, True)
    if cause is None and status.reason.startswith(ODD_EXIT):
        cause = FailureCause.BACKEND
    if cause is None and status.exit_code is None and status.signal is None:
        # It was deleted before it ran; one that has run has a status, which may have been cut off.
        return _CANCELLED if status.started is None else UNKNOWN
    if cause is None and status.reason.startswith(OVERDUE):
        cause = FailureCause.WALLTIME
    if cause is None and status.reason.startswith(CANCELLED_EXIT):
        return _CANCELLED
    if cause is None and status.exit_code == _SENT_TERM:
        # Of a script that ends in its own way when it is sent SIGTERM; whether it was, it knows.
        return Meaning(TaskState.FAILED, by_code(status), True, if_sent_term=FailureCause.CANCELLED)
    return Meaning(TaskState.FAILED, cause or by_code(status), True)
