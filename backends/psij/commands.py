"""Running the commands of a scheduler: time-limited, and without what the driver's own job has in its environment."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Answer", "CommandTimeoutError", "clean_environment", "run_blocking", "run_command"]

# What a scheduler tells a job about itself; what it reads itself, to find its server, is kept.
_OWN = ("SLURM_", "SBATCH_", "SRUN_", "PBS_", "LSB_", "LS_JOBPID", "LS_SUBCWD", "LS_EXEC_T")
_KEPT = frozenset(
    """
    SLURM_CONF SLURM_CLUSTERS SLURM_TIME_FORMAT PBS_CONF_FILE PBS_DEFAULT PBS_SERVER PBS_EXEC PBS_HOME PBS_PRIMARY
    PBS_SECONDARY PBS_AUTH_METHOD LSB_DISPLAY_YEAR LSB_SHAREDIR LSB_CONFDIR
    """.split()  # noqa: SIM905
)

Answer = tuple[int, bytes, bytes]


class CommandTimeoutError(Exception):
    """A command of the scheduler did not answer in time; what it was to do may have been done."""

    def __init__(self, command: str, timeout: float) -> None:
        super().__init__(f"{command} did not answer in {timeout:g} s")


def clean_environment() -> dict[str, str]:
    """Return the driver's environment without what a scheduler told it about its own job, if it runs in one."""
    return {name: value for name, value in os.environ.items() if name in _KEPT or not name.startswith(_OWN)}


async def run_command(argv: Sequence[str], timeout: float) -> Answer:
    """Run a command.

    Args:
        timeout: seconds that it may take.

    Returns:
        Its exit code and what it said.

    Raises:
        CommandTimeoutError: it did not answer in time, and was ended.
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout)
    except (asyncio.TimeoutError, TimeoutError):
        raise CommandTimeoutError(argv[0], timeout) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out, err


def run_blocking(
    argv: Sequence[str], timeout: float, directory: Path | None = None, stdin: Path | None = None
) -> Answer:
    """Run a command in the calling thread; otherwise like `run_command`.

    Args:
        directory: to run it in.
        stdin: file for it to read; none where None.
    """
    with open(stdin or os.devnull, "rb") as stream:
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                stdin=stream,
                timeout=timeout,
                env=clean_environment(),
                cwd=directory,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(argv[0], timeout) from None
    return done.returncode, done.stdout, done.stderr
