"""PBS Pro and OpenPBS: their commands, and what the answers mean.

Sources: PBS Professional Reference Guide, chapter "PBS commands" (qsub, qselect, qstat, qdel), and what a real OpenPBS
23.06.06 has answered, in tests/unit/recorded/pbs.

The queue is asked in two steps, in one command: qselect lists the user's jobs that have not ended, qstat tells about
them. Asked without ids, `qstat -f` prints all jobs of the server; asked for ids of ours, it fails as a whole where one
of them is gone, and some thousands of them do not fit into a command line. Jobs that have ended are asked for by id,
in the job history, where the server keeps one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from . import pbs_errors, pbs_states, pbs_text
from .judging import judged
from .pbs_text import Attributes
from .scheduler import UNKNOWN, JobStatus, Meaning, Permanent, Report, Settlement, Source, Transient

__all__ = ["LARGEST_BATCH", "Pbs", "exit_of", "with_unknown"]

# A command line holds some thousand ids, but a command for many jobs takes long.
LARGEST_BATCH = 200

_ID = re.compile(r"^([0-9]+(?:\[[0-9]*\])?(?:\.[A-Za-z0-9_.:-]+)?)\s*$", re.MULTILINE)

_LIST = f"""\
jobs=$(qselect -u "${{1:-$(id -un)}}") || exit
[ -z "$jobs" ] || printf '%s\\n' "$jobs" | xargs -n {LARGEST_BATCH} qstat -f"""


class Pbs:
    """The schedulers PBS Pro and OpenPBS.

    Args:
        user: whose jobs are asked for; None for the user who asks.
    """

    name = "pbs"
    forgetful = True
    commands: Sequence[str] = ("qsub", "qstat", "qselect", "qdel")
    label = "PBS"

    def __init__(self, user: str | None = None) -> None:
        self._user = [] if user is None else [user]

    def parse_submitted(self, text: str) -> str | None:
        """Take the id from what qsub has printed, among lines of others; None if there is none."""
        found = _ID.findall(text)
        return found[-1] if found else None

    def submit_failure(self, text: str, returncode: int) -> Transient | Permanent:
        """Tell whether a submission that failed may work another time; see `pbs_errors.submit_failure`."""
        return pbs_errors.submit_failure(text, returncode)

    def queue_command(self, ended: bool = True) -> list[str]:
        """Return the one command that asks for all jobs of the user; the queue has none that have ended."""
        return ["/bin/sh", "-c", _LIST, "sh", *self._user]

    def parse_queue(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what `qstat -f` has printed."""
        return with_unknown(pbs_text.report(output, errors, _status), self.meaning)

    def accounting_command(self, ids: Sequence[str]) -> list[str]:
        """Return the command that asks the job history for jobs.

        Raises:
            ValueError: there are more than `LARGEST_BATCH` of them, or none.
        """
        if not 0 < len(ids) <= LARGEST_BATCH:
            raise ValueError(f"qstat is asked for 1 to {LARGEST_BATCH} jobs, not {len(ids)}")
        return ["qstat", "-x", "-f", *ids]

    def parse_accounting(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what `qstat -x -f` has printed."""
        return self.parse_queue(output, errors)

    def accounting_disabled(self, text: str) -> bool:
        """Tell from what `qstat -x` has printed whether this server keeps no history."""
        return pbs_errors.accounting_disabled(text)

    def query_failure(self, text: str, returncode: int) -> str | None:
        """Say what went wrong when jobs were asked for; None if no more than that some are not known."""
        return pbs_errors.query_failure(text, returncode)

    def cancel_commands(self, ids: Sequence[str]) -> list[list[str]]:
        """Return the commands that delete jobs; without their history, which may be needed."""
        return [["qdel", *ids[start : start + LARGEST_BATCH]] for start in range(0, len(ids), LARGEST_BATCH)]

    def cancel_failure(self, text: str, returncode: int) -> str | None:
        """Say what went wrong when jobs were deleted; None for jobs that have ended before, or are not known."""
        return pbs_errors.cancel_failure(text, returncode)

    def meaning(self, status: JobStatus) -> Meaning:
        """Say what the state of a job means; see `pbs_states.meaning`."""
        return pbs_states.meaning(status)

    def unrunnable(self, reason: str) -> str | None:
        """Say what to do about a reason with which a job never runs as it is."""
        return pbs_states.unrunnable(reason)

    def obstacle(self, reason: str) -> str | None:
        """Say what keeps a job queued until somebody acts."""
        return pbs_states.obstacle(reason)

    def settle(self, status: JobStatus, by: Source) -> Settlement | None:
        """Judge a task by its job, where it left no completion record; see `judging.judged`."""
        return judged(status, self.meaning(status), by, self.label)


def _status(number: str, attributes: Attributes) -> JobStatus:
    letter, substate = attributes.get("job_state", ""), attributes.get("substate", "")
    ended = letter in ("F", "X")
    code, signal, special = exit_of(attributes.get("Exit_status"), pbs_states.EXITS) if ended else (None, None, "")
    started = pbs_text.moment(attributes.get("stime"))
    there = letter in ("R", "E", "S", "U", "B") or ended
    return JobStatus(
        native_id=number,
        name=attributes.get("Job_Name", ""),
        state=f"{letter}/{substate}" if ended and substate else letter,
        reason=": ".join(word for word in (special, _reason(letter, attributes)) if word),
        exit_code=code,
        signal=signal,
        restarts=_restarts(attributes.get("run_count")),
        nodes=attributes.get("exec_host") if there else None,
        submitted=pbs_text.moment(attributes.get("qtime")),
        started=started if there else None,
        ended=pbs_text.moment(attributes.get("obittime") or attributes.get("mtime")) if ended else None,
    )


def _reason(letter: str, attributes: Attributes) -> str:
    comment, holds = attributes.get("comment", ""), attributes.get("Hold_Types", "n")
    if letter != "H":
        return comment
    return f"Hold_Types = {holds}: {comment}" if comment else f"Hold_Types = {holds}"


def _restarts(run_count: str | None) -> int | None:
    if run_count is None or not re.fullmatch("[0-9]{1,9}", run_count):
        return None
    return max(int(run_count) - 1, 0)


def exit_of(text: str | None, exits: pbs_states.Exits) -> tuple[int | None, int | None, str]:
    """Understand the exit status of a job.

    Returns:
        The exit code of its script, or the signal that ended it, or the name of a status below zero.
    """
    if text is None or not re.fullmatch("-?[0-9]{1,9}", text):
        return None, None, ""
    status = int(text)
    if status < 0:
        return None, None, exits[status].name if status in exits else f"{pbs_states.ODD_EXIT}{status}"
    if status <= 255:
        return status, None, ""
    return (None, status - 256, "") if 0 < status - 256 <= 64 else (None, None, f"{pbs_states.ODD_EXIT}{status}")


def with_unknown(report: Report, meaning: Callable[[JobStatus], Meaning]) -> Report:
    """Add what is wrong with states that are in no table."""
    odd = [f"the state {job.state!r} is not known" for job in report if job.state and meaning(job) is UNKNOWN]
    return Report(report.jobs, tuple(dict.fromkeys([*report.problems, *odd])), report.complete)
