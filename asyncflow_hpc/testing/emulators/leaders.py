"""What leads the session of an emulated job, and starts its script."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from .model import Job

__all__ = ["Leader", "job_file", "login_shell", "script_of"]


class Leader(NamedTuple):
    """A program that leads a session.

    Attributes:
        argv: its arguments, its name first.
        program: its path.
        given: its standard input.
        environment: of its own, beside that of the job.
    """

    argv: list[str]
    program: str
    given: bytes = b""
    environment: Mapping[str, str] = MappingProxyType({})


# What sbatchd makes of a job. The trap has no command but a comment, so that these signals do not end the shell.
_JOB_FILE = b"""\
#! /bin/sh
trap '#' 15 10 12 2 1
# LSBATCH: User input
%s
ExitStat=$?
wait
# LSBATCH: End user input
true
exit `expr $? "|" $ExitStat`
"""


def script_of(place: Path, job: Job) -> Path:
    """Return the path of the script of a job."""
    return place / f"{job.number}.SC"


def login_shell(place: Path, job: Job) -> Leader:
    """Lead a job as pbs_mom does: a login shell reads the name of the script from its standard input."""
    path, shell = shlex.quote(str(_written(place, job))), job.launch.shell
    argv = [f"-{os.path.basename(shell)}"]
    if shell.endswith("csh"):
        return Leader(argv, shell, f"{path}\n".encode())
    # It reads the profile of the system, to which a real PBS adds one, but not that of the user: a job that is killed
    # while it does would leave locks and half-written files in a real home.
    home = shlex.quote(job.launch.environment["HOME"])
    profile = shlex.quote(str(place / "profile"))
    return Leader(argv, shell, f"HOME={home}; . {profile}\n{path}\n".encode(), {"HOME": str(place)})


def job_file(place: Path, job: Job) -> Leader:
    """Lead a job as LSF does: a shell runs a file with the lines of the script, or starts one that names its shell."""
    path, lines = place / f"{job.number}.job", job.launch.script
    if lines.startswith(b"#!"):
        lines = shlex.quote(str(_written(place, job))).encode()
    path.write_bytes(_JOB_FILE % lines)
    return Leader([job.launch.shell, str(path)], job.launch.shell)


def _written(place: Path, job: Job) -> Path:
    path = script_of(place, job)
    path.write_bytes(job.launch.script)
    path.chmod(0o700)
    return path
