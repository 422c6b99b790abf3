"""What `bhist -l` prints: the events of each job, in the order in which they happened.

Source: IBM Spectrum LSF 10.1 documentation, bhist, and answers that users have published.
"""

from __future__ import annotations

import re
from time import localtime, mktime
from typing import NamedTuple

from .scheduler import JobStatus, Report

__all__ = ["history", "moment"]

# Lines are cut at 80 characters, and go on behind 21 blanks.
_FOLDED = re.compile(r"\r?\n {21}")
_JOB = re.compile(r"^Job <([0-9]+)(?:\[[0-9]+\])?>(.*)$", re.MULTILINE)
_NAME = re.compile(r"Job Name <([^>]*)>")
_EVENT = re.compile(r"^[A-Z][a-z]{2} ([A-Z][a-z]{2} +[0-9]{1,2} [0-9:]{5,8}(?: [0-9]{4})?): *(.*)$", re.MULTILINE)
_MOMENT = re.compile(r"([A-Z][a-z]{2}) +([0-9]{1,2}) ([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?(?: ([0-9]{4}))?(?: [A-Z])?")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905

_STARTED = re.compile(r"(?:started|dispatched)\b[^<]*<([^>]*)>", re.IGNORECASE)
_RUNNING = re.compile(r"(Starting \(Pid|Running)", re.IGNORECASE)
_DONE = re.compile("Done successfully|Completed <done>", re.IGNORECASE)
_EXITED = re.compile(r"Exited|Completed <exit>", re.IGNORECASE)
_CODE = re.compile(r"Exited with exit code ([0-9]{1,9})", re.IGNORECASE)
_SIGNAL = re.compile(r"Exited by (?:LSF )?signal ([0-9]{1,9})", re.IGNORECASE)
_REASON = re.compile(r"TERM_[A-Z_]+(?:: [^;]*)?")
_KILL = re.compile(r"(?:Signal <\w+>|Termination) requested by user or administrator <[^>]*>", re.IGNORECASE)
_AGAIN = re.compile(r"requeue|Pending:|Migration|rerun", re.IGNORECASE)
_LOST = re.compile("Unknown; unable to reach", re.IGNORECASE)


class _Run(NamedTuple):
    state: str = "PEND"
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    nodes: str | None = None
    started: float | None = None
    ended: float | None = None


def history(output: bytes) -> Report:
    """Understand what `bhist -l` has printed."""
    text = _FOLDED.sub("", output.decode(errors="backslashreplace"))
    found = list(_JOB.finditer(text))
    jobs = []
    for index, head in enumerate(found):
        events = text[head.end() : found[index + 1].start() if index + 1 < len(found) else len(text)]
        name = _NAME.search(head[2])
        run, submitted = _Run(), None
        for time, said in _EVENT.findall(events):
            at = moment(time)
            submitted = at if submitted is None else submitted
            run = _after(run, said, at)
        jobs.append(
            JobStatus(
                native_id=head[1],
                name=name[1] if name else "",
                state=run.state,
                reason=run.reason,
                exit_code=run.exit_code,
                signal=run.signal,
                nodes=run.nodes,
                submitted=submitted,
                started=run.started,
                ended=run.ended,
            )
        )
    whole = bool(found) or not text.strip()
    return Report(tuple(jobs), () if whole else (f"it says {text.strip()[:200]!r}",), whole)


def _after(run: _Run, said: str, at: float | None) -> _Run:
    if _DONE.match(said):
        return run._replace(state="DONE", reason="", exit_code=0, ended=at)
    if _EXITED.match(said) or (run.state == "EXIT" and said.startswith("TERM_")):
        return _exited(run, said, at)
    if _AGAIN.search(said):
        return _Run(reason=said.strip("; "))
    if _KILL.search(said):
        return run._replace(reason=_KILL.search(said)[0])  # type: ignore[index]
    if _LOST.match(said):
        return run._replace(state="UNKWN")
    if started := _STARTED.search(said):
        return _Run("RUN", nodes=started[1], started=at)
    return run._replace(state="RUN") if _RUNNING.match(said) and run.state != "EXIT" else run


def _exited(run: _Run, said: str, at: float | None) -> _Run:
    code, signal, reason = _CODE.match(said), _SIGNAL.match(said), _REASON.search(said)
    return run._replace(
        state="EXIT",
        exit_code=int(code[1]) if code and int(code[1]) <= 255 else run.exit_code,
        signal=int(signal[1]) if signal and 0 < int(signal[1]) <= 64 else run.signal,
        reason=reason[0].strip() if reason else run.reason,
        ended=at,
    )


def moment(text: str) -> float | None:
    """Return the seconds since the epoch of a local time such as "Nov 24 00:24:15 2026"; None if it is none.

    Without a year it is of this one, or of the last if it would lie in the future.
    """
    found = _MOMENT.fullmatch(text.strip())
    if found is None or found[1] not in _MONTHS:
        return None
    day, hour, minute, second = (int(part or 0) for part in found.groups()[1:5])
    now = localtime()
    month = _MONTHS.index(found[1]) + 1
    year = int(found[6]) if found[6] else now.tm_year - ((month, day) > (now.tm_mon, now.tm_mday + 1))
    try:
        return mktime((year, month, day, hour, minute, second, 0, 0, -1))
    except (OverflowError, ValueError):
        return None
