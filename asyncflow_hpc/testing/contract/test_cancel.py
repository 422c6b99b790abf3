"""Cancelling tasks, before and while they run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.testing import BackendUnderTest
from asyncflow_hpc.testing.waiting import until

from .tasks import sandbox_of, shell, trivial

pytestmark = [pytest.mark.asyncio]


async def test_cancel_of_what_nobody_knows(backend: Any, root: Path) -> None:
    async with WorkflowEngine.create(backend=backend, work_dir=root) as flow:
        assert await backend.cancel_task("task.999999") is False
        future = trivial(flow)(1)
        await future
        assert await backend.cancel_task(future.task["uid"]) is False
        assert not future.cancel() and future.state == "DONE"


@pytest.mark.needs("execution", "executables", "cores", "cancel_running", "sandbox")
async def test_cancel_before_running(flow: WorkflowEngine, backend_under_test: BackendUnderTest) -> None:
    command = shell(flow)
    assert backend_under_test.cores is not None
    filling = [command("sleep 600") for _ in range(backend_under_test.cores)]
    waiting = command("echo >ran")
    dependent = command("true", waiting)
    await until(lambda: all(future.state == "RUNNING" for future in filling))
    assert waiting.state == "PENDING" and waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await dependent
    assert (waiting.state, dependent.state) == ("CANCELLED", "CANCELLED")
    assert not waiting.cancel()
    for future in filling:
        future.cancel()
    await asyncio.wait(filling)
    assert await command("echo room again") == "room again\n"
    assert not (flow.session_dir / waiting.task["uid"] / "ran").exists()


@pytest.mark.needs("execution", "executables", "cancel_running", "sandbox")
async def test_cancel_running_takes_grandchildren_and_daemons(
    flow: WorkflowEngine, backend_under_test: BackendUnderTest
) -> None:
    # Not every system has setsid.
    daemon = "$(command -v setsid) sleep 600 &"
    future = shell(flow)(f"trap '' TERM; {daemon} (sleep 600 & echo up >up; wait) & wait; wait")
    await until(lambda: future.state == "RUNNING" and (sandbox_of(future) / "up").exists())
    assert future.cancel() and future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert future.state == "CANCELLED"
    await until_none_left(backend_under_test, sandbox_of(future))


@pytest.mark.needs("execution", "executables", "cancel_running", "sandbox")
@pytest.mark.parametrize("code", [0, 3])
async def test_cancel_of_a_command_that_handles_it(
    flow: WorkflowEngine, backend_under_test: BackendUnderTest, code: int
) -> None:
    for lines in ([], ["true"]):
        handled = f"trap 'echo partial; exit {code}' TERM; sleep 600 & echo >up; wait; echo full"
        future = shell(flow)(handled, task_description={"pre_exec": lines})
        await cancelled_when_up(future)
        assert (future.state, future.task["state"]) == ("CANCELLED", "CANCELED")
        await until_none_left(backend_under_test, sandbox_of(future))


async def cancelled_when_up(future: Any) -> None:
    await until(lambda: future.state == "RUNNING" and (sandbox_of(future) / "up").exists())
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future


async def until_none_left(under_test: BackendUnderTest, sandbox: Path) -> None:
    if under_test.lag == 0:
        assert not under_test.leftovers(sandbox)
    await until(lambda: not under_test.leftovers(sandbox))


@pytest.mark.needs("execution", "functions", "processes", "cancel_running", "sandbox")
async def test_cancel_running_function(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def waits() -> None:
        Path("up").touch()
        await asyncio.sleep(600)

    @flow.function_task
    async def after() -> int:
        return 1

    future = waits()
    await until(lambda: future.state == "RUNNING" and (sandbox_of(future) / "up").exists())
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert await after() == 1


@pytest.mark.needs("execution", "executables", "cancel_running")
async def test_wait_for_ends_the_task(flow: WorkflowEngine) -> None:
    future = shell(flow)("sleep 600")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(future, 0.2)
    # Python 3.12 and later do not wait for the end of what they cancel.
    await until(future.done)
    assert future.cancelled()


@pytest.mark.needs("execution", "executables", "cancel_running")
async def test_gather_cancels_its_members(flow: WorkflowEngine) -> None:
    command = shell(flow)
    futures = [command("sleep 600") for _ in range(4)]
    together = asyncio.gather(*futures)
    await until(lambda: any(future.state == "RUNNING" for future in futures))
    together.cancel()
    with pytest.raises(asyncio.CancelledError):
        await together
    await until(lambda: all(future.state == "CANCELLED" for future in futures))


@pytest.mark.needs("execution", "executables", "cancel_running")
async def test_cancel_of_many(flow: WorkflowEngine) -> None:
    command = shell(flow)
    futures = [command("sleep 600") for _ in range(100)]
    await until(lambda: any(future.state == "RUNNING" for future in futures))
    for future in futures:
        future.cancel()
    await asyncio.wait(futures)
    assert {future.state for future in futures} == {"CANCELLED"}
    assert await command("echo after") == "after\n"
