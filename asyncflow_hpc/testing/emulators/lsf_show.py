"""How LSF prints jobs; source: IBM Spectrum LSF 10.1 documentation, bjobs, bhist, bqueues."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence

from .batch import BatchSystem
from .model import Ended, Job, State

__all__ = ["FIELDS", "code_of", "events", "fields", "in_json", "stat", "table"]

_REASONS = {
    Ended.CANCELLED: "TERM_OWNER: job killed by owner",
    Ended.WALLTIME: "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
    Ended.MEMORY: "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit",
}
_SIGNAL_BASE = 128


def stat(job: Job) -> str:
    """Say the state of a job."""
    if job.state is State.ENDED:
        return "DONE" if job.ended_well else "EXIT"
    if job.state is State.RUNNING:
        return "RUN"
    return "PSUSP" if job.holds & {"u", "o"} else "PEND"


def code_of(job: Job) -> int:
    """Say the exit code of a job; 128 and a signal's number where that ended it."""
    if job.code is None:
        # Killed while it was pending.
        return 130 if job.why is Ended.CANCELLED else 0
    return job.code if job.code >= 0 else _SIGNAL_BASE - job.code


def reason_of(job: Job) -> str:
    """Say why LSF ended a job, "" if it did not."""
    return _REASONS.get(job.why, "") if job.why is not None and job.state is State.ENDED else ""


def pending_reason(batch: BatchSystem, job: Job) -> str:
    """Say why a job does not run."""
    if job.state is State.WAITING:
        return "The job start time has not been reached yet;"
    if job.comment == "never":
        return "Dependency condition invalid or never satisfied;"
    if "s" in job.holds:
        return "Job dependency condition not satisfied;"
    if job.holds:
        return "The job was suspended by the user while pending;"
    queue = batch.queues.get(job.queue)
    if queue is not None and not queue.started:
        return "The queue is inactivated by its administrator;"
    if not job.comment:
        return "New job is waiting for scheduling;"
    if batch.never(job):
        return "There are no suitable hosts for the job;"
    return "Job slot limit reached: hosts do not have enough job slots;"


def exec_host(job: Job) -> str:
    """Say where a job runs or ran, such as "2*n1:n2"."""
    counts: dict[str, int] = {}
    for share in job.shares:
        counts[share.node.name] = counts.get(share.node.name, 0) + share.ranks
    return ":".join(name if count == 1 else f"{count}*{name}" for name, count in counts.items())


def _date(seconds: float | None, year: bool) -> str:
    if seconds is None:
        return ""
    return time.strftime("%b %e %H:%M:%S %Y" if year else "%b %e %H:%M", time.localtime(seconds))


def _finish(job: Job, year: bool) -> str:
    text = _date(job.ended, year)
    return f"{text} L" if text and job.why is Ended.WALLTIME else text


Field = Callable[[BatchSystem, Job, str, bool], str]

FIELDS: Mapping[str, Field] = {
    "jobid": lambda batch, job, user, year: job.number,
    "jobindex": lambda batch, job, user, year: str(job.index or 0),
    "stat": lambda batch, job, user, year: stat(job),
    "user": lambda batch, job, user, year: user,
    "queue": lambda batch, job, user, year: job.queue,
    "job_name": lambda batch, job, user, year: job.name,
    "job_description": lambda batch, job, user, year: str(job.shown.get("description", "")),
    "proj_name": lambda batch, job, user, year: str(job.shown.get("project", "default")),
    "from_host": lambda batch, job, user, year: batch.settings.server,
    "exec_host": lambda batch, job, user, year: exec_host(job) if job.started is not None else "",
    "nexec_host": lambda batch, job, user, year: str(len({share.node.name for share in job.shares})),
    "submit_time": lambda batch, job, user, year: _date(job.created, year),
    "start_time": lambda batch, job, user, year: _date(job.started, year),
    "finish_time": lambda batch, job, user, year: _finish(job, year),
    "exit_code": lambda batch, job, user, year: str(code_of(job)) if stat(job) == "EXIT" else "",
    "exit_reason": lambda batch, job, user, year: reason_of(job),
    "kill_reason": lambda batch, job, user, year: "",
    "suspend_reason": lambda batch, job, user, year: pending_reason(batch, job) if stat(job) == "PSUSP" else "",
    "pend_reason": lambda batch, job, user, year: pending_reason(batch, job) if stat(job) == "PEND" else "",
    "run_time": lambda batch, job, user, year: f"{int(batch.elapsed(job))} second(s)",
    "slots": lambda batch, job, user, year: str(sum(chunk.count * chunk.ranks for chunk in job.chunks)),
    "command": lambda batch, job, user, year: str(job.shown.get("command", "")),
}


