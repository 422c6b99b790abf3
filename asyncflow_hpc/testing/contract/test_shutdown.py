"""Shutting down with work under way, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.testing import BackendUnderTest
from asyncflow_hpc.testing.waiting import until

from .tasks import sandbox_of, shell, trivial

pytestmark = [pytest.mark.asyncio]

# Seconds in which threads that were told to end have ended.
PATIENCE = 10


@pytest.mark.needs("execution", "executables", "sandbox")
async def test_shutdown_with_work_under_way(flow: WorkflowEngine, backend_under_test: BackendUnderTest) -> None:
    command = shell(flow)
    running = command("trap '' TERM; sleep 600 & echo >up; wait; wait")
    waiting = [command("sleep 600") for _ in range(50)]
    dependent = command("true", running)
    await until(lambda: running.state == "RUNNING" and (sandbox_of(running) / "up").exists())
    await flow.shutdown()
    assert {future.state for future in (running, dependent, *waiting)} == {"CANCELLED"}
    if backend_under_test.lag == 0:
        assert not backend_under_test.leftovers(flow.session_dir)
    await until(lambda: not backend_under_test.leftovers(flow.session_dir))
    await flow.shutdown()


@pytest.mark.needs("execution", "functions", "processes", "sandbox")
async def test_shutdown_with_functions_under_way(flow: WorkflowEngine, root: Path) -> None:
    @flow.function_task
    async def waits() -> None:
        Path("pid").write_text(str(os.getpid()))
        await asyncio.sleep(600)

    futures = [waits() for _ in range(10)]
    await until(lambda: any(root.glob("*/*/pid")))
    await flow.shutdown()
    assert {future.state for future in futures} == {"CANCELLED"}


@pytest.mark.needs("execution", "executables", "cancel_running")
async def test_shutdown_leaves_the_backend_open(backend: Any, root: Path) -> None:
    first = await WorkflowEngine.create(backend=backend, work_dir=root)
    future = shell(first)("sleep 600")
    await until(lambda: future.state == "RUNNING")
    await first.shutdown(skip_execution_backend=True)
    assert future.cancelled()
    async with WorkflowEngine.create(backend=backend, work_dir=root) as second:
        assert await shell(second)("echo again") == "again\n"


async def test_shutdown_while_tasks_are_handed_over(flow: WorkflowEngine) -> None:
    task = trivial(flow)
    futures = [task(number) for number in range(200)]
    await asyncio.sleep(0)
    await flow.shutdown()
    assert all(future.done() for future in futures)
    assert {future.state for future in futures} <= {"DONE", "CANCELLED"}


def threads_and_children() -> set[Any]:
    # The loop keeps its own threads until it is closed.
    threads = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
    return threads | set(psutil.Process().children())


async def test_nothing_is_left_in_the_driver(backend_under_test: BackendUnderTest, backend: Any, root: Path) -> None:
    async def use(one: Any) -> None:
        async with WorkflowEngine.create(backend=one, work_dir=root) as flow:
            task = trivial(flow)
            await asyncio.gather(*(task(number) for number in range(10)))

    # What is opened once, for good, is open after the first.
    await use(backend)
    known, descriptors = threads_and_children(), psutil.Process().num_fds()
    for _ in range(5):
        await use(backend_under_test.make())
    for _ in range(100 * PATIENCE):
        left, more = threads_and_children() - known, psutil.Process().num_fds() - descriptors
        if not left and more <= 0:
            break
        await asyncio.sleep(0.01)
    assert not left and more <= 0, f"{left} and {more} descriptors"
