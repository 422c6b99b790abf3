"""What LSF's commands say when they fail, and what to do about it.

Sources: IBM Spectrum LSF 10.1 documentation: bsub, bkill, bjobs, bhist (diagnostics), "Error messages" of the
administrator's guide; and the messages that users have reported. No real LSF has been asked.
"""

from __future__ import annotations

import re

from .failures import LATE, LATER, Rule, Rules, other_than
from .scheduler import Permanent, Transient

__all__ = ["NO_JOB", "RULES", "cancel_failure", "query_failure", "submit_failure"]

# The first that fits decides.
RULES = (
    # Nobody knows whether it was taken: the request went out, and no answer came back.
    Rule("Communication time ?out|Failed in receiving|connection reset|Broken pipe|read/write operation", LATER, True),
    Rule("Batch (system )?daemon not responding|mbatchd is (down|not)|LSF is (down|processing)", LATER),
    Rule("Master LIM is down|Cannot (connect|contact).*(LIM|mbatchd)|Connection refused|LIM is down", LATER),
    Rule("internal library error|Failed in an? (LSF|SLS)|try (again )?later|still trying|Retrying", LATER),
    Rule("Pending job (threshold|limit)|MAX_PEND|pending job slot limit|too many pending|job limit.*reached", LATE),
    Rule("Cannot allocate memory|Too many open files|Resource temporarily unavailable|not enough memory", LATER),
    Rule("Authentication|eauth|User permission.*expired", LATER),
    # What never works as it is.
    Rule("No such queue|Queue .*(does not exist|not found)", advice="set another queue"),
    Rule("User cannot use the queue|Queue has been closed|queue.* closed", advice="set another queue"),
    Rule("hard limit|Cannot exceed|RUNLIMIT", advice="ask for less, or set another queue"),
    Rule("Too many (processors|tasks|slots)|TASKLIMIT|PROCLIMIT", advice="set ranks or nodes to what the queue allows"),
    Rule("reservation", advice="set reservation, or leave it out"),
    Rule("project|user group|Not a member", advice="set account"),
    Rule("Bad resource requirement|Unknown resource|Bad (argument|option)|illegal option|Usage:", advice="see lsf"),
    Rule("Service class|SLA", advice="set qos, or leave it out"),
    Rule("aborted by esub", advice="the site's own check refuses it: do what it says"),
    Rule("not licensed|permission denied|cannot be submitted by", advice="ask the site whether you may submit jobs"),
)

_PREFIX = r"\s*((bsub|bjobs|bkill|bhist):\s*)?"
_RULES = Rules("bsub", RULES, _PREFIX)

NO_JOB = re.compile(r"No (unfinished |matching )?job found|Job <[0-9\[\]]+> is not found", re.IGNORECASE)
_ENDED = re.compile(f"{NO_JOB.pattern}|has already finished|is being terminated|is being signaled", re.IGNORECASE)


def submit_failure(text: str, returncode: int) -> Transient | Permanent:
    """Tell whether a submission that failed may work another time; see `Rules.failure`."""
    return _RULES.failure(text, returncode)


def cancel_failure(text: str, returncode: int) -> str | None:
    """Say what went wrong when jobs were cancelled, beside that some had ended before, or are not known."""
    return other_than(_ENDED, text, returncode, re.compile(_PREFIX))


def query_failure(text: str, returncode: int) -> str | None:
    """Say what went wrong when jobs were asked for, beside that there are none, or that some are not known."""
    return other_than(NO_JOB, text, returncode, re.compile(_PREFIX))
