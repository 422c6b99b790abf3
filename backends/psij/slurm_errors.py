"""What Slurm's commands say when they fail, and what to do about it.

Sources: the messages of src/common/slurm_errno.c of Slurm, as slurm_strerror(3) gives them; sbatch(1);
resource_limits.html of slurm.schedmd.com; and what a real 22.05.8 has said, in tests/unit/recorded/slurm.
"""

from __future__ import annotations

import re

from .failures import LATE, LATER, SOON, Rule, Rules, other_than
from .scheduler import Permanent, Transient

__all__ = ["RULES", "Rule", "accounting_disabled", "cancel_failure", "submit_failure"]

# The first that fits decides.
RULES = (
    # A name of a limit, which sbatch prints before the message that is common to all of them (resource_limits.html).
    Rule(r"\b(Assoc|QOS|Max)\w*Submit\w*", LATE, limit=True),
    Rule(r"\b(AssocMax|AssocGrp|QOSMax|QOSMin|QOSGrp|Max\w+Per)\w+", advice="ask for less, or set another queue"),
    Rule("No cluster '.*' known", advice="set SLURM_CLUSTERS or the option clusters to a cluster of this site"),
    Rule("Job violates accounting/QOS policy", 2 * LATE, while_queued=True),
    # The request went out, and no answer came back: nobody knows whether it was carried out.
    Rule(r"Unable to contact slurm controller \(connect failure\)", LATER),
    Rule("Unable to contact slurm controller", LATER, unclear=True),
    Rule("Socket timed out on send/recv operation", LATER, unclear=True),
    Rule("Zero Bytes were transmitted or received", LATER, unclear=True),
    Rule("Message (send|receive) failure", LATER, unclear=True),
    Rule("Communication shutdown failure", LATER, unclear=True),
    Rule("Connection timed out (writing|reading)", LATER, unclear=True),
    Rule("Connection forced closed by quiesce timeout", LATER, unclear=True),
    Rule("Kernel reported delayed socket error", LATER, unclear=True),
    Rule("Process is shutting down and closing all communications", LATER, unclear=True),
    Rule("Header lengths are longer than data received", LATER, unclear=True),
    Rule("Unexpected message received", LATER, unclear=True),
    Rule("Insane message length", LATER, unclear=True),
    # It was not taken, and may be another time.
    Rule("Communication connection failure", LATER),
    Rule("Connection timed out establishing", LATER),
    Rule("Connection (refused|reset by peer)|Connection rejected by handler", LATER),
    Rule("(Slurm backup controller|Controller is) in standby mode", LATER),
    Rule("Slurm controller not responding", LATER),
    Rule("Rate limit exceeded", LATER),
    Rule("Slurm temporarily unable to accept job|Resource temporarily unavailable", LATE),
    Rule("MaxJobCount limit reached", LATE, limit=True),
    Rule("I/O error writing script/environment to file", LATE),
    Rule("System submissions disabled", 2 * LATE),
    Rule("Munge encode failed|has authentication error|Protocol authentication error", LATER),
    Rule("Authentication credential (expired|replayed)|Invalid authentication credential", LATER),
    Rule("Problem talking to (the )?database|Unable to connect to database|can't be reached now", LATER),
    Rule("Job locked by another sibling", LATER),
    Rule("Cannot allocate memory|Too many open files", LATER),
    # Where users come from a directory service that did not answer (batchtools issue 303).
    Rule("Invalid user for SlurmUser", SOON),
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
    Rule("Job dependency problem|Invalid job array specification", advice="look at the options in slurm"),
    Rule("mutually exclusive|Invalid --", advice="look at the options in slurm"),
    Rule("Batch script is empty|not look like a batch script|Unable to open file", advice="look at its sandbox"),
    Rule("Access/permission denied", advice="ask the site whether you may submit jobs"),
)

_PREFIX = r"\s*((sbatch|scancel|squeue|sacct):\s*)?((error|fatal):\s*)?"
_RULES = Rules("sbatch", RULES, _PREFIX)

_GONE = re.compile("already completing or completed|Invalid job id specified|Job has already finished", re.IGNORECASE)
_NO_RECORDS = re.compile("accounting storage is disabled|accounting_storage/none", re.IGNORECASE)


def submit_failure(text: str, returncode: int) -> Transient | Permanent:
    """Tell whether a submission that failed may work another time; see `Rules.failure`."""
    return _RULES.failure(text, returncode)


def cancel_failure(text: str, returncode: int) -> str | None:
    """Say what went wrong when jobs were cancelled.

    Returns:
        What scancel said, or None if it said no more than that jobs had ended before, or are not known.
    """
    return other_than(_GONE, text, returncode, re.compile(_PREFIX, re.IGNORECASE))


def accounting_disabled(text: str) -> bool:
    """Tell from what sacct has printed whether this cluster keeps no records at all."""
    return _NO_RECORDS.search(text) is not None
