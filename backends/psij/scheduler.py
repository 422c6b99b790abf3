"""What a module of one scheduler offers, and the words in which it does: no process, no file, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from asyncflow_hpc.states import FailureCause, TaskState

from ..verdict import Verdict

__all__ = [
    "UNKNOWN",
    "JobStatus",
    "Meaning",
    "Permanent",
    "Report",
    "Scheduler",
    "Settlement",
    "Source",
    "Transient",
]

# Who said it: the queue (squeue, qstat, bjobs), or the accounting records (sacct, qstat -x, bhist).
Source = Literal["queue", "accounting"]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a scheduler says of one job.

    Attributes:
        native_id: what the scheduler calls it.
        name: that we gave it.
        state: in the scheduler's own word; "" where that could not be read.
        reason: why it is in that state, in the scheduler's own words, else "".
        exit_code: of its script, None while it runs, if a signal ended it, or if nobody knows.
        signal: number of the signal that ended its script, else None.
        restarts: how often it was put back into the queue, None where that is not told.
        nodes: on which it runs or ran, as the scheduler writes a list of nodes; None if it never ran.
        submitted, started, ended: seconds since the epoch by the scheduler's clock, None for what has not happened.
        directory: in which its script starts, as the submit command was told it; "" where that is not told.
    """

    native_id: str
    name: str = ""
    state: str = ""
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    restarts: int | None = None
    nodes: str | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    directory: str = ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a native state means for a task.

    Attributes:
        state: the task's; DONE is no more than a hint, which `Scheduler.settle` may confirm.
        cause: why it failed or was cancelled, else None.
        final: nothing follows.
        paused: it does not run now, and its walltime stands still.
        ending: its script has ended, or is being ended, and the scheduler clears up after it.
        if_sent_term: the cause where the script of the job says that it was sent SIGTERM, if that makes a difference.
    """

    state: TaskState
    cause: FailureCause | None = None
    final: bool = False
    paused: bool = False
    ending: bool = False
    if_sent_term: FailureCause | None = None


# Of words that say nothing: no task goes back to PENDING, so nothing changes.
UNKNOWN = Meaning(TaskState.PENDING)


@dataclass(frozen=True, slots=True)
class Report:
    """What a status command has told; iterating gives the jobs.

    Attributes:
        jobs: in the order in which they came.
        problems: what could not be understood, as clauses that do not change from one poll to the next.
        complete: it did not break off, so that a job that is not in it is not listed.
        by_id: the same jobs; an id has several where clusters or a scheduler that lost its state share it.
    """

    jobs: tuple[JobStatus, ...] = ()
    problems: tuple[str, ...] = ()
    complete: bool = True
    by_id: Mapping[str, list[JobStatus]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[str, list[JobStatus]] = {}
        for status in self.jobs:
            found.setdefault(status.native_id, []).append(status)
        object.__setattr__(self, "by_id", found)

    def __iter__(self) -> Iterator[JobStatus]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


@dataclass(frozen=True, slots=True)
class Transient:
    """A submission failed in a way that may pass.

    Attributes:
        text: what the scheduler said.
        delay: seconds after which another attempt makes sense.
        unclear: the job may be in the queue all the same; look for its name before submitting again.
        while_queued: it can pass only when other jobs of the user end; with none in the queue it is permanent.
        limit: there are too many jobs, so that it passes when some of them end, however long that takes.
    """

    text: str
    delay: float
    unclear: bool = False
    while_queued: bool = False
    limit: bool = False


@dataclass(frozen=True, slots=True)
class Permanent:
    """A submission that fails every time.

    Attributes:
        text: what the scheduler said.
        advice: what to do, as a clause, else "".
        unclear: the job may be in the queue all the same, as the words are in no table.
    """

    text: str
    advice: str = ""
    unclear: bool = False


class Settlement(NamedTuple):
    """How a task ended, as far as the scheduler knows.

    Attributes:
        by: who said it.
    """

    verdict: Verdict
    by: Source


class Scheduler(Protocol):
    """One kind of scheduler: its commands, and what their answers mean.

    Every command is an argv that needs no shell and no particular environment. Every parser takes any bytes, and
    raises nothing.
    """

    @property
    def name(self) -> str:
        """Its name, such as "slurm"."""

    @property
    def commands(self) -> Sequence[str]:
        """The programs without which it cannot be used."""

    @property
    def forgetful(self) -> bool:
        """Whether it forgets a job at the moment at which it ends, where the site keeps no records of ended jobs."""

    def parse_submitted(self, text: str) -> str | None:
        """Take the native id from what the submit command has printed; None if there is none."""

    def submit_failure(self, text: str, returncode: int) -> Transient | Permanent:
        """Tell whether a submission that failed may work another time.

        Args:
            text: what the command has printed, on both streams.
            returncode: negative if a signal ended it; 0 if it ended well, but told no id.
        """

    def queue_command(self, ended: bool = True) -> list[str]:
        """Return the one command that asks for all jobs of the user, however many.

        Args:
            ended: list those that have ended, too, where the queue still knows them; they may be very many.
        """

    def parse_queue(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what the queue command has printed on its standard output and, if known, on the other one."""

    def accounting_command(self, ids: Sequence[str]) -> list[str]:
        """Return the one command that asks the accounting records.

        Args:
            ids: of jobs to ask for; not all need be there in the answer, nor need the answer be of them alone.

        Returns:
            The command; an empty list where this kind of scheduler keeps no records.
        """

    def parse_accounting(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what the accounting command has printed on its standard output and, if known, on the other one."""

    def accounting_disabled(self, text: str) -> bool:
        """Tell from what the accounting command has printed whether this site keeps no records at all."""

    def query_failure(self, text: str, returncode: int) -> str | None:
        """Say what went wrong when the queue or the records were asked.

        Args:
            text: what the command has printed on its error output.

        Returns:
            What it said; None if its answer counts, though some jobs that were asked for may not be known.
        """

    def cancel_commands(self, ids: Sequence[str]) -> list[list[str]]:
        """Return the commands that end jobs, each of them for a bounded number."""

    def cancel_failure(self, text: str, returncode: int) -> str | None:
        """Say what went wrong when jobs were cancelled; None for jobs that have ended before, or are not known."""

    def meaning(self, status: JobStatus) -> Meaning:
        """Say what the state of a job means; `UNKNOWN` itself for a word that is not in the table."""

    def unrunnable(self, reason: str) -> str | None:
        """Say, for a pending reason with which a job never runs as it is, what to do; None for other reasons."""

    def obstacle(self, reason: str) -> str | None:
        """Say, for a pending reason that passes only when somebody acts, what that is; None for other reasons."""

    def settle(self, status: JobStatus, by: Source) -> Settlement | None:
        """Judge a task by its job, where it left no completion record.

        Returns:
            How it ended; None if it may still run, or if what is known is no evidence.
        """
