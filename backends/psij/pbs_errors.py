"""What the commands of PBS Pro, OpenPBS and Torque say when they fail, and what to do about it.

Sources: src/include/pbs_error.h of OpenPBS (the exit code of a command is the last eight bits of the error); PBS
Professional Reference Guide, chapter "Error codes"; and what a real 23.06.06 has said, in tests/unit/recorded/pbs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from .failures import LATE, LATER, Rule, Rules, other_than
from .scheduler import Permanent, Transient

__all__ = ["CODES", "RULES", "accounting_disabled", "cancel_failure", "query_failure", "submit_failure"]

# The first that fits decides.
RULES = (
    # Nobody knows whether it was taken: the request went out, and no answer came back.
    Rule("End of File|Premature end of message|Protocol.* error|Timed? ?out|Broken pipe|reset by peer", LATER, True),
    Rule("cannot connect to server|cannot connect to daemon|Connection refused|errno=15010|errno=111", LATER),
    Rule("No free connections|Connection table full|Server connection table full", LATER),
    Rule("server shutting down|Server (is )?down|Communication failure|Try( the request)? again", LATER),
    Rule("Too many submit retries|Resources temporarily unavailable|System error|Internal server error", LATER),
    Rule("(Invalid|Expired|Bad) [Cc]redential|munge|[Aa]uthentication", LATER),
    Rule("[Ff]ailed to save job|License.* (unavailable|down)|cannot send environment|error writing to temp", LATE),
    Rule("would exceed|Maximum number of jobs already in queue|Max(imum)? .*queued|limit on (queued|number)", LATE),
    Rule("Cannot allocate memory|Too many open files|Resource temporarily unavailable", LATER),
    # What never works as it is.
    Rule("illegal -[A-Za-z]|invalid option|usage:|name is too long", advice="look at the options in pbs"),
    Rule("Unknown [Hh]ost|Bad UID for job|access from host not allowed", advice="ask the site whether you may submit"),
    Rule("Unknown queue|No default queue|Queue is not enabled|Route rejected", advice="set another queue"),
    Rule("Unauthorized Request|No permission|No Permission", advice="ask the site, or set another queue or account"),
    Rule("Unknown resource|Invalid resource|Undefined attribute", advice="look at the options in pbs"),
    Rule("violates queue and/or server resource limits|exceeds? .*resource limit|Limit exceeds", advice="ask for less"),
    Rule("Illegal attribute or resource value.*walltime", advice="set walltime"),
    Rule("Illegal attribute or resource value|Cannot be used with select", advice="look at what it asks for"),
    Rule("Invalid [Aa]ccount|Bad Account|[Aa]llocation|[Pp]roject", advice="set account"),
    Rule("[Rr]eservation", advice="set reservation, or leave it out"),
)

# Exit codes of qsub that tell something where its words do not.
CODES: Mapping[int, tuple[float | None, str]] = MappingProxyType(
    {
        38: (LATE, "over the user's limit"),
        158: (LATER, "too many submit retries"),
        159: (None, "unauthorized request"),
        160: (None, "unknown host"),
        162: (LATER, "system error"),
        163: (LATER, "internal error of the server"),
        166: (None, "illegal attribute or resource value"),
        170: (None, "unknown queue"),
        171: (LATER, "invalid credential"),
        172: (LATER, "expired credential"),
        173: (None, "queue is not enabled"),
        174: (None, "no access to the queue"),
        185: (LATER, "no free connections"),
        186: (LATER, "no server to connect to"),
        187: (None, "unknown resource"),
        188: (None, "over the limits of queue or server"),
        189: (None, "no default queue"),
        191: (None, "route rejected by all destinations"),
        196: (LATER, "resources temporarily unavailable"),
        198: (LATE, "maximum number of jobs in the queue"),
        201: (None, "bad account"),
        212: (LATER, "server is shutting down"),
    }
)

_PREFIX = r"\s*((qsub|qdel|qstat|qselect):\s*)?"
_RULES = Rules("qsub", RULES, _PREFIX)

# The request did not fit the state of the job: it has ended, or is about to.
_GONE = re.compile(
    "Unknown Job ?Id|Job has finished|invalid for (finished|state of) job|Request invalid for state", re.IGNORECASE
)
_NO_HISTORY = re.compile(
    "not configured to maintain job history|job_history_enable|invalid option -- 'x'", re.IGNORECASE
)


def submit_failure(text: str, returncode: int) -> Transient | Permanent:
    """Tell whether a submission that failed may work another time; see `Rules.failure`."""
    if text.strip() or returncode not in CODES:
        return _RULES.failure(text, returncode)
    delay, meant = CODES[returncode]
    said = f"qsub failed with exit code {returncode}: {meant}"
    return Permanent(said) if delay is None else Transient(said, delay)


def cancel_failure(text: str, returncode: int) -> str | None:
    """Say what went wrong when jobs were cancelled, beside that some had ended before, or are not known."""
    return other_than(_GONE, text, returncode, re.compile(_PREFIX))


def query_failure(text: str, returncode: int) -> str | None:
    """Say what went wrong when jobs were asked for, beside that some are not known, or had ended."""
    return other_than(_GONE, text, returncode, re.compile(_PREFIX))


def accounting_disabled(text: str) -> bool:
    """Tell from what `qstat -x` has printed whether this server keeps no history."""
    return _NO_HISTORY.search(text) is not None
