"""Slurm's job states and pending reasons, and what they mean.

Sources: job_state_codes.html (base states and flags) and job_reason_codes.html of slurm.schedmd.com, as of the
release that has EXPEDITING; squeue(1) and sacct(1), sections JOB STATE CODES and JOB REASON CODES; and what a real
22.05.8 has answered, in tests/unit/recorded/slurm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from asyncflow_hpc.states import FailureCause, TaskState

from .judging import by_code
from .scheduler import UNKNOWN, JobStatus, Meaning

__all__ = ["CODES", "LAUNCH_SIGNAL", "STATES", "UNRUNNABLE", "meaning", "obstacle", "unrunnable"]

_QUEUED = Meaning(TaskState.SUBMITTED)
_RUNNING = Meaning(TaskState.RUNNING)
_ENDING = Meaning(TaskState.RUNNING, ending=True)
_PAUSED = Meaning(TaskState.RUNNING, paused=True)


def _failed(cause: FailureCause) -> Meaning:
    return Meaning(TaskState.FAILED, cause, True)


# Base states; a job has exactly one of them. COMPLETED is a hint: see `Slurm.settle`.
_BASE = {
    "BOOT_FAIL": _failed(FailureCause.NODE_FAILURE),
    "CANCELLED": Meaning(TaskState.CANCELED, FailureCause.CANCELLED, True),
    "COMPLETED": Meaning(TaskState.DONE, None, True),
    "DEADLINE": _failed(FailureCause.WALLTIME),
    "FAILED": _failed(FailureCause.EXIT_CODE),
    "NODE_FAIL": _failed(FailureCause.NODE_FAILURE),
    "OUT_OF_MEMORY": _failed(FailureCause.MEMORY),
    "PENDING": _QUEUED,
    "PREEMPTED": _failed(FailureCause.PREEMPTED),
    "RUNNING": _RUNNING,
    "SUSPENDED": _PAUSED,
    "TIMEOUT": _failed(FailureCause.WALLTIME),
}

# Flags that say more than the base state, most telling first; squeue shows them in its place.
# A revoked job runs on another cluster of a federation, so that the word says nothing about the task.
_FLAGS = {
    "REVOKED": UNKNOWN,
    "REQUEUED": _QUEUED,
    "REQUEUE_FED": _QUEUED,
    "REQUEUE_HOLD": _QUEUED,
    "SPECIAL_EXIT": _QUEUED,
    "RESV_DEL_HOLD": _QUEUED,
    "CONFIGURING": _QUEUED,
    "POWER_UP_NODE": _QUEUED,
    "COMPLETING": _ENDING,
    "STAGE_OUT": _ENDING,
    "RESIZING": _RUNNING,
    "STOPPED": _PAUSED,
    "SIGNALING": _RUNNING,
}

# Flags that leave the base state as it is, and say nothing alone.
_NOTES = {
    "EXPEDITING": UNKNOWN,
    "LAUNCH_FAILED": UNKNOWN,
    "RECONFIG_FAIL": UNKNOWN,
    "UPDATE_DB": UNKNOWN,
}

STATES: Mapping[str, Meaning] = MappingProxyType(_BASE | _FLAGS | _NOTES)

# The compact forms, as squeue(1) lists them.
CODES: Mapping[str, str] = MappingProxyType(
    {
        "BF": "BOOT_FAIL",
        "CA": "CANCELLED",
        "CD": "COMPLETED",
        "CF": "CONFIGURING",
        "CG": "COMPLETING",
        "DL": "DEADLINE",
        "F": "FAILED",
        "NF": "NODE_FAIL",
        "OOM": "OUT_OF_MEMORY",
        "PD": "PENDING",
        "PR": "PREEMPTED",
        "R": "RUNNING",
        "RD": "RESV_DEL_HOLD",
        "RF": "REQUEUE_FED",
        "RH": "REQUEUE_HOLD",
        "RQ": "REQUEUED",
        "RS": "RESIZING",
        "RV": "REVOKED",
        "S": "SUSPENDED",
        "SE": "SPECIAL_EXIT",
        "SI": "SIGNALING",
        "SO": "STAGE_OUT",
        "ST": "STOPPED",
        "TO": "TIMEOUT",
    }
)

# With this "signal" Slurm reports that it could not launch the script, for instance as its output cannot be opened.
LAUNCH_SIGNAL = 53

# Why a job is FAILED, where its reason says it; a job may keep the reason for which it was pending.
_CAUSES = {
    "BadConstraints": FailureCause.SUBMIT,
    "BurstBufferOperation": FailureCause.STAGING,
    "DeadLine": FailureCause.WALLTIME,
    "InvalidAccount": FailureCause.SUBMIT,
    "InvalidQOS": FailureCause.SUBMIT,
    "NodeDown": FailureCause.NODE_FAILURE,
    "OutOfMemory": FailureCause.MEMORY,
    "SystemFailure": FailureCause.BACKEND,
    "TimeLimit": FailureCause.WALLTIME,
}


def meaning(status: JobStatus) -> Meaning:
    """Say what the state of a job means.

    Several words, joined by commas, are a base state and its flags. A "+" behind a word means that sacct has cut it
    off; "CANCELLED by 1000" names the user who did it.

    Returns:
        `UNKNOWN` itself if the word is not in the table, or cannot be told from another.
    """
    found, words = _of_state(status.state)
    if found.cause is not FailureCause.EXIT_CODE:
        return found
    if "LAUNCH_FAILED" in words or "RECONFIG_FAIL" in words:
        return _failed(FailureCause.BOOTSTRAP)
    return _failed(_cause(status))


@lru_cache(1000)
def _of_state(state: str) -> tuple[Meaning, tuple[str, ...]]:
    """Say what a state means, whatever else is known of the job, and of which words it consists."""
    words = tuple(_word(part) for part in state.split(","))
    if not all(words):
        return UNKNOWN, words
    found = next((_FLAGS[flag] for flag in _FLAGS if flag in words), None)
    if found is None:
        bases = [word for word in words if word in _BASE]
        found = _BASE[bases[0]] if len(bases) == 1 else UNKNOWN
    return found, words


def _word(text: str) -> str:
    word = text.strip().upper()
    if word.startswith("CANCELLED BY "):
        return "CANCELLED"
    word = CODES.get(word, word)
    if word.endswith("+"):
        fitting = [state for state in STATES if state.startswith(word.rstrip("+"))]
        return fitting[0] if len(fitting) == 1 else ""
    return word if word in STATES else ""


def _cause(status: JobStatus) -> FailureCause:
    cause = _CAUSES.get(status.reason)
    if cause is not None:
        return cause
    if status.signal == LAUNCH_SIGNAL:
        return FailureCause.BOOTSTRAP
    if status.exit_code is None and status.signal is None and status.reason == "JobLaunchFailure":
        return FailureCause.BOOTSTRAP
    return by_code(status)


# Pending reasons with which a job never runs as it is; of a name in the key, "*" stands for any part.
UNRUNNABLE: Mapping[str, str] = MappingProxyType(
    {
        "AccountNotAllowed": "its account may not use this partition: set another account or queue",
        "Assoc*Max*PerJob": "it asks for more than one job of this account may have: ask for less",
        "Assoc*Max*PerJobLimit": "it asks for more than one job of this account may have: ask for less",
        "Assoc*Max*PerNode": "it asks for more per node than a job of this account may have: ask for less per node",
        "BadConstraints": "no node of its partition has what it asks for: ask for less per node, or set another queue",
        "DeadLine": "it cannot end before its deadline: set a later one, or a shorter walltime",
        "DependencyNeverSatisfied": "a job that it depends on has not ended as it must: submit that one again",
        "InvalidAccount": "its account does not exist or is closed: set another account",
        "InvalidQOS": "its QOS does not exist or is not for this account: set another one",
        "JobHoldMaxRequeue": "it was put back into the queue too often, and is held: see what its nodes have in common",
        "MaxMemPerLimit": "it asks for more memory per CPU or node than allowed: ask for less, or for more CPUs",
        "PartitionConfig": "it breaks a limit of its partition: ask for less, or set another queue",
        "PartitionNodeLimit": "it asks for more or fewer nodes than its partition gives: change nodes or queue",
        "PartitionTimeLimit": "its walltime is longer than its partition allows: shorten it, or set another queue",
        "QOSMax*PerJob": "it asks for more than one job of this QOS may have: ask for less",
        "QOSMax*PerJobLimit": "it asks for more than one job of this QOS may have: ask for less",
        "QOSMax*PerNode": "it asks for more per node than a job of this QOS may have: ask for less per node",
        "QOSMin*": "it asks for less than a job of this QOS must: ask for more, or set another QOS",
        "QOSNotAllowed": "its QOS is not for this account or partition: set another QOS, account or queue",
        "ReservationDeleted": "its reservation does not exist any more: submit it without one",
        "ReservationInvalid": "its reservation is not valid for it: submit it without one",
    }
)

# Pending reasons that pass, but only when somebody acts.
_OBSTACLES: Mapping[str, str] = MappingProxyType(
    {
        "AssocGrp*Minutes*": "the compute time of its account is used up",
        "BurstBufferOperation": "its burst buffer could not be made: ask the site",
        "JobHeldAdmin": "it is held: `scontrol release` it, or ask the site",
        "JobHeldUser": "it is held: `scontrol release` it",
        "NodeDown": "a node that it needs is down",
        "PartitionDown": "its partition is down: wait, or set another queue",
        "PartitionInactive": "its partition starts no jobs now: wait, or set another queue",
        "QOSGrp*Minutes*": "the compute time of its QOS is used up",
        "QOSUsageThreshold": "its account has used more than its QOS allows",
        "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved: wait, or do not ask for certain nodes",
        "job requeued in held state": "it is held: `scontrol release` it",
        "launch failed requeued held": "it could not be started on its nodes, and is held: `scontrol release` it",
    }
)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(r"\w*".join(re.escape(part) for part in name.split("*")))


_UNRUNNABLE = [(_pattern(name), text) for name, text in UNRUNNABLE.items()]
_STUCK = [(_pattern(name), text) for name, text in _OBSTACLES.items()]
# Minutes of running jobs are free again when these end.
_RUN_MINUTES = re.compile(r"\w+RunMinutes\w*")


def _named(reason: str) -> str:
    # "ReqNodeNotAvail, UnavailableNodes:n3", and squeue's form in brackets with underscores for spaces.
    word = re.split(r"[,:]", reason.strip().strip("()"))[0].strip()
    return word.replace("_", " ")


def unrunnable(reason: str) -> str | None:
    """Say what to do about a job that is pending for a reason for which it never runs as it is.

    Returns:
        A clause for the user, or None if it may run.
    """
    return _first(_UNRUNNABLE, _named(reason))


def obstacle(reason: str) -> str | None:
    """Say what keeps a job that is pending for a reason which passes only when somebody acts.

    Returns:
        A clause for the user, or None if it is a matter of waiting, or of `unrunnable`.
    """
    word = _named(reason)
    return None if _RUN_MINUTES.fullmatch(word) else _first(_STUCK, word)


def _first(table: list[tuple[re.Pattern[str], str]], word: str) -> str | None:
    return next((text for pattern, text in table if pattern.fullmatch(word)), None)
