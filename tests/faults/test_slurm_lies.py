"""A queue that lies, other jobs in it, and a driver that sleeps through it all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing.leftovers import processes_here
from tests.conftest import until

from .on_slurm import Gate, Wrappers, backend, is_known, job_of, newer_too, on_slurm, running, scontrol, shell, told

pytestmark = [*on_slurm, newer_too]


async def test_queue_that_breaks_off_changes_nothing(root: Path, gate: Gate, wrappers: Wrappers) -> None:
    async with WorkflowEngine.create(backend(grace=0.5), work_dir=root) as flow:
        future = shell(flow)(gate.command("task", "echo done"))
        await running(future)
        wrappers.lie("squeue", "breaks-off")
        await wrappers.calls("squeue", 4)
        assert future.state == "RUNNING"
        gate.open()
        assert await future == "done\n"


async def test_queue_that_says_nothing_for_a_while_changes_nothing(root: Path, gate: Gate, wrappers: Wrappers) -> None:
    async with WorkflowEngine.create(backend(grace=60.0), work_dir=root) as flow:
        future = shell(flow)(gate.command("task", "echo done; exit 4"))
        await running(future)
        wrappers.lie("squeue", "says-nothing")
        await wrappers.calls("squeue", 4)
        assert future.state == "RUNNING"
        wrappers.release("squeue")
        await wrappers.calls("squeue", 2)
        gate.open()
        with pytest.raises(TaskFailedError, match="exit code 4"):
            await future


async def test_what_counts_as_lost_does_not_go_on(root: Path, gate: Gate, wrappers: Wrappers) -> None:
    async with WorkflowEngine.create(backend(grace=2.0), work_dir=root) as flow:
        future = shell(flow)(gate.command("task"))
        await running(future)
        wrappers.lie("squeue", "says-nothing")
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert caught.value.cause in (FailureCause.LOST, FailureCause.SIGNAL)
        await until(lambda: not processes_here(root))


async def test_reasons_of_other_jobs(slurm_flow: WorkflowEngine, gate: Gate) -> None:
    """PSI/J's own poll freezes on a reason `None`, as after a preemption, and on one of several words."""
    gate.open()

    def submit(*options: str) -> str:
        argv = ["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap=sleep 600"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    low = submit("--partition=low", "--nodelist=n1", "--exclusive")
    await until(lambda: told(low, "State") == "RUNNING")
    first = submit("--nodelist=n1", "--exclusive", "--requeue")
    await until(lambda: told(low, "State") == "PREEMPTED")
    await until(lambda: told(first, "State") == "RUNNING")
    scontrol("requeuehold", first)
    try:
        await until(lambda: " " in told(first, "Reason"))
        assert told(low, "Reason") == "None"
        done, cancelled = shell(slurm_flow)("echo fine"), shell(slurm_flow)("sleep 600")
        failed = shell(slurm_flow)("kill -9 $$")
        assert await done == "fine\n"
        with pytest.raises(TaskFailedError):
            await failed
        await running(cancelled)
        subprocess.run(["scancel", job_of(cancelled)], check=True)
        await until(cancelled.cancelled)
    finally:
        subprocess.run(["scancel", low, first], check=True)


async def test_two_sessions_of_one_name(root: Path, gate: Gate, wrappers: Wrappers) -> None:
    names = [root / "one", root / "two"]
    async with WorkflowEngine.create(backend(), uid="same", work_dir=names[0]) as flow:
        mine = shell(flow)(gate.command("mine", "echo mine"))
        await running(mine)
        wrappers.hang("sbatch")
        async with WorkflowEngine.create(backend(command_timeout=1.0), uid="same", work_dir=names[1]) as other_flow:
            theirs = shell(other_flow)(gate.command("theirs", "echo theirs"))
            await wrappers.calls("sbatch", 1)
            wrappers.release("sbatch")
            # The queue has a job of this name, which belongs to the other session.
            await running(theirs)
            assert job_of(theirs) != job_of(mine)
            gate.open()
            assert [await mine, await theirs] == ["mine\n", "theirs\n"]
    assert gate.starts() == {"mine": 1, "theirs": 1}


SLEEPER = """
import asyncio, sys
from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend

async def main():
    backend = PsijExecutionBackend(poll_interval=0.5, grace=1, patience=1, command_timeout=2, submit_rate=2)
    async with WorkflowEngine.create(backend, work_dir=sys.argv[1]) as flow:
        @flow.executable_task
        async def command(text):
            return text
        ends = [command(text) for text in sys.argv[2:]]
        print(*[repr(end) for end in await asyncio.gather(*ends, return_exceptions=True)], sep="\\n")

asyncio.run(main())
"""


async def test_driver_that_sleeps(root: Path, gate: Gate, forgetful: None) -> None:
    """Stopped for longer than all its intervals, while jobs end and are forgotten, and others are not submitted yet."""
    commands = [gate.command(name, then) for name, then in (("a", "echo a"), ("b", "exit 5"), ("c", "echo c"))]
    later = [gate.command(str(number), f"echo {number}") for number in range(8)]
    argv = [sys.executable, "-c", SLEEPER, str(root), *commands, *later]
    driver = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        await until(lambda: set("abc") <= set(gate.starts()))
        os.kill(driver.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        names = ["squeue", "--me", "--noheader", "--states=all", "--format=%A"]
        jobs = subprocess.run(names, check=True, capture_output=True, text=True).stdout.split()[-3:]
        gate.open()
        await until(lambda: not any(is_known(job) for job in jobs) and time.monotonic() - stopped > 5)
    finally:
        os.kill(driver.pid, signal.SIGCONT)
    out = driver.communicate()[0].splitlines()
    assert out[0] == repr("a\n") and "exit code 5" in out[1] and out[2] == repr("c\n")
    assert out[3:] == [repr(f"{number}\n") for number in range(8)]
    assert set(gate.starts().values()) == {1}
