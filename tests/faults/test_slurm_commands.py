"""Slurm's commands: few of them however many tasks, and a task that survives each of them when it hangs."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from tests.conftest import until

from .on_slurm import Gate, Wrappers, backend, on_slurm, running, shell

pytestmark = on_slurm


async def test_squeue_that_hangs(root: Path, gate: Gate, wrappers: Wrappers) -> None:
    wrappers.hang("squeue")
    async with WorkflowEngine.create(backend(command_timeout=0.5, grace=0.5), work_dir=root) as flow:
        waiting = shell(flow)(gate.command("waits", "exit 3"))
        assert await shell(flow)("echo its record tells") == "its record tells\n"
        await until(lambda: wrappers.called()["squeue"] >= 3)
        assert not waiting.done()
        wrappers.release("squeue")
        await running(waiting)
        gate.open()
        with pytest.raises(Exception, match="exit code 3"):
            await waiting


async def test_sbatch_that_hangs_has_not_submitted(root: Path, wrappers: Wrappers) -> None:
    wrappers.hang("sbatch")
    async with WorkflowEngine.create(backend(command_timeout=1.0), work_dir=root) as flow:
        future = shell(flow)("echo once >>once; cat once")
        await until(lambda: wrappers.called()["sbatch"])
        wrappers.release("sbatch")
        assert await future == "once\n"
        assert wrappers.called()["sbatch"] == 2


async def test_sbatch_that_hangs_has_submitted(root: Path, gate: Gate, wrappers: Wrappers) -> None:
    wrappers.hang("sbatch", after=True)
    async with WorkflowEngine.create(backend(command_timeout=2.0), work_dir=root) as flow:
        future = shell(flow)(gate.command("job", "echo done"))
        await running(future)
        gate.open()
        assert await future == "done\n"
        assert future.task["native_id"]
        # It was found by its name in the queue, and not submitted again.
        assert wrappers.called()["sbatch"] == 1 and gate.starts() == {"job": 1}


async def test_cancelled_behind_submissions_that_hang(root: Path, wrappers: Wrappers) -> None:
    wrappers.hang("sbatch")
    async with WorkflowEngine.create(backend(command_timeout=3.0), work_dir=root) as flow:
        futures = [shell(flow)("echo done") for _ in range(10)]
        await until(lambda: wrappers.called()["sbatch"] == 4)
        wrappers.release("sbatch")
        for future in futures[4:]:
            future.cancel()
        for future in futures[4:]:
            with pytest.raises(asyncio.CancelledError):
                await future
        assert await asyncio.gather(*futures[:4]) == ["done\n"] * 4
        assert wrappers.called()["sbatch"] == 8 and not any(future.task.get("native_id") for future in futures[4:])


async def test_leaves_in_time_though_submissions_hang(root: Path, wrappers: Wrappers) -> None:
    wrappers.hang("sbatch")
    flow = await WorkflowEngine.create(backend(command_timeout=3.0), work_dir=root)
    futures = [shell(flow)("echo done") for _ in range(10)]
    await until(lambda: wrappers.called()["sbatch"] == 4)
    await flow.shutdown()
    assert wrappers.called()["sbatch"] == 4
    assert all(future.cancelled() for future in futures)


async def test_job_that_ends_before_it_is_found(root: Path, gate: Gate, wrappers: Wrappers) -> None:
    wrappers.hang("sbatch", after=True)
    async with WorkflowEngine.create(backend(command_timeout=2.0), work_dir=root) as flow:
        gate.open()
        assert await shell(flow)(gate.command("job", "echo done")) == "done\n"
        assert wrappers.called()["sbatch"] == 1 and gate.starts() == {"job": 1}


async def test_scancel_that_hangs(root: Path, wrappers: Wrappers) -> None:
    wrappers.hang("scancel")
    async with WorkflowEngine.create(backend(command_timeout=1.0), work_dir=root) as flow:
        futures = [shell(flow)("sleep 1000") for _ in range(3)]
        await running(*futures)
        for future in futures:
            future.cancel()
        await until(lambda: wrappers.called()["scancel"])
        wrappers.release("scancel")
        for future in futures:
            with pytest.raises(asyncio.CancelledError):
                await future
        # One for all, which hung, and one again.
        assert wrappers.called()["scancel"] <= 4


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_few_commands_for_many_tasks(root: Path, wrappers: Wrappers) -> None:
    number, interval = 500, 5.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = {"defaults": {"mem_per_rank": "16MB"}, "poll_interval": interval}
    async with WorkflowEngine.create(backend(**settings), work_dir=root) as flow:
        futures = [shell(flow)(f"echo {index}") for index in range(number)]
        assert await asyncio.gather(*futures) == [f"{index}\n" for index in range(number)]
    called = wrappers.called()
    assert called["sbatch"] == number
    assert called["sacct"] == called["scancel"] == 0
    # While jobs come and go, the queue is asked once a second; it does not matter how many they are.
    times = wrappers.times("squeue")
    assert len(times) <= times[-1] - times[0] + 2
    # Jobs that have ended are hundreds, and are listed only where one of ours was not found among the others.
    assert wrappers.calls_with("squeue", "--states=all") < len(times) / 2
    # In KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.slow
async def test_few_commands_for_many_cancellations(root: Path, wrappers: Wrappers) -> None:
    settings = {"defaults": {"mem_per_rank": "16MB"}, "poll_interval": 5.0}
    async with WorkflowEngine.create(backend(**settings), work_dir=root) as flow:
        futures = [shell(flow)("sleep 1000") for _ in range(100)]
        await until(lambda: all(future.task.get("native_id") for future in futures))
        asked = wrappers.called()["squeue"]
        for future in futures:
            future.cancel()
        ended = await asyncio.gather(*futures, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in ended)
        assert wrappers.called()["scancel"] <= 3
        assert wrappers.called()["squeue"] - asked < 20
