"""Torque: its commands, and what the answers mean.

Sources: Torque Administrator Guide 6.1.2 and its commands qsub, qselect, qstat, qdel. No real Torque has been asked.

There is no job history: a job that has ended stays in the queue, in state C, for as long as the site has set
keep_completed, and is gone after that.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import pbs_classic_states, pbs_text
from .pbs import Pbs, exit_of, with_unknown
from .pbs_text import Attributes, moment, seconds
from .scheduler import JobStatus, Meaning, Report

__all__ = ["PbsClassic"]

_TERM = 15


class PbsClassic(Pbs):
    """The scheduler Torque, and others that speak the PBS of before PBS Pro."""

    name = "pbs_classic"
    label = "Torque"

    def parse_queue(self, output: bytes, errors: bytes = b"") -> Report:
        """Understand what `qstat -f` has printed."""
        return with_unknown(pbs_text.report(output, errors, _status), self.meaning)

    def accounting_command(self, ids: Sequence[str]) -> list[str]:
        """Return no command: there are no records that a user could ask."""
        return []

    def meaning(self, status: JobStatus) -> Meaning:
        """Say what the state of a job means; see `pbs_classic_states.meaning`."""
        return pbs_classic_states.meaning(status)


def _status(number: str, attributes: Attributes) -> JobStatus:
    letter = attributes.get("job_state", "")
    ended = letter == "C"
    told = attributes.get("exit_status", attributes.get("Exit_status"))
    code, signal, special = exit_of(told, pbs_classic_states.EXITS) if ended else (None, None, "")
    comment, holds = attributes.get("comment", ""), attributes.get("Hold_Types", "n")
    if ended and not special and (signal is not None or (code or 0) > 128):
        special = _ended_by(signal, attributes)
    if letter == "H":
        comment = f"Hold_Types = {holds}: {comment}" if comment else f"Hold_Types = {holds}"
    there = ended or letter in ("R", "E", "S")
    return JobStatus(
        native_id=number,
        name=attributes.get("Job_Name", ""),
        state=letter,
        reason=": ".join(word for word in (special, comment) if word),
        exit_code=code,
        signal=signal,
        nodes=attributes.get("exec_host") if there else None,
        submitted=moment(attributes.get("qtime")),
        started=moment(attributes.get("start_time")) if there else None,
        ended=moment(attributes.get("comp_time")) if ended else None,
    )


def _ended_by(signal: int | None, attributes: Attributes) -> str:
    limit, used = seconds(attributes.get("Resource_List.walltime")), seconds(attributes.get("resources_used.walltime"))
    if limit is not None and used is not None and used >= limit:
        return pbs_classic_states.OVERDUE
    return pbs_classic_states.CANCELLED_EXIT if signal == _TERM else ""
