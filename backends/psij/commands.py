"""Running the commands of a scheduler: time-limited, and without what the driver's own job has in its environment."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence

__all__ = ["Answer", "CommandTimeoutError", "clean_environment", "run_blocking", "run_command"]

_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")

Answer = tuple[int, bytes, bytes]


class CommandTimeoutError(Exception):
    """A command of the scheduler did not answer in time; what it was to do may have been done."""

    def __init__(self, command: str, timeout: float) -> None:
        super().__init__(f"{command} did not answer in {timeout:g} s")


def clean_environment() -> dict[str, str]:
    """Return the driver's environment without what Slurm told it about its own job, if it runs in one."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    }


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


def run_blocking(argv: Sequence[str], timeout: float) -> Answer:
    """Run a command in the calling thread; otherwise like `run_command`."""
    try:
        done = subprocess.run(
            argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, env=clean_environment(), check=False
        )
    except subprocess.TimeoutExpired:
        raise CommandTimeoutError(argv[0], timeout) from None
    return done.returncode, done.stdout, done.stderr
