"""What Slurm's commands say when they fail, and what to do about it.

Sources: the messages of src/common/slurm_errno.c of Slurm, as slurm_strerror(3) gives them; sbatch(1);
resource_limits.html of slurm.schedmd.com; and what a real 22.05.8 has said, in tests/unit/recorded/slurm.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .scheduler import Permanent, Transient

__all__ = ["RULES", "Rule", "accounting_disabled", "cancel_failure", "submit_failure"]

_LONGEST = 1000

# Seconds: a hiccup, a controller that is restarted or too busy, and limits that wait for jobs to end.
_SOON, _LATER, _LATE = 2.0, 10.0, 30.0


class Rule(NamedTuple):
    """What a message means.

    Attributes:
        pattern: of the message, whatever the case of its letters.
        delay: seconds until another attempt makes sense; None if none does.
        unclear: the job may be in the queue all the same.
        while_queued: only the end of other jobs can help.
        limit: it is a limit on the number of jobs.
        advice: what to do about a permanent failure.
    """

    pattern: str
    delay: float | None = None
    unclear: bool = False
    while_queued: bool = False
    limit: bool = False
    advice: str = ""


# The first that fits decides.
RULES = (
    # A name of a limit, which sbatch prints before the message that is common to all of them (resource_limits.html).
    Rule(r"\b(Assoc|QOS|Max)\w*Submit\w*", _LATE, limit=True),
    Rule(r"\b(AssocMax|AssocGrp|QOSMax|QOSMin|QOSGrp|Max\w+Per)\w+", advice="ask for less, or set another queue"),
    Rule("No cluster '.*' known", advice="set SLURM_CLUSTERS or the option clusters to a cluster of this site"),
    Rule("Job violates accounting/QOS policy", 2 * _LATE, while_queued=True),
    # The request went out, and no answer came back: nobody knows whether it was carried out.
    Rule(r"Unable to contact slurm controller \(connect failure\)", _LATER),
    Rule("Unable to contact slurm controller", _LATER, unclear=True),
    Rule("Socket timed out on send/recv operation", _LATER, unclear=True),
    Rule("Zero Bytes were transmitted or received", _LATER, unclear=True),
    Rule("Message (send|receive) failure", _LATER, unclear=True),
    Rule("Communication shutdown failure", _LATER, unclear=True),
    Rule("Connection timed out (writing|reading)", _LATER, unclear=True),
    Rule("Connection forced closed by quiesce timeout", _LATER, unclear=True),
    Rule("Kernel reported delayed socket error", _LATER, unclear=True),
    Rule("Process is shutting down and closing all communications", _LATER, unclear=True),
    Rule("Header lengths are longer than data received", _LATER, unclear=True),
    Rule("Unexpected message received", _LATER, unclear=True),
    Rule("Insane message length", _LATER, unclear=True),
    # It was not taken, and may be another time.
    Rule("Communication connection failure", _LATER),
    Rule("Connection timed out establishing", _LATER),
    Rule("Connection (refused|reset by peer)|Connection rejected by handler", _LATER),
    Rule("(Slurm backup controller|Controller is) in standby mode", _LATER),
    Rule("Slurm controller not responding", _LATER),
    Rule("Rate limit exceeded", _LATER),
    Rule("Slurm temporarily unable to accept job|Resource temporarily unavailable", _LATE),
    Rule("MaxJobCount limit reached", _LATE, limit=True),
    Rule("I/O error writing script/environment to file", _LATE),
    Rule("System submissions disabled", 2 * _LATE),
    Rule("Munge encode failed|has authentication error|Protocol authentication error", _LATER),
    Rule("Authentication credential (expired|replayed)|Invalid authentication credential", _LATER),
    Rule("Problem talking to (the )?database|Unable to connect to database|can't be reached now", _LATER),
    Rule("Job locked by another sibling", _LATER),
    Rule("Cannot allocate memory|Too many open files", _LATER),
    # Where users come from a directory service that did not answer (batchtools issue 303).
    Rule("Invalid user for SlurmUser", _SOON),
    # What never works as it is.
    Rule("Could not establish a configuration source", advice="set SLURM_CONF, or run it on a login node"),
    Rule("Invalid partition name|invalid partition specified|No partition specified", advice="set queue"),
    Rule("Required partition not available|Partition in DOWN state", advice="set another queue"),
    Rule("User's group not permitted to use this partition", advice="set another queue"),
    Rule("Invalid account|Invalid or unknown association", advice="set account"),
    Rule("Invalid qos|Requested account has breached requested QOS", advice="set another qos"),
    Rule("reservation", advice="set reservation, or leave it out"),
    Rule("Requested time limit is invalid|Invalid --time|Invalid time", advice="set walltime, or another queue"),
    Rule("Memory (specification|required)|Invalid --mem", advice="set mem_per_rank to what a node has"),
    Rule("CPU count|More processors requested|Invalid CPU", advice="set cores_per_rank to what a node has"),
    Rule("Node count specification invalid|Invalid node name|Requested nodes not in", advice="set nodes or queue"),
    Rule("Requested node configuration is not available", advice="ask for what a node of the queue has"),
    Rule("Invalid (generic resource|GRES)|Invalid Trackable RESource", advice="set gpus_per_rank, or another queue"),
    Rule("Invalid feature|Invalid license|Invalid wckey|unrecognized option", advice="look at the options in slurm"),
    Rule("Access/permission denied", advice="ask the site whether you may submit jobs"),
)

_RULES = [(re.compile(rule.pattern, re.IGNORECASE), rule) for rule in RULES]

_PREFIX = re.compile(r"\s*((sbatch|scancel|squeue|sacct):\s*)?((error|fatal):\s*)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_GONE = re.compile("already completing or completed|Invalid job id specified|Job has already finished", re.IGNORECASE)
_NO_RECORDS = re.compile("accounting storage is disabled|accounting_storage/none", re.IGNORECASE)


def submit_failure(text: str, returncode: int) -> Transient | Permanent:
    """Tell whether a submission that failed may work another time.

    What is not in the table counts as permanent: the task fails, and its error says what Slurm said.

    Args:
        text: what sbatch has printed, on both streams.
        returncode: negative if a signal ended it; 0 if it ended well, but told no id.
    """
    said = _cleaned(text)
    for pattern, rule in _RULES:
        if pattern.search(text):
            if rule.delay is None:
                return Permanent(said, rule.advice)
            return Transient(said, rule.delay, rule.unclear, rule.while_queued, rule.limit)
    if returncode <= 0:
        return Transient(said or f"sbatch told no id (exit code {returncode})", _LATER, unclear=True)
    return Permanent(said or f"sbatch failed with exit code {returncode} and said nothing")


def cancel_failure(text: str, returncode: int) -> str | None:
    """Say what went wrong when jobs were cancelled.

    Returns:
        What scancel said, or None if it said no more than that jobs had ended before, or are not known.
    """
    if returncode == 0:
        return None
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and all(_GONE.search(line) for line in lines):
        return None
    return _cleaned("\n".join(line for line in lines if not _GONE.search(line))) or f"exit code {returncode}"


def accounting_disabled(text: str) -> bool:
    """Tell from what sacct has printed whether this cluster keeps no records at all."""
    return _NO_RECORDS.search(text) is not None


def _cleaned(text: str) -> str:
    lines = []
    for line in text.splitlines():
        line = " ".join(_CONTROL.sub(" ", _PREFIX.sub("", line, count=1)).split())
        if line and line not in lines:
            lines.append(line)
    said = "; ".join(lines)
    return said if len(said) <= _LONGEST else said[: _LONGEST - 4] + " ..."
