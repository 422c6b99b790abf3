"""One attempt of a task in a pilot, and what the evidence about it comes to; no clock, no thread."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task, TaskDescription

from ..away import take_record
from ..evidence import Record, read_record, record_path
from ..run_script import claimed_by
from ..staging import Plan
from ..verdict import Verdict, verdict_on
from .dispatching import TaskEvent
from .states import TASK_STATES
from .translation import Shape

__all__ = [
    "Phase",
    "PilotJob",
    "claimed_for",
    "ended_from_outside",
    "recorded",
    "take_claim",
    "take_record_of",
    "verdict_of",
]

# To a shell, 128 + n means ended by signal n.
_SIGNALLED = range(129, 193)

# With which a scheduler ends a job.
_ENDING = (signal.SIGTERM, signal.SIGKILL)

# What stands in the claim of an attempt that the driver has taken, so that it never runs.
_OURS = "cancelled"


class Phase(Enum):
    """Where an attempt is on its way."""

    WAITING = "in the driver"
    GIVEN = "given to a pilot"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(eq=False, slots=True)
class PilotJob:
    """An attempt of a task on its way through a pilot.

    Attributes:
        shape: how it lies in a pilot.
        nonce: which the completion record must repeat.
        attempt, first: the present one, and the one with which it came here: a pilot that ends may cost some.
        rp_uid: what RADICAL-Pilot calls it.
        asked: why we ended it, if we did.
        told: what was told of its end, apart from its record.
        walltime: ends it.
        begun: it may have begun, as far as is known.
        by_raptor: a worker of RAPTOR is to run it.
    """

    task: Task
    description: TaskDescription
    plan: Plan
    shape: Shape
    session: str
    sandbox: str
    nonce: str
    attempt: int = 0
    first: int = 0
    rp_uid: str = ""
    phase: Phase = Phase.WAITING
    asked: FailureCause | None = None
    told: TaskEvent | None = None
    settling: bool = False
    walltime: asyncio.TimerHandle | None = None
    begun: bool = True
    by_raptor: bool = False

    @property
    def uid(self) -> str:
        """The task's uid."""
        return self.task["uid"]


def recorded(job: PilotJob) -> Record | None:
    """Read the completion record of an attempt, if it left one; blocks as long as the file system does.

    Raises:
        OSError: nobody can say whether there is one.
    """
    session = Path(job.session).name
    path = record_path(job.sandbox)
    return read_record(path, session=session, uid=job.uid, attempt=job.attempt, nonce=job.nonce)


def take_claim(job: PilotJob) -> str | None:
    """See to it that an attempt that has not begun never does.

    Returns:
        The native id of what runs it, or has run it; None if it never will.
    """
    try:
        os.symlink(_OURS, f"{job.sandbox}/.asyncflow/claim")
    except FileExistsError:
        native = claimed_by(job.sandbox)
        return None if native == _OURS or native is None else native.partition("#")[0]
    return None


def claimed_for(job: PilotJob) -> str:
    """Say which worker of RAPTOR runs an attempt, or has run it; "" where it is none."""
    return (claimed_by(job.sandbox) or "").partition("#")[2]


def take_record_of(task: Task, record: Record) -> None:
    """Put what a completion record says into its task's dict, but for how it ended."""
    take_record(task, record)
    task["native_id"] = (record.native_id or "").partition("@")[0] or None


def ended_from_outside(record: Record, remote: bool) -> bool:
    """Tell whether something else than its own command may have ended an attempt.

    Args:
        remote: a scheduler ends the processes of its jobs, in any order.
    """
    return bool(record.noted) or (remote and record.signal in _ENDING)


def verdict_of(job: PilotJob, record: Record | None, said: str, remote: bool) -> Verdict | None:
    """Judge an attempt by what is known of its end.

    Args:
        said: what the script said when staging failed.
        remote: as for `ended_from_outside`.

    Returns:
        The verdict; None where it may still run, or where more will be told.
    """
    if record is None:
        return None if job.told is None else _without_record(job, job.told)
    directory, on_oom = job.description.cwd or job.sandbox, job.description.on_oom
    verdict = verdict_on(record, job.plan.promised, directory, said, on_oom)
    if record.ended_by_itself or (job.asked is None and not ended_from_outside(record, remote)):
        return verdict
    cause = job.asked or (job.told.cause if job.told is not None else None)
    if cause is None:
        # It was ended from outside, and by whom will be told.
        return verdict if job.told is not None else None
    return Verdict(_state(cause), cause, verdict.exit_code, verdict.signal, _text(job, cause))


def _without_record(job: PilotJob, told: TaskEvent) -> Verdict:
    cause = job.asked or told.cause
    if cause is not None:
        return Verdict(_state(cause), cause, text=_text(job, cause))
    if told.exit_code is not None and told.exit_code in _SIGNALLED:
        return Verdict(TaskState.FAILED, FailureCause.SIGNAL, signal=told.exit_code - 128)
    meaning = TASK_STATES[told.state]
    text = f"it left no completion record; RADICAL-Pilot says {told.state} {told.text}".rstrip()
    return Verdict(meaning.state, meaning.cause, text=text)


def _state(cause: FailureCause) -> TaskState:
    return TaskState.CANCELED if cause is FailureCause.CANCELLED else TaskState.FAILED


def _text(job: PilotJob, cause: FailureCause) -> str | None:
    if job.asked is FailureCause.WALLTIME:
        return f"its walltime of {job.description.walltime:g} s was over"
    return job.told.text if job.told is not None and job.told.text else None
