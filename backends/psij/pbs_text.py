"""What `qstat -f` prints, of PBS Pro, OpenPBS and Torque alike: jobs and their attributes.

Text, and not JSON: a current OpenPBS prints only the first of several jobs as JSON, 23.06.06 prints JSON that is not
UTF-8 where an environment is not, and Torque has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from time import mktime

from .scheduler import JobStatus, Report

__all__ = ["Attributes", "moment", "report", "seconds"]

Attributes = Mapping[str, str]

_JOB = re.compile(r"^Job Id: *(\S*)[ \t]*$", re.MULTILINE)
_ID = re.compile(r"[0-9]+(\[[0-9]*\])?(\.\S+)?")
# Long values go on in lines that begin with a tab.
_FOLDED = re.compile(r"\r?\n\t")
_WANTED = (
    *("Job_Name", "job_state", "substate", "comment", "exec_host", "exec_vnode", "Hold_Types", "run_count"),
    *("start_count", "Exit_status", "exit_status", "qtime", "stime", "start_time", "obittime", "comp_time", "mtime"),
    *("Resource_List.walltime", "resources_used.walltime"),
)
# The rest of the attributes, an environment above all, is the larger part by far.
_ATTRIBUTE = re.compile(rf"^ {{4}}({'|'.join(map(re.escape, _WANTED))}) = (.*(?:\n\t.*)*)$", re.MULTILINE)
_ERROR = re.compile(r"cannot connect|errno=|error|refused|timed? ?out", re.IGNORECASE)
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905
_MOMENT = re.compile(r"[A-Za-z]{3} ([A-Z][a-z]{2}) +([0-9]{1,2}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})")
_DURATION = re.compile(r"([0-9]{1,9}):([0-9]{2}):([0-9]{2})")


def report(output: bytes, errors: bytes, status_of: Callable[[str, Attributes], JobStatus]) -> Report:
    """Understand what `qstat -f` has printed.

    Args:
        status_of: makes the status of a job from its id and its attributes, of which those of interest are given.
    """
    text = output.decode(errors="backslashreplace")
    found = list(_JOB.finditer(text))
    problems = _foreign(text[: found[0].start()] if found else text)
    jobs = []
    for index, head in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(text)
        if not _ID.fullmatch(head[1]):
            problems.append(f"a job without an id: {head[1][:80]!r}")
            continue
        attributes: dict[str, str] = {}
        for name, value in _ATTRIBUTE.findall(text, head.end(), end):
            # The first counts: a value with a line break in it could look like others.
            attributes.setdefault(name, _FOLDED.sub("", value).strip())
        if not attributes.get("job_state"):
            problems.append("a job without a state: it broke off")
        jobs.append(status_of(head[1], attributes))
    if found and not text.endswith("\n"):
        problems.append("it broke off")
    said = errors.decode(errors="backslashreplace")
    complete = not problems and not _ERROR.search(said)
    if not complete and _ERROR.search(said):
        problems.append(f"it says {said.strip()[:200]!r}")
    return Report(tuple(jobs), tuple(dict.fromkeys(problems)), complete)


def _foreign(lead: str) -> list[str]:
    return [f"it says {line.strip()[:200]!r}" for line in lead.splitlines() if line.strip()]


def moment(text: str | None) -> float | None:
    """Return the seconds since the epoch of a local time such as "Mon Nov 23 16:11:36 2026"; None if it is none."""
    found = _MOMENT.fullmatch(text or "")
    if found is None or found[1] not in _MONTHS:
        return None
    day, hour, minute, second, year = (int(part) for part in found.groups()[1:])
    try:
        return mktime((year, _MONTHS.index(found[1]) + 1, day, hour, minute, second, 0, 0, -1))
    except (OverflowError, ValueError):
        return None


def seconds(text: str | None) -> int | None:
    """Return the seconds of a duration such as "01:30:00"; None if it is none."""
    found = _DURATION.fullmatch(text or "")
    return 3600 * int(found[1]) + 60 * int(found[2]) + int(found[3]) if found else None
