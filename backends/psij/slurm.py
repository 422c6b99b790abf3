"""Slurm: its commands, and what their answers mean.

Sources: sbatch(1), squeue(1), sacct(1), scancel(1) and job_exit_code.html of slurm.schedmd.com (Slurm 20.11 and later),
and what a real 22.05.8 has answered, in tests/unit/recorded/slurm.

The queue is asked as text and not with --json: squeue up to 22.05 ignores every filter with it and prints all jobs of
the cluster, its form changes with the release, it needs a plugin that not every site has, and with its controller down
it prints an empty list of jobs and ends with 0. For 1,000 jobs it took seven times the CPU time and 35 times the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from asyncflow_hpc.states import FailureCause, TaskState

from . import slurm_errors, slurm_states
from .judging import judged
from .scheduler import UNKNOWN, JobStatus, Meaning, Permanent, Report, Settlement, Source, Transient

__all__ = ["LARGEST_BATCH", "Slurm", "parse_submitted"]

# A command line holds some ten thousand ids, but a command for many jobs takes long.
LARGEST_BATCH = 500

# Rows of one answer, of about 1 KB, that need not be understood again in the next.
_REMEMBERED = 10_000

# Between fields, and behind the last field of a row of squeue: no name of ours has such characters.
_FIELD, _ROW = "\x1f", "\x1e"

# An empty size means as wide as needed; without one, squeue cuts at 20 characters. The name comes last, as it alone
# may hold anything.
_QUEUE_FIELDS = (
    *("JobArrayID", "State", "Reason", "exit_code", "RestartCnt", "SubmitTime", "StartTime", "EndTime", "NodeList"),
    *("WorkDir", "Name"),
)
_ACCOUNTING_FIELDS = (
    *("JobID", "State", "Reason", "ExitCode", "Submit", "Start", "End", "NodeList"),
    *("WorkDir", "JobName"),
)

_ID = re.compile(r"[0-9]+(_[0-9]+|_\[.*\]|\+[0-9]+)?")
_SUBMITTED = re.compile(r"^(?:([0-9]+)(?:;\S+)?|Submitted batch job ([0-9]+)(?: on cluster \S+)?)\s*$", re.MULTILINE)
# sacct and newer squeue; older squeue prints what wait(2) gives.
_CODES = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
_NUMBER = re.compile(r"[0-9]{1,11}")
_ERROR = re.compile(r"\b(error|fatal|disabled)\b", re.IGNORECASE)
_CLUSTER = re.compile(r"CLUSTER: \S+\s*")

_NOBODY = ("", "None", "None assigned", "N/A", "(null)")


class Slurm:
    """The scheduler Slurm.

    Args:
        user: whose jobs are asked for, better a number than a name; None for the user who asks.
    """

    name = "slurm"
    forgetful = False
    commands = ("sbatch", "squeue", "scancel")

    def __init__(self, user: str | None = None) -> None:
        self._user = "--me" if user is None else f"--user={user}"

    def parse_submitted(self, text: str) -> str | None:
        """Take the id from what sbatch has printed; None if there is none."""
        return parse_submitted(text)

    def submit_failure(self, text: str, returncode: int) -> Transient | Permanent:
        """Tell whether a submission that failed may work another time; see `slurm_errors.submit_failure`."""
        return slurm_errors.submit_failure(text, returncode)

    def queue_command(self, ended: bool = True) -> list[str]:
        """Return the one command that asks for all jobs of the user, those in hidden partitions included.

        Args:
            ended: list those that have ended, too, for as long as the controller knows them (MinJobAge, 300 s by
                default). Without any --states, a 22.05.8 lists all others, as well those with flags, such as
                SPECIAL_EXIT, which it leaves out where states are named.
        """
        fields = [f"{name}:{_FIELD}" for name in _QUEUE_FIELDS[:-1]] + [f"{_QUEUE_FIELDS[-1]}:{_ROW}"]
        return [
            *("env", "SLURM_TIME_FORMAT=%s", "squeue", self._user, "--all", "--array", "--noheader"),
            f"--Format={','.join(fields)}",
            *(["--states=all"] if ended else []),
        ]

    def parse_queue(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what squeue has printed.

        It ends with 0, having listed nothing, when it cannot find the user or knows none of the fields: such an answer
        is not complete.
        """
        return _report(output, errors, _ROW, len(_QUEUE_FIELDS), _queued)

    def accounting_command(self, ids: Sequence[str]) -> list[str]:
        """Return the command that asks the accounting records for jobs.

        It names the jobs: asked for all jobs of a time, sacct tells the end of an earlier run, such as NODE_FAIL, of
        a job that waits to run again. Records come some seconds late.

        Args:
            ids: of the jobs, at most `LARGEST_BATCH` of them.

        Raises:
            ValueError: there are more ids, or none.
        """
        if not 0 < len(ids) <= LARGEST_BATCH:
            raise ValueError(f"sacct is asked for 1 to {LARGEST_BATCH} jobs, not {len(ids)}")
        # No period: it would be one of a driver's clock, which may be wrong. By id, all that was ever recorded counts.
        return [
            *("env", "SLURM_TIME_FORMAT=%s", "sacct", "--allocations", "--noheader", "--parsable"),
            *(f"--delimiter={_FIELD}", f"--format={','.join(_ACCOUNTING_FIELDS)}", f"--jobs={','.join(ids)}"),
        ]

    def parse_accounting(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what sacct has printed.

        sacct takes 128 from exit codes above 127: a 9 may have been 137.
        """
        return _report(output, errors, _FIELD, len(_ACCOUNTING_FIELDS), _accounted)

    def accounting_disabled(self, text: str) -> bool:
        """Tell from what sacct has printed whether this cluster keeps no records."""
        return slurm_errors.accounting_disabled(text)

    def cancel_commands(self, ids: Sequence[str]) -> list[list[str]]:
        """Return the commands that cancel jobs; those that have ended are passed over in silence."""
        return [
            ["scancel", "--quiet", *ids[start : start + LARGEST_BATCH]] for start in range(0, len(ids), LARGEST_BATCH)
        ]

    def cancel_failure(self, text: str, returncode: int) -> str | None:
        """Say what went wrong when jobs were cancelled; None if nothing did."""
        return slurm_errors.cancel_failure(text, returncode)

    def meaning(self, status: JobStatus) -> Meaning:
        """Say what the state of a job means; see `slurm_states.meaning`."""
        return slurm_states.meaning(status)

    def unrunnable(self, reason: str) -> str | None:
        """Say what to do about a pending reason with which a job never runs as it is."""
        return slurm_states.unrunnable(reason)

    def obstacle(self, reason: str) -> str | None:
        """Say what keeps a job pending until somebody acts."""
        return slurm_states.obstacle(reason)

    def settle(self, status: JobStatus, by: Source) -> Settlement | None:
        """Judge a task by its job, where it left no completion record.

        COMPLETED counts only with an exit code of 0 and nodes on which it ran. The queue's word is as good as that of
        the accounting records, which the same controller writes; that a job is listed nowhere is no evidence at all.
        Both hold only for a job whose script ends with the exit code of its one task. Of a job that the queue still
        lists, ask the queue: the records may tell of an earlier run.
        """
        found = self.meaning(status)
        settlement = judged(status, found, by, "Slurm")
        if settlement is None or by == "queue" or found.cause is not FailureCause.EXIT_CODE:
            return settlement
        verdict = settlement.verdict
        if verdict.exit_code is None or verdict.exit_code > 127:
            return settlement
        told = f"{verdict.text}; its records do not tell exit code {verdict.exit_code} from {verdict.exit_code + 128}"
        return Settlement(verdict._replace(text=told), by)

    def query_failure(self, text: str, returncode: int) -> str | None:
        """Say what went wrong when the queue or the records were asked; None if nothing did."""
        return None if returncode == 0 else text.strip() or f"exit code {returncode}"


def parse_submitted(text: str) -> str | None:
    """Take the id from what sbatch has printed, with --parsable or without, among lines of others.

    Returns:
        The id without the cluster; None if there is none.
    """
    found = _SUBMITTED.findall(text)
    return (found[-1][0] or found[-1][1]) if found else None


def _report(output: bytes, errors: bytes, end: str, width: int, parse: Callable[[list[str]], JobStatus]) -> Report:
    # What is not UTF-8 stays readable, and can be printed.
    *chunks, rest = output.decode(errors="backslashreplace").split(f"{end}\n")
    jobs: list[JobStatus] = []
    problems: list[str] = []
    for chunk in chunks:
        status, wrong = _row(chunk, width, parse)
        problems += wrong
        if status is not None:
            jobs.append(status)
    complete = not rest or _CLUSTER.fullmatch(rest) is not None
    if not complete:
        problems.append("it broke off" if _FIELD in rest or not rest.strip() else f"it says {rest.strip()[:200]!r}")
    said = errors.decode(errors="backslashreplace").strip()
    if _ERROR.search(said):
        complete = False
        problems.append(f"it says {said[:200]!r}")
    return Report(tuple(jobs), tuple(dict.fromkeys(problems)), complete)


@lru_cache(_REMEMBERED)
def _row(chunk: str, width: int, parse: Callable[[list[str]], JobStatus]) -> tuple[JobStatus | None, tuple[str, ...]]:
    """Understand a row; returns its job, and what is wrong with it.

    Most rows are the same the next time: the queue lists jobs for minutes after they have ended.
    """
    lead, fields = _fields(chunk, width)
    problems = tuple(_foreign(lead))
    if not _ID.fullmatch(fields[0]):
        return None, (*problems, f"a row without a job id: {fields[0][:80]!r}")
    if len(fields) != width:
        return JobStatus(fields[0]), (*problems, f"a row of {len(fields)} fields, not {width}")
    status = parse(fields)
    if slurm_states.meaning(status) is UNKNOWN:
        problems = (*problems, f"the state {status.state!r} is not known")
    return status, problems


def _fields(chunk: str, width: int) -> tuple[str, list[str]]:
    """Take the lines of others before a row from it, and return both."""
    first, separator, others = chunk.partition(_FIELD)
    lead, _, number = first.rpartition("\n")
    return lead, [number.strip(), *(others.split(_FIELD, width - 2) if separator else [])]


def _foreign(lead: str) -> Iterator[str]:
    for line in lead.splitlines():
        if line.strip() and not _CLUSTER.fullmatch(line):
            yield f"it says {line.strip()[:200]!r}"


def _queued(fields: list[str]) -> JobStatus:
    number, state, reason, code, restarts, submitted, started, ended, nodes, directory, name = fields
    return _status(
        (number, name, directory, state, reason), _waited(code), restarts, nodes, (submitted, started, ended)
    )


def _accounted(fields: list[str]) -> JobStatus:
    number, state, reason, code, submitted, started, ended, nodes, directory, name = fields
    return _status((number, name, directory, state, reason), _pair(code), "", nodes, (submitted, started, ended))


def _status(
    words: tuple[str, str, str, str, str],
    codes: tuple[int | None, int | None],
    restarts: str,
    nodes: str,
    times: tuple[str, str, str],
) -> JobStatus:
    number, name, directory, state, reason = words
    reason = "" if reason.strip() in _NOBODY else reason.strip()
    known = slurm_states.meaning(JobStatus(number, state=state))
    # Of jobs that wait and run, times to come are told as well, and nodes of an earlier run.
    on = None if nodes.strip() in _NOBODY else nodes.strip()
    there = known.state is TaskState.RUNNING or (known.final and on is not None)
    # A job that never ran has a code of Slurm's own, and one whose node failed, too, since 24.11: a 1, or signal 1.
    told = known.final and there and known.cause is not FailureCause.NODE_FAILURE
    code, signal = codes if told else (None, None)
    if code == 0 and known.state is not TaskState.DONE:
        # A zero stands for what was not told, too.
        code = None
    return JobStatus(
        native_id=number,
        name=name,
        directory=directory,
        state=state.strip(),
        reason=reason,
        exit_code=code,
        signal=signal,
        restarts=int(restarts.strip()) if _NUMBER.fullmatch(restarts.strip()) else None,
        nodes=on if there else None,
        submitted=_moment(times[0]),
        started=_moment(times[1]) if there else None,
        ended=_moment(times[2]) if known.final else None,
    )


def _moment(text: str) -> float | None:
    # strip() takes more for white space than float() does.
    bare = text.strip()
    return float(bare) if _NUMBER.fullmatch(bare) else None


def _pair(text: str) -> tuple[int | None, int | None]:
    found = _CODES.fullmatch(text.strip())
    if found is None:
        return None, None
    code, signal = int(found[1]), int(found[2])
    if signal:
        # 125 and the like stand for errors of Slurm itself.
        return None, signal if signal <= 64 else None
    return (code, None) if code <= 255 else (None, None)


def _waited(text: str) -> tuple[int | None, int | None]:
    if not _NUMBER.fullmatch(text.strip()):
        return _pair(text)
    status = int(text)
    if status > 0xFFFF:
        return None, None
    signal, core = status & 0x7F, 0x80
    if signal:
        return None, signal if signal <= 64 else None
    return (None, None) if status & core else (status >> 8, None)
