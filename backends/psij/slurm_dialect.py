"""How a task is put to Slurm; source: sbatch(1), srun(1)."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.task import TaskDescription

from ..numbering import FORGET, started_by, telling
from ..remembered import Remembered
from ..run_script import Apart
from .dialect import Options, Submission, directives, native_options, words_of

__all__ = ["SlurmDialect"]

# Seconds before the end of a walltime at which Slurm tells the script, by SIGUSR2; it may be up to a minute early.
_WARNING = 30

# A shorter walltime would have the warning at its very start.
_SHORTEST_WARNED = 150

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_OPTION = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

# What the backend itself has to say.
_OWN = frozenset(
    """
    array chdir clusters error export-file help input job-name open-mode output parsable quiet signal test-only usage
    verbose version wait wrap
    """.split()  # noqa: SIM905
)

# Options of which sbatch takes one at most, or which say the same; and those with a variable of another name.
_CONTRADICTING = tuple(
    frozenset(group.split())
    for group in (
        "mem mem-per-cpu mem-per-gpu",
        "cpus-per-task cpus-per-gpu tres-per-task",
        "gpus gpus-per-node gpus-per-socket gpus-per-task gres",
        "exclusive oversubscribe",
        "hint ntasks-per-core threads-per-core",
        "time time-min",
    )
)
_VARIABLES = {"mem": "mem-per-node", "time": "timelimit", "switches": "req-switch"}

# srun gives the highest exit code of all ranks, and those that it ends itself have high ones. So each rank that fails
# leaves its own where there is room for one, and a shell around srun takes that. Signals are for what they start; what
# a shell says of a child that one has ended is not the task's output.
_FAILED = '"$ASYNCFLOW_SANDBOX/.asyncflow/first-failure"'
_LOG = 'exec 3>&2 2>>"$ASYNCFLOW_SANDBOX/.asyncflow/script.log"; (exec 2>&3 3>&-; exec "$@"); c=$?'
_TRAPS = "trap : HUP INT TERM USR1 USR2 XCPU"
_RANK_THAT_TELLS = f'{_TRAPS}; {_LOG}; [ "$c" -eq 0 ] || ln -s -- "$c" {_FAILED}; exit "$c"'
_FIRST_FAILURE = (
    f'{FORGET}; rm -f -- {_FAILED}; {_TRAPS}; {_LOG}; f=0; [ "$c" -eq 0 ] || f=$(readlink {_FAILED}) || f=$c; exit "$f"'
)

_WORDS = {
    "queue": "partition",
    "account": "account",
    "reservation": "reservation",
    "qos": "qos",
    "constraint": "constraint",
}


class SlurmDialect:
    """What Slurm wants to be told of a task."""

    name = "slurm"
    namespace = "slurm"
    native_id = "$SLURM_JOB_ID"
    # slurmd knows the processes of a job by themselves, whatever group and session they are in.
    apart: Apart = "session"
    forward = False
    hurry: int | None = None
    daemons = False

    def job_name(self, name: str) -> str:
        """Return the name as it is: Slurm takes any."""
        return name

    def options(self, description: TaskDescription, name: str, sandbox: str, comment: str) -> Options:
        """Say everything that sbatch is to be told."""
        options: Options = {
            "job-name": name,
            "chdir": sandbox,
            "output": _log(sandbox),
            "comment": " ".join(re.sub(r"[^ -~]", "?", comment).split()),
            "no-requeue": True,
            "export": "ALL",
            **_asked(description),
        }
        if "requeue" in options:
            del options["no-requeue"]
        return options

    def script(self, options: Mapping[str, Any], sandbox: str, run: str) -> str:
        """Write the batch script."""
        lines = ["#!/bin/sh", *directives(options, "#SBATCH --", "=", _quoted)]
        if options.get("export", "ALL") != "ALL":
            # It is for the job's own environment; srun would keep that of the script from the ranks.
            lines.append("unset SLURM_EXPORT_ENV")
        if "\\" in sandbox:
            lines.append(f"exec >>{shlex.quote(f'{sandbox}/{BOOKKEEPING}/job.log')} 2>&1")
        return "\n".join([*lines, run, ""])

    def launch_line(self, argv: list[str], description: TaskDescription, python: str) -> list[str]:
        """Make the argv that starts a command on all its ranks."""
        if description.ranks == 1 and (description.nodes or 1) == 1 and description.launcher is None:
            return argv
        launcher, ranks = shlex.split(description.launcher or "srun"), description.ranks
        if not _is_srun(launcher):
            return started_by(launcher, ranks, argv)
        # Since 22.05 srun does not take the cores from sbatch; source: srun(1), --cpus-per-task.
        cores = f"--cpus-per-task={description.cores_per_rank}"
        srun = [*launcher, f"--ntasks={ranks}", cores, "--kill-on-bad-exit=1"]
        rank = ["/bin/sh", "-c", f"{telling(ranks)}; {_RANK_THAT_TELLS}", "sh"]
        return ["/bin/sh", "-c", _FIRST_FAILURE, "sh", *srun, *rank, *argv]

    def submission(self, path: str, options: Mapping[str, Any]) -> Submission:
        """Say how a script is submitted."""
        return Submission(["sbatch", "--parsable", path], unset=_overriding(frozenset(options)))


@lru_cache(256)
def _overriding(options: frozenset[str]) -> frozenset[str]:
    """Return the variables with which sbatch would override options of its script, or refuse them as contradictory."""
    found = set(options)
    for group in _CONTRADICTING:
        if found & group:
            found |= group
    names = {f"SBATCH_{_VARIABLES.get(option, option).upper().replace('-', '_')}" for option in found}
    return frozenset(names | {"SLURM_HINT"} if "hint" in found else names)


def _is_srun(launcher: list[str]) -> bool:
    """Tell whether a launcher is srun, also as "/usr/bin/srun" or "env A=1 srun"."""
    names = (word.rpartition("/")[2] for word in launcher if not _ASSIGNMENT.match(word))
    return next((name for name in names if name != "env"), None) == "srun"


def _log(sandbox: str) -> str:
    # Slurm replaces %j and its like in the directory of a relative path, too; source: sbatch(1), filename pattern. What
    # becomes of a backslash depends on the release, and 26.05 removes all: there the script writes the log itself.
    if "\\" in sandbox:
        return "/dev/null"
    name = f"{BOOKKEEPING}/job.log"
    return sandbox.replace("%", "%%") + f"/{name}" if "%" in sandbox else name


def _quoted(value: str) -> str:
    # Unlike sh, sbatch takes a backslash between single quotes for what escapes the next character.
    return shlex.quote(value).replace("\\", "\\\\")


def _resources(description: TaskDescription) -> Options:
    options: Options = {"ntasks": str(description.ranks), "cpus-per-task": str(description.cores_per_rank)}
    if description.nodes is not None:
        options["nodes"] = str(description.nodes)
    if description.ranks_per_node is not None:
        options["ntasks-per-node"] = str(description.ranks_per_node)
    if description.gpus_per_rank:
        options["gpus-per-task"] = str(description.gpus_per_rank)
    if description.mem_per_rank is not None:
        # The one form that holds however the ranks are spread.
        options["mem-per-cpu"] = f"{math.ceil(description.mem_per_rank / description.cores_per_rank / 1024)}K"
    if description.exclusive:
        options["exclusive"] = True
    return options


def _limits(description: TaskDescription) -> Options:
    options: Options = {}
    if description.walltime is not None:
        options["time"] = _time(description.walltime)
        if description.walltime >= _SHORTEST_WARNED:
            options["signal"] = f"B:USR2@{_WARNING}"
    return {**options, **words_of(description, _WORDS)}


def _time(seconds: float) -> str:
    days, rest = divmod(math.ceil(seconds), 86400)
    return f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"


def _named(key: str) -> str | None:
    option = key.lstrip("-").replace("_", "-").lower()
    return option if _OPTION.fullmatch(option) else None


def _asked_for(description: TaskDescription) -> Options:
    native = native_options("slurm", description.slurm, _named, _OWN, "long option of sbatch")
    return {**_resources(description), **_limits(description), **native}


_asked = Remembered(_asked_for)
