"""Running the commands of a scheduler: time-limited, and without what the driver's own job has in its environment."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
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

# Seconds until a process that was killed is left to itself.
_PATIENCE = 5.0

Answer = tuple[int, bytes, bytes]


class CommandTimeoutError(Exception):
    """A command of the scheduler did not answer in time; what it was to do may have been done."""

    def __init__(self, command: str, timeout: float) -> None:
        super().__init__(f"{command} did not answer in {timeout:g} s")


def clean_environment() -> dict[str, str]:
    """Return the driver's environment without what a scheduler told it about its own job, if it runs in one."""
    return {name: value for name, value in os.environ.items() if not _left_out(name)}


def _environment() -> dict[str, str] | None:
    """Return the environment of a command; None for the driver's own, which costs less to hand on."""
    return clean_environment() if any(map(_left_out, os.environ)) else None


def _left_out(name: str) -> bool:
    return name.startswith(_OWN) and name not in _KEPT


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
    starting = asyncio.get_running_loop().create_task(_started(argv))
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio waits for ever for a process whose start is cancelled half-way.
        await _end(await starting)
        raise
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout)
    except (asyncio.TimeoutError, TimeoutError):
        raise CommandTimeoutError(argv[0], timeout) from None
    finally:
        if process.returncode is None:
            await _end(process)
    return process.returncode or 0, out, err


async def _started(argv: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    _kill(process.pid)
    with suppress(asyncio.TimeoutError, TimeoutError):
        await asyncio.wait_for(process.wait(), _PATIENCE)


def _kill(pid: int) -> None:
    # With what it has started: that holds its output open, which would be waited for.
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def run_blocking(
    argv: Sequence[str], timeout: float, directory: Path | None = None, stdin: Path | None = None
) -> Answer:
    """Run a command in the calling thread; otherwise like `run_command`.

    Args:
        directory: to run it in.
        stdin: file for it to read; none where None.
    """
    with (
        nullcontext(subprocess.DEVNULL) if stdin is None else open(stdin, "rb") as stream,
        subprocess.Popen(
            argv,
            stdin=stream,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            cwd=directory,
            start_new_session=True,
        ) as process,
    ):
        try:
            out, err = _heard(process, time.monotonic() + timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(argv[0], timeout) from None
        finally:
            if process.returncode is None:
                _kill(process.pid)
    return process.returncode, out, err


def _heard(process: subprocess.Popen[bytes], until: float) -> tuple[bytes, bytes]:
    """Read what a process says until it has ended.

    `communicate` with a time limit sleeps for a millisecond where a process ends just after its output.
    """
    assert process.stdout is not None and process.stderr is not None
    out, err = bytearray(), bytearray()
    reading = {process.stdout.fileno(): out, process.stderr.fileno(): err}
    waiting = select.poll()
    for descriptor in reading:
        waiting.register(descriptor, select.POLLIN)
    while reading:
        for descriptor, _ in _ready(waiting, process, until):
            data = os.read(descriptor, 65536)
            reading[descriptor] += data
            if not data:
                waiting.unregister(descriptor)
                del reading[descriptor]
    _wait(process, until)
    return bytes(out), bytes(err)


def _wait(process: subprocess.Popen[bytes], until: float) -> None:
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        # No Linux, or one before 5.3.
        process.wait(max(until - time.monotonic(), 0))
        return
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        _ready(waiting, process, until)
    finally:
        os.close(descriptor)
    process.wait()


def _ready(waiting: select.poll, process: subprocess.Popen[bytes], until: float) -> list[tuple[int, int]]:
    left = until - time.monotonic()
    ready = waiting.poll(left * 1000) if left > 0 else []
    if not ready:
        raise subprocess.TimeoutExpired(process.args, left)
    return ready
