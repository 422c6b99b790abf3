"""Slurm's programs: where they are, and how they get installed on Debian and Ubuntu."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CannotInstall, say

__all__ = ["SYSTEM_PATH", "ensure_installed", "program"]

# An ordinary user's PATH often lacks the directories of daemons.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MUNGE = {"munged": "munge"}
SLURM = {"sbatch": "slurm-client", "slurmctld": "slurmctld", "slurmd": "slurmd"}
SLURMDBD = {"slurmdbd": "slurmdbd"}
DATABASE = {"mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server"}

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = """#!/bin/sh
# Made by asyncflow_hpc's slurm-cluster while it installs packages, so that none of them starts a daemon.
exit 101
"""


def program(name: str) -> str:
    """Find a program, else its bare name.

    A daemon is recognised by its command line, so the answer must not change with the caller's PATH without need.
    """
    return shutil.which(name, path=f"{SYSTEM_PATH}:{os.environ.get('PATH', '')}") or name


def missing_packages(accounting: bool, slurm: bool) -> list[str]:
    wanted = MUNGE | (SLURM if slurm else {}) | (DATABASE if accounting else {})
    wanted |= SLURMDBD if slurm and accounting else {}
    absent = {package for name, package in wanted.items() if not os.path.isabs(program(name))}
    return sorted(absent | {"slurm-wlm-basic-plugins"} if slurm and absent else absent)


def ensure_installed(accounting: bool, slurm: bool = True) -> None:
    """Install what is missing.

    Args:
        accounting: with the database.
        slurm: with the distribution's Slurm.

    Raises:
        CannotInstall: this user or this machine cannot install it.
    """
    absent = missing_packages(accounting, slurm)
    if not absent:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        why = "there is no apt-get here" if os.geteuid() == 0 else "only root can install them"
        raise CannotInstall(
            f"missing programs of the packages {' '.join(absent)}, and {why}. Have them installed first."
        )
    with only_one_installation():
        # Another run may have installed them meanwhile.
        if absent := missing_packages(accounting, slurm):
            say(f"installing {' '.join(absent)}")
            with no_daemon_starts():
                install(absent)
    if absent := missing_packages(accounting, slurm):
        raise CannotInstall(f"the programs of {' '.join(absent)} are still missing after their installation")


@contextmanager
def only_one_installation() -> Iterator[None]:
    """Keep a second run from taking away the first one's policy."""
    descriptor = os.open(POLICY.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def no_daemon_starts() -> Iterator[None]:
    """Forbid packages to start daemons. A policy of somebody else stays as it is, whatever it says."""
    try:
        with open(POLICY, "x", opener=lambda path, flags: os.open(path, flags, 0o755)) as file:
            file.write(POLICY_TEXT)
    except FileExistsError:
        # A run that was killed leaves its policy behind.
        if POLICY.read_bytes() != POLICY_TEXT.encode():
            yield
            return
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def install(names: list[str]) -> None:
    options = ["-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    log = run_to_the_end(["apt-get", "install", *options, *names])
    if log is not None:
        # The lists of a fresh image are empty or too old.
        log = run_to_the_end(["apt-get", "update", "-qq"]) or run_to_the_end(["apt-get", "install", *options, *names])
    if log is not None:
        raise CannotInstall(f"apt-get failed: {log[-2000:]}")


def run_to_the_end(argv: list[str]) -> str | None:
    """Run apt-get, even if interrupted: it would leave half-configured packages. Return why it failed, if it did."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        say("interrupted: apt-get still has to finish")
        process.communicate()
        raise
    return None if process.returncode == 0 else output.strip() or f"exit code {process.returncode}"
