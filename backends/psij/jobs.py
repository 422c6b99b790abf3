"""One job of the backend, its completion record, and what the evidence about it comes to; no clock, no thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task, TaskDescription

from ..evidence import Record, read_record, record_path
from ..staging import Plan
from ..verdict import Verdict, verdict_on
from .scheduler import UNKNOWN, JobStatus, Meaning, Report, Scheduler, Settlement

__all__ = ["BatchJob", "Phase", "is_of", "recorded", "said_of", "verdict_of"]


class Phase(Enum):
    """Where a job is on its way."""

    WAITING = "not submitted yet"
    SUBMITTING = "being submitted"
    QUEUED = "submitted"
    RUNNING = "running"
    COLLECTED = "ended under an earlier driver"
    ENDED = "ended"


@dataclass(eq=False, slots=True)
class BatchJob:
    """A task on its way through the scheduler.

    Attributes:
        name: of the job in the queue.
        nonce: which the completion record must repeat.
        attempt: 0 for the first; the task's own dict goes on to the next one.
        boxed, placed: its sandbox is there; its scripts are there, too.
        unclear: an earlier driver may have submitted it.
        asked: why we asked the scheduler to end it, if we did.
        status: what the queue said last.
        unseen_since: when the queue first did not list it, by the loop's clock.
        anothers: its id now belongs to another job, as after a loss of the scheduler's state.
        warned: the pending reasons that the log has told.
        why: what is to be said of it where we ended it for another reason than a wish of the user.
    """

    task: Task
    description: TaskDescription
    plan: Plan
    name: str
    session: str
    sandbox: str
    nonce: str
    attempt: int = 0
    phase: Phase = Phase.WAITING
    native_id: str | None = None
    asked: FailureCause | None = None
    status: JobStatus | None = None
    submitted: float = 0.0
    started: float | None = None
    unseen_since: float | None = None
    boxed: bool = False
    placed: bool = False
    unclear: bool = False
    settling: bool = False
    anothers: bool = False
    warned: set[str] = field(default_factory=set)
    why: str = ""

    @property
    def uid(self) -> str:
        """The task's uid."""
        return self.task["uid"]

    @property
    def never_ran(self) -> bool:
        """Whether nothing says that it has ever run, so that no record need be waited for."""
        return self.started is None and self.status is not None and self.status.nodes is None


def is_of(status: JobStatus, job: BatchJob) -> bool:
    """Tell whether a scheduler means a job by an id or a name; both may belong to a job of another session, too."""
    return status.directory in ("", job.sandbox)


def said_of(job: BatchJob, report: Report, scheduler: Scheduler) -> JobStatus | None:
    """Take what a report says of a job; None where it does not list it."""
    found = [status for status in report.by_id.get(job.native_id or "", ()) if is_of(status, job)]
    # Of a job that went to another cluster of a federation, its first one has a row that says nothing.
    telling = [status for status in found if scheduler.meaning(status) is not UNKNOWN]
    return next(iter(telling or found), None)


def recorded(job: BatchJob) -> Record | None:
    """Read the completion record of a job, if it left one; blocks as long as the file system does.

    Raises:
        OSError: nobody can say whether there is one.
    """
    session = Path(job.session).name
    return read_record(record_path(job.sandbox), session=session, uid=job.uid, attempt=job.attempt, nonce=job.nonce)


# What the scheduler knows better than the record: why a job was ended.
_OUTSIDE = frozenset(
    {
        FailureCause.WALLTIME,
        FailureCause.CANCELLED,
        FailureCause.PREEMPTED,
        FailureCause.NODE_FAILURE,
        FailureCause.MEMORY,
    }
)


def verdict_of(
    job: BatchJob, record: Record | None, meaning: Meaning | None, settlement: Settlement | None, said: str
) -> Verdict | None:
    """Judge a job by what is known of its end.

    Args:
        record: its completion record, if it left one.
        meaning: of the state in which the scheduler has it, if it knows it.
        settlement: how the scheduler says that it ended.
        said: what the script said when staging failed.

    Returns:
        The verdict, or None where it may still run, or run again.
    """
    if record is None:
        return _without_record(job, meaning, settlement)
    verdict = verdict_on(record, job.plan.promised, job.description.cwd or job.sandbox, said)
    if record.ended_by_itself:
        return verdict
    # It was ended from outside: by whom, and whether it will run again, the scheduler knows.
    if meaning is not None and not meaning.final:
        return None
    # A Python that is interrupted while it starts makes an exit code of the signal.
    if record.signal is None and job.task.get("function") is None:
        return verdict
    return _ended_from_outside(job, record, verdict, meaning)


def _ended_from_outside(job: BatchJob, record: Record, verdict: Verdict, meaning: Meaning | None) -> Verdict:
    cause = job.asked
    if cause is None and meaning is not None and meaning.cause in _OUTSIDE:
        cause = meaning.cause
    if cause is None and meaning is not None and "TERM" in record.noted and not _used_up(job, record):
        cause = meaning.if_sent_term
    if cause is None and _used_up(job, record):
        cause = FailureCause.WALLTIME
    if cause is None:
        return verdict
    state = TaskState.CANCELED if cause is FailureCause.CANCELLED else TaskState.FAILED
    return Verdict(state, cause, verdict.exit_code, verdict.signal, _text(job, cause))


def _used_up(job: BatchJob, record: Record) -> bool:
    """Tell whether a task had its whole walltime when something outside of it ended it."""
    walltime = job.description.walltime
    over = walltime is not None and record.end - record.start >= walltime
    return "USR2" in record.noted or (over and record.noted != "")


def _without_record(job: BatchJob, meaning: Meaning | None, settlement: Settlement | None) -> Verdict | None:
    if meaning is None or not meaning.final:
        return None
    if job.asked is not None:
        state = TaskState.CANCELED if job.asked is FailureCause.CANCELLED else TaskState.FAILED
        return Verdict(state, job.asked, text=_text(job, job.asked))
    if settlement is not None and _counts(settlement):
        return settlement.verdict
    # That its script ended is no evidence of what the task did.
    return Verdict(TaskState.FAILED, FailureCause.LOST, text=f"it left no completion record; {_native(job.status)}")


def _counts(settlement: Settlement) -> bool:
    """Tell whether a settlement stands without a record: only accounting shows that a task ended well."""
    verdict = settlement.verdict
    if verdict.state is TaskState.DONE:
        return settlement.by == "accounting"
    return verdict.cause is not FailureCause.EXIT_CODE


def _native(status: JobStatus | None) -> str:
    if status is None:
        return "the scheduler does not know it any more"
    return f"the scheduler says {status.state} {status.reason or ''}".rstrip()


def _text(job: BatchJob, cause: FailureCause) -> str:
    if cause is FailureCause.WALLTIME and job.description.walltime is not None:
        return f"its walltime of {job.description.walltime:g} s was over"
    return job.why or _native(job.status)
