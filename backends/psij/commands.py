"""Running the commands of a scheduler: time-limited, in an environment that does not change what they do."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path

from .environment import clean_environment

__all__ = ["Answer", "CommandTimeoutError", "clean_environment", "run_blocking", "run_command"]

# More bytes than a submit command says, as a rule.
_USUAL = 4096

# Seconds until a process that was killed is left to itself.
_PATIENCE = 5.0

Answer = tuple[int, bytes, bytes]


class CommandTimeoutError(Exception):
    """A command of the scheduler did not answer in time; what it was to do may have been done."""

    def __init__(self, command: str, timeout: float) -> None:
        super().__init__(f"{command} did not answer in {timeout:g} s")


async def run_command(argv: Sequence[str], timeout: float) -> Answer:
    """Run a command that asks for jobs, or cancels them.

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
        env=clean_environment(asking=True),
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
    argv: Sequence[str],
    timeout: float,
    directory: Path | None = None,
    stdin: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Run a command in the calling thread; otherwise like `run_command`.

    Args:
        directory: to run it in.
        stdin: file for it to read; none where None.
        environment: that of a command that asks for jobs, where None.
    """
    with _Output() as output, nullcontext(subprocess.DEVNULL) if stdin is None else open(stdin, "rb") as stream:
        process = subprocess.Popen(
            argv,
            executable=_found(argv[0], os.environ.get("PATH")),
            stdin=stream,
            stdout=output.out,
            stderr=output.err,
            env=clean_environment(asking=True) if environment is None else environment,
            cwd=directory,
            start_new_session=True,
        )
        try:
            _wait(process, timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(argv[0], timeout) from None
        finally:
            if process.returncode is None:
                _kill(process.pid)
                process.wait()
        return process.returncode, _content(output.out), _content(output.err)


@lru_cache(8)
def _found(program: str, path: str | None) -> str | None:
    """Look for a program once: a search for each command goes through all of PATH, which may lie on slow disks."""
    found = shutil.which(program, path=path)
    return found if found is not None and os.path.isabs(found) else None


class _Output:
    """Takes what a command says, in files in memory: unlike pipes, they wake nobody up before it has ended."""

    __slots__ = ("err", "out")

    def __enter__(self) -> _Output:
        self.out = _memory()
        try:
            self.err = _memory()
        except BaseException:
            os.close(self.out)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.out)
        os.close(self.err)


def _memory() -> int:
    try:
        return os.memfd_create("output")
    except (AttributeError, OSError):
        # No Linux.
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def _content(descriptor: int) -> bytes:
    data = os.pread(descriptor, _USUAL, 0)
    return data if len(data) < _USUAL else os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _wait(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Wait for the end of a process; `wait` with a time limit looks for it now and then, and sleeps in between."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        # No Linux, or one before 5.3.
        process.wait(timeout)
        return
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        if not waiting.poll(timeout * 1000):
            raise subprocess.TimeoutExpired(process.args, timeout)
    finally:
        os.close(descriptor)
    process.wait()
