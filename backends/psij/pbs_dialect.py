"""How a task is put to PBS Pro, OpenPBS and Torque.

Sources: PBS Professional User's Guide, "Allocating Resources & Placing Jobs", and Reference Guide, qsub; Torque
Administrator Guide 6.1.2, "Requesting resources" and qsub; Moab's "Resource Manager Extensions" for what Torque leaves
to its scheduler (naccesspolicy, qos, advres).
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.errors import TaskDescriptionError
from asyncflow_hpc.task import TaskDescription

from ..run_script import Apart
from .dialect import Options, Submission, clock, directives, native_options, one_line, spread, words_of
from .mpi import mpi_launch_line

__all__ = ["PbsClassicDialect", "PbsDialect"]

# PBS_MAXJOBNAME of src/include/pbs_ifl.h of OpenPBS.
_LONGEST_NAME = 230

_LETTER = re.compile(r"[A-Za-z]")
_RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9_]+")

# What the backend itself has to say: options of qsub, and resources.
_OWN_OPTIONS = frozenset("CIJNSVXdDejoltvwxz")
_OWN_RESOURCES = frozenset(
    """
    select nodes nodect ncpus mpiprocs ngpus mem walltime procs ppn gpus
    """.split()  # noqa: SIM905
)

# That of the driver, as on other schedulers: the login shell that starts the script has read /etc/profile, which often
# sets it anew.
_PATH = "PATH=${PBS_O_PATH:-$PATH}; export PATH"

# Of a path that qsub takes as it is, and does not read as HOST:PATH or refuse.
_PLAIN = re.compile("[A-Za-z0-9_./+@%=-]{1,1000}")

_HOSTS = 'cat -- "$PBS_NODEFILE"'


class PbsDialect:
    """What PBS Pro and OpenPBS want to be told of a task."""

    name = "pbs"
    namespace = "pbs"
    native_id = "$PBS_JOBID"
    # pbs_mom signals the session of a job, and kills it ten seconds later, and nothing else.
    apart: Apart = "group"
    forward = False
    hurry: int | None = 5
    daemons = True

    def job_name(self, name: str) -> str:
        """Replace what PBS refuses in a name."""
        bare = re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[-_LONGEST_NAME:]
        return bare if bare[:1].isalnum() else f"a{bare[1:]}"

    def options(self, description: TaskDescription, name: str, sandbox: str, comment: str) -> Options:
        """Say everything that qsub is to be told; it has no place for a comment."""
        options: Options = {"N": name, "j": "oe", "o": _output(sandbox), "S": "/bin/sh", "r": "n", "V": True}
        options |= words_of(description, {"queue": "q", "account": "A"})
        resources = self._resources(description)
        if description.walltime is not None:
            resources.append(f"walltime={clock(description.walltime)}")
        native = native_options(
            "pbs", description.pbs, _named, _OWN_OPTIONS | _OWN_RESOURCES, "option of qsub or resource"
        )
        for key, value in native.items():
            if _LETTER.fullmatch(key):
                options[key] = value
                continue
            if not isinstance(value, str):
                raise TaskDescriptionError(f"task_description['pbs']: resource {key!r} needs one value, not {value!r}")
            resources = [resource for resource in resources if not resource.startswith(f"{key}=")]
            resources.append(f"{key}={value}")
        if description.reservation is not None:
            self._reserve(options, resources, one_line("reservation", description.reservation))
        return {**options, "l": tuple(resources)}

    def _resources(self, description: TaskDescription) -> list[str]:
        if description.qos is not None:
            raise TaskDescriptionError("task_description['qos']: PBS has none; sites have queues in its place")
        nodes = spread(description)
        chunks = "+".join(f"{count}:{_chunk(description, ranks)}" for count, ranks in nodes or [(description.ranks, 1)])
        place = "free" if nodes is None else "scatter"
        return [f"select={chunks}", f"place={place}{':exclhost' if description.exclusive else ''}"]

    def _reserve(self, options: Options, resources: list[str], reservation: str) -> None:
        # To PBS, a reservation is a queue.
        options["q"] = reservation

    def script(self, options: Mapping[str, Any], sandbox: str, run: str) -> str:
        """Write the batch script; it starts in the home directory, and says into the sandbox what goes wrong."""
        log = shlex.quote(f"{sandbox}/{BOOKKEEPING}/job.log")
        return "\n".join(["#!/bin/sh", *directives(options, "#PBS -", " "), f"exec >>{log} 2>&1", _PATH, run, ""])

    def launch_line(self, argv: list[str], description: TaskDescription, python: str) -> list[str]:
        """Make the argv that starts a command on all its ranks; see `mpi`."""
        return mpi_launch_line(argv, description, python, _HOSTS)

    def submission(self, path: str, options: Mapping[str, Any]) -> Submission:
        """Say how a script is submitted."""
        return Submission(["qsub", path])


class PbsClassicDialect(PbsDialect):
    """What Torque wants to be told of a task."""

    name = "pbs_classic"

    def _resources(self, description: TaskDescription) -> list[str]:
        # Without a word about nodes, all ranks lie on one.
        nodes = spread(description) or [(1, description.ranks)]
        resources = ["nodes=" + "+".join(f"{count}:{_node(description, ranks)}" for count, ranks in nodes)]
        if description.mem_per_rank is not None:
            resources.append(f"mem={math.ceil(description.ranks * description.mem_per_rank / 1024)}kb")
        if description.exclusive:
            resources.append("naccesspolicy=singlejob")
        if description.qos is not None:
            resources.append(f"qos={one_line('qos', description.qos)}")
        return resources

    def _reserve(self, options: Options, resources: list[str], reservation: str) -> None:
        resources.append(f"advres={reservation}")


def _output(sandbox: str) -> str:
    """Say where the output of the job goes: the script writes its own, but pbsdsh and its like write there."""
    path = f"{sandbox}/{BOOKKEEPING}/job.out"
    return path if _PLAIN.fullmatch(path) else "/dev/null"


def _chunk(description: TaskDescription, ranks: int) -> str:
    cores = description.cores_per_rank
    parts = [f"ncpus={max(ranks, 1) * cores}"]
    if ranks:
        # Without ompthreads, PBS tells OpenMP to use all cores of the chunk in each rank.
        parts += [f"mpiprocs={ranks}", f"ompthreads={cores}"]
    if description.gpus_per_rank and ranks:
        parts.append(f"ngpus={ranks * description.gpus_per_rank}")
    if description.mem_per_rank is not None and ranks:
        parts.append(f"mem={math.ceil(ranks * description.mem_per_rank / 1024)}kb")
    return ":".join(parts + _constraint(description))


def _node(description: TaskDescription, ranks: int) -> str:
    parts = [f"ppn={max(ranks, 1) * description.cores_per_rank}"]
    if description.gpus_per_rank and ranks:
        parts.append(f"gpus={ranks * description.gpus_per_rank}")
    return ":".join(parts + _constraint(description))


def _constraint(description: TaskDescription) -> list[str]:
    return [] if description.constraint is None else [one_line("constraint", description.constraint)]


def _named(key: str) -> str | None:
    option = key.lstrip("-")
    return option if _LETTER.fullmatch(option) or _RESOURCE.fullmatch(option) else None