def fields(text: str) -> list[str]:
    """Take the names of fields from what follows -o, which may have widths and a delimiter."""
    return [word.partition(":")[0].lower() for word in text.split() if not word.startswith("delimiter=")]


def in_json(records: Sequence[Mapping[str, str]]) -> str:
    """Print records as `bjobs -json` does."""
    whole = {"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": list(records)}
    return json.dumps(whole, indent=2, separators=(",", ":"), ensure_ascii=False) + "\n"


_TITLE = "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME\n"


def _tail(text: str) -> str:
    return text if len(text) <= 10 else f"*{text[-9:]}"


def table(batch: BatchSystem, jobs: Sequence[Job], user: str) -> str:
    """Print jobs as bjobs does without options."""
    lines = [
        f"{job.number:<7} {user[:7]:<7} {stat(job):<5} {job.queue[:10]:<10} {batch.settings.server[:11]:<11}"
        f" {exec_host(job)[:11]:<11} {_tail(job.name):<10} {_date(job.created, False)}\n"
        for job in jobs
    ]
    return _TITLE + "".join(lines)


def events(batch: BatchSystem, job: Job, user: str, year: bool) -> str:
    """Print what happened to a job as `bhist -l` does."""

    def line(at: float | None, text: str) -> str:
        form = "%a %b %e %H:%M:%S %Y" if year else "%a %b %e %H:%M:%S"
        return _fold(f"{time.strftime(form, time.localtime(at))}: {text};")

    project = job.shown.get("project", "default")
    head = f"Job <{job.number}>, Job Name <{job.name}>, User <{user}>, Project <{project}>, Command <{_command(job)}>"
    lines = [
        _fold(head),
        line(job.created, f"Submitted from host <{batch.settings.server}>, to Queue <{job.queue}>, CWD <{_cwd(job)}>"),
    ]
    if job.started is not None:
        slots = sum(share.ranks for share in job.shares)
        hosts = exec_host(job).replace(":", "> <")
        lines += [
            line(job.started, f"Dispatched {slots} Task(s) on Host(s) <{hosts}>, Allocated {slots} Slot(s) on Host(s)"
                 f" <{hosts}>"),
            line(job.started, f"Starting (Pid {job.pid or 0})"),
            line(job.started, f"Running with execution home </>, Execution CWD <{_cwd(job)}>, Execution Pid"
                 f" <{job.pid or 0}>"),
        ]  # fmt: skip
    if job.why is Ended.CANCELLED:
        lines.append(line(job.ended, f"Signal <KILL> requested by user or administrator <{user}>"))
    if job.state is State.ENDED:
        lines += [line(job.ended, text) for text in _endings(job)]
    return "\n".join(lines) + "\n"


def _endings(job: Job) -> Sequence[str]:
    if job.ended_well:
        return ["Done successfully. The CPU time used is 0.0 seconds"]
    reason = reason_of(job)
    if job.code is None:
        return [f"Exited; job has been killed; {reason}" if reason else "Exited"]
    ended = f"by signal {-job.code}" if job.code < 0 else f"with exit code {job.code}"
    return [f"Exited {ended}. The CPU time used is 0.0 seconds", f"Completed <exit>; {reason}".rstrip("; ")]


def _cwd(job: Job) -> str:
    return job.launch.directory


def _command(job: Job) -> str:
    return str(job.shown.get("command", "")).replace("\n", ";")[:200]


def _fold(text: str) -> str:
    # Lines of 80 columns, which go on behind 21 blanks.
    rest = [text[at : at + 58] for at in range(80, len(text), 58)]
    return "\n".join([text[:80], *[f"{' ' * 21}{part}" for part in rest]])
