"""How a task is put to LSF; source: IBM Spectrum LSF 10.1 documentation, bsub and "Resource requirement strings"."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.task import TaskDescription

from ..run_script import Apart
from .dialect import Options, Submission, directives, native_options, one_line, spread, words_of
from .mpi import mpi_launch_line

__all__ = ["LsfDialect"]

_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

# What the backend itself has to say.
_OWN = frozenset(
    """
    I IS ISp ISs IX Ip Is J K L W Zs a cwd e env eo f h i is k n nnodes o oo pack tty V
    """.split()  # noqa: SIM905
)

_WORDS = {"queue": "q", "account": "P", "reservation": "U", "qos": "sla"}

# With more than 128 slots there is no LSB_HOSTS.
_HOSTS = """{ cat -- "$LSB_DJOB_HOSTFILE" 2>/dev/null || printf '%s\\n' $LSB_HOSTS; }"""


class LsfDialect:
    """What LSF wants to be told of a task."""

    name = "lsf"
    namespace = "lsf"
    native_id = "$LSB_JOBID"
    # bkill may reach no more than the process group of the job; ten seconds later it kills.
    apart: Apart = "group"
    forward = True
    hurry: int | None = 8
    daemons = True

    def job_name(self, name: str) -> str:
        """Replace what LSF reads as an array or a job group, or cuts off."""
        return re.sub(r"[^A-Za-z0-9_.+-]", "_", name)

    def options(self, description: TaskDescription, name: str, sandbox: str, comment: str) -> Options:
        """Say everything that bsub is to be told."""
        options: Options = {"J": name, "Jd": " ".join(re.sub(r"[^ -~]", "?", comment).split())}
        # LSF mails output, and adds to it; the script writes its own.
        options |= {"o": "/dev/null", "e": "/dev/null", "rn": True, "n": str(description.ranks)}
        required = _required(description)
        if description.mem_per_rank is not None:
            options["M"] = f"{math.ceil(description.ranks * description.mem_per_rank / 1024)}KB"
        if description.gpus_per_rank:
            options["gpu"] = f"num={description.gpus_per_rank}/task"
        if description.exclusive:
            options["x"] = True
        if description.walltime is not None:
            options["W"] = _minutes(description.walltime)
        options |= words_of(description, _WORDS)
        for key, value in native_options("lsf", description.lsf, _named, _OWN, "option of bsub").items():
            if key == "R":
                required += value if isinstance(value, tuple) else (str(value),)
                continue
            if key == "r":
                del options["rn"]
            options[key] = value
        # bsub joins the sections of several -R.
        return {**options, "R": required} if required else options

    def script(self, options: Mapping[str, Any], sandbox: str, run: str) -> str:
        """Write the batch script; it says into the sandbox what goes wrong."""
        log = shlex.quote(f"{sandbox}/{BOOKKEEPING}/job.log")
        return "\n".join(["#!/bin/sh", *directives(options, "#BSUB -", " "), f"exec >>{log} 2>&1", run, ""])

    def launch_line(self, argv: list[str], description: TaskDescription, python: str) -> list[str]:
        """Make the argv that starts a command on all its ranks; see `mpi`."""
        return mpi_launch_line(argv, description, python, _HOSTS)

    def submission(self, path: str, options: Mapping[str, Any]) -> Submission:
        """Say how a script is submitted: only from its standard input does bsub read directives."""
        return Submission(["bsub"], by_stdin=True)


def _required(description: TaskDescription) -> tuple[str, ...]:
    parts = []
    if description.constraint is not None:
        parts.append(f"select[{one_line('constraint', description.constraint)}]")
    nodes = spread(description)
    if nodes is not None:
        fullest = nodes[0][1]
        parts.append("span[hosts=1]" if nodes[0] == (1, description.ranks) else f"span[ptile={max(fullest, 1)}]")
    if description.cores_per_rank > 1:
        parts.append(f"affinity[core({description.cores_per_rank})]")
    if description.mem_per_rank is not None:
        parts.append(f"rusage[mem={math.ceil(description.mem_per_rank / 1024)}KB/task]")
    return tuple(parts)


def _minutes(seconds: float) -> str:
    # LSF counts in minutes; what is below, the backend ends itself.
    minutes = max(math.ceil(seconds / 60), 1)
    return f"{minutes // 60}:{minutes % 60:02}"


def _named(key: str) -> str | None:
    option = key.lstrip("-")
    return option if _OPTION.fullmatch(option) else None
