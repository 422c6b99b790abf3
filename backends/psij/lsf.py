"""LSF: its commands, and what their answers mean.

Sources: IBM Spectrum LSF 10.1 documentation: bsub, bjobs (-json, -o), bkill, bhist. No real LSF has been asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import lsf_errors, lsf_states
from .judging import judged
from .lsf_history import history, moment
from .scheduler import UNKNOWN, JobStatus, Meaning, Permanent, Report, Settlement, Source, Transient

__all__ = ["LARGEST_BATCH", "Lsf"]

LARGEST_BATCH = 200

# How many of LSF's event files are searched for a job that bjobs has forgotten; each may be large.
_EVENT_FILES = 3

_FIELDS = (
    "jobid stat exit_code exit_reason kill_reason suspend_reason pend_reason exec_host"
    " submit_time start_time finish_time job_name"
)

_SUBMITTED = re.compile(r"^Job <([0-9]+)> is submitted\b", re.MULTILINE)
_ID = re.compile(r"[0-9]+")
_NOBODY = ("", "-")
_SUSPENDED = ("PSUSP", "SSUSP", "USUSP")


class Lsf:
    """The scheduler IBM Spectrum LSF.

    Args:
        user: whose jobs are asked for; None for the user who asks.
    """

    name = "lsf"
    forgetful = False
    commands = ("bsub", "bjobs", "bkill")

    def __init__(self, user: str | None = None) -> None:
        self._user = [] if user is None else ["-u", user]

    def parse_submitted(self, text: str) -> str | None:
        """Take the id from what bsub has printed, among lines of others; None if there is none."""
        found = _SUBMITTED.findall(text)
        return found[-1] if found else None

    def submit_failure(self, text: str, returncode: int) -> Transient | Permanent:
        """Tell whether a submission that failed may work another time; see `lsf_errors.submit_failure`."""
        return lsf_errors.submit_failure(text, returncode)

    def queue_command(self, ended: bool = True) -> list[str]:
        """Return the one command that asks for all jobs of the user.

        Args:
            ended: list those that have ended, too, for as long as LSF keeps them in memory (CLEAN_PERIOD, an hour by
                default).
        """
        every = ["-a"] if ended else []
        return ["env", "LSB_DISPLAY_YEAR=Y", "bjobs", *self._user, *every, "-json", "-o", _FIELDS]

    def parse_queue(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what `bjobs -json` has printed."""
        text = output.decode(errors="backslashreplace")
        said = errors.decode(errors="backslashreplace").strip()
        if lsf_errors.NO_JOB.search(said) or lsf_errors.NO_JOB.fullmatch(text.strip()):
            return Report()
        answer = _object_in(text)
        records = answer.get("RECORDS")
        if not isinstance(records, list):
            return Report(problems=(f"it says {(text.strip() or said)[:200]!r}",), complete=False)
        jobs, problems = [], []
        for record in records:
            job = _status(record) if isinstance(record, dict) else None
            if job is None:
                problems.append(f"a row without a job id: {str(record)[:80]!r}")
                continue
            jobs.append(job)
            if self.meaning(job) is UNKNOWN:
                problems.append(f"the state {job.state!r} is not known")
        # What is said to be there, and is not listed, would seem to be gone.
        complete = answer.get("JOBS") in (len(records), str(len(records)), None)
        if not complete:
            problems.append("it does not list all the jobs that it counts")
        return Report(tuple(jobs), tuple(dict.fromkeys(problems)), complete and len(jobs) == len(records))

    def accounting_command(self, ids: Sequence[str]) -> list[str]:
        """Return the command that asks the event log for jobs.

        Raises:
            ValueError: there are more than `LARGEST_BATCH` of them, or none.
        """
        if not 0 < len(ids) <= LARGEST_BATCH:
            raise ValueError(f"bhist is asked for 1 to {LARGEST_BATCH} jobs, not {len(ids)}")
        return ["env", "LSB_DISPLAY_YEAR=Y", "bhist", "-n", str(_EVENT_FILES), "-l", *ids]

    def parse_accounting(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what `bhist -l` has printed."""
        return history(output)

    def accounting_disabled(self, text: str) -> bool:
        """Tell whether this site keeps no event log: none does without."""
        return False

    def query_failure(self, text: str, returncode: int) -> str | None:
        """Say what went wrong when jobs were asked for; None if no more than that there are none."""
        return lsf_errors.query_failure(text, returncode)

    def cancel_commands(self, ids: Sequence[str]) -> list[list[str]]:
        """Return the commands that end jobs."""
        return [["bkill", *ids[start : start + LARGEST_BATCH]] for start in range(0, len(ids), LARGEST_BATCH)]

    def cancel_failure(self, text: str, returncode: int) -> str | None:
        """Say what went wrong when jobs were ended; None for jobs that have ended before, or are not known."""
        return lsf_errors.cancel_failure(text, returncode)

    def meaning(self, status: JobStatus) -> Meaning:
        """Say what the state of a job means; see `lsf_states.meaning`."""
        return lsf_states.meaning(status)

    def unrunnable(self, reason: str) -> str | None:
        """Say what to do about a pending reason with which a job never runs as it is."""
        return lsf_states.unrunnable(reason)

    def obstacle(self, reason: str) -> str | None:
        """Say what keeps a job pending until somebody acts."""
        return lsf_states.obstacle(reason)

    def settle(self, status: JobStatus, by: Source) -> Settlement | None:
        """Judge a task by its job, where it left no completion record; see `judging.judged`."""
        return judged(status, self.meaning(status), by, "LSF")


def _object_in(text: str) -> Mapping[str, Any]:
    # Sites print lines of their own before it.
    try:
        found = json.loads(text[text.find("{") :], strict=False)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _status(record: Mapping[str, Any]) -> JobStatus | None:
    def word(name: str) -> str:
        value = str(record.get(name, "")).strip()
        return "" if value in _NOBODY else value

    number, state = word("JOBID"), word("STAT")
    if not _ID.fullmatch(number) or "ERROR" in record:
        return None
    known = lsf_states.STATES.get(state)
    ended = known is not None and known.final
    there = ended or (known is not None and known.state == "RUNNING")
    code = word("EXIT_CODE")
    status = int(code) if ended and re.fullmatch("[0-9]{1,3}", code) else None
    if state == "DONE" and not code:
        # It has a code of zero by definition, and some releases leave it out.
        status = 0
    return JobStatus(
        native_id=number,
        name=word("JOB_NAME"),
        state=state,
        reason=_reason(state, word),
        # Of a job that failed, a zero stands for what was not told.
        exit_code=status if status is not None and status <= 255 and (status or state == "DONE") else None,
        nodes=(word("EXEC_HOST") or None) if there else None,
        submitted=moment(word("SUBMIT_TIME")),
        started=moment(word("START_TIME")) if there else None,
        ended=moment(word("FINISH_TIME")) if ended else None,
    )


def _reason(state: str, word: Callable[[str], str]) -> str:
    if state == "EXIT":
        return word("EXIT_REASON") or word("KILL_REASON")
    if state in _SUSPENDED:
        return word("SUSPEND_REASON") or word("PEND_REASON")
    return word("PEND_REASON") if state in ("PEND", "WAIT") else ""
