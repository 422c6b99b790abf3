"""One job of the backend, its completion record, and what the evidence about it comes to; no clock, no thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task, TaskDescription

from ..evidence import Record, read_record, record_path
from ..run_script import Marks
from ..staging import Plan
from ..verdict import Verdict, verdict_on
from .scheduler import UNKNOWN, JobStatus, Meaning, Report, Scheduler, Settlement

__all__ = ["BatchJob", "Phase", "is_of", "needs_no_word", "recorded", "said_of", "verdict_of"]


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
        printed: the id that a submit command printed before it failed.
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
    printed: str | None = None
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

# With these something is ended; USR1 and USR2 may be no more than a warning.
_ENDING = frozenset({"HUP", "INT", "TERM", "XCPU"})


def needs_no_word(job: BatchJob, record: Record) -> bool:
    """Tell whether the record alone says how the attempt ended: nothing from outside can have ended it."""
    description = job.description
    overdue = description.walltime is not None and record.end - record.start >= description.walltime
    # The runner counts memory kills in its own cgroup, and ranks may run in others of the job.
    elsewhere = record.memory_is_its_own and (description.ranks > 1 or (description.nodes or 1) > 1)
    return record.ended_by_itself and job.asked is None and not overdue and not elsewhere


def verdict_of(
    job: BatchJob,
    record: Record | None,
    meaning: Meaning | None,
    settlement: Settlement | None,
    said: str,
    marks: Marks | None = None,
) -> Verdict | None:
    """Judge a job by what is known of its end.

    Args:
        record: its completion record, if it left one.
        meaning: of the state in which the scheduler has it, if it knows it.
        settlement: how the scheduler says that it ended.
        said: what the script said when staging failed.
        marks: of its command, where there is no record.

    Returns:
        The verdict, or None where it may still run, or run again.
    """
    if record is None:
        return _without_record(job, meaning, settlement, marks)
    description = job.description
    verdict = verdict_on(record, job.plan.promised, description.cwd or job.sandbox, said, description.on_oom)
    if meaning is not None and not meaning.final and not needs_no_word(job, record):
        # By whom it was ended, and whether it will run again, the scheduler knows.
        return None
    cause = _outside(job, record, meaning)
    if cause is FailureCause.MEMORY and description.on_oom == "warn" and verdict.state is TaskState.DONE:
        return verdict
    if cause is not None:
        state = TaskState.CANCELED if cause is FailureCause.CANCELLED else TaskState.FAILED
        return Verdict(state, cause, verdict.exit_code, verdict.signal, _text(job, cause))
    nobody_says = meaning is None or (meaning.state is TaskState.FAILED and meaning.cause is None)
    if verdict.state is TaskState.DONE and nobody_says and _asked_to_end(record):
        text = f"signal {record.noted} came from outside, and the scheduler does not know how its job ended"
        return Verdict(TaskState.FAILED, FailureCause.SIGNAL, verdict.exit_code, text=text)
    return verdict


def _outside(job: BatchJob, record: Record, meaning: Meaning | None) -> FailureCause | None:
    """Say what ended an attempt from outside, whatever its exit code; None where it ended by itself."""
    if meaning is not None and meaning.cause in _OUTSIDE:
        return job.asked or meaning.cause
    if needs_no_word(job, record):
        return None
    by_itself = meaning is not None and (meaning.state is TaskState.DONE or meaning.cause is FailureCause.EXIT_CODE)
    if record.signal is None and not record.noted:
        return None
    if job.asked is not None:
        return job.asked
    sent_term = meaning.if_sent_term if meaning is not None and "TERM" in record.noted else None
    if sent_term is not None and not _used_up(job, record):
        return sent_term
    # A Python that is interrupted while it starts makes an exit code of the signal.
    as_it_says = job.task.get("function") is None or record.exit_code == 0
    if by_itself and record.signal is None and sent_term is None and as_it_says:
        return None
    return FailureCause.WALLTIME if _used_up(job, record) else None


def _asked_to_end(record: Record) -> bool:
    return not _ENDING.isdisjoint(record.noted.split())


def _used_up(job: BatchJob, record: Record) -> bool:
    """Tell whether a task had its whole walltime when something outside of it ended it."""
    walltime = job.description.walltime
    over = walltime is not None and record.end - record.start >= walltime
    return "USR2" in record.noted or (over and record.noted != "")


def _without_record(
    job: BatchJob, meaning: Meaning | None, settlement: Settlement | None, marks: Marks | None
) -> Verdict | None:
    if meaning is None or not meaning.final:
        return None
    if job.asked is not None:
        state = TaskState.CANCELED if job.asked is FailureCause.CANCELLED else TaskState.FAILED
        return Verdict(state, job.asked, text=_text(job, job.asked))
    if settlement is not None and _counts(settlement, marks):
        return settlement.verdict
    # That its script ended is no evidence of what the task did.
    return Verdict(TaskState.FAILED, FailureCause.LOST, text=f"it left no completion record; {_native(job.status)}")


def _counts(settlement: Settlement, marks: Marks | None) -> bool:
    """Tell whether a settlement stands without a record.

    Only accounting shows that a job ended well, and only the runner that the task's command was part of it.
    """
    verdict = settlement.verdict
    if verdict.state is TaskState.DONE:
        return settlement.by == "accounting" and marks is not None and marks.began and marks.code in (None, 0)
    return verdict.cause is not FailureCause.EXIT_CODE


def _native(status: JobStatus | None) -> str:
    if status is None:
        return "the scheduler does not know it any more"
    return f"the scheduler says {status.state} {status.reason or ''}".rstrip()


def _text(job: BatchJob, cause: FailureCause) -> str:
    if cause is FailureCause.WALLTIME and job.description.walltime is not None:
        return f"its walltime of {job.description.walltime:g} s was over"
    return job.why or _native(job.status)
