"""The life of a backend and of its tasks: start, states, callbacks, many tasks, several backends."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import DependencyFailureError, EngineClosedError
from asyncflow_hpc.registry import make_backend
from asyncflow_hpc.states import TaskState
from asyncflow_hpc.testing import BackendUnderTest
from asyncflow_hpc.testing.waiting import until

from .reports import Reports, is_life
from .tasks import sandbox_of, shell, trivial

pytestmark = [pytest.mark.asyncio]

DONE, RUNNING = TaskState.DONE, TaskState.RUNNING


async def test_await_starts_and_shutdown_ends(backend: Any) -> None:
    assert await backend is backend
    assert await backend is backend
    assert isinstance(backend.state(), str) and backend.state()
    await backend.shutdown()
    await backend.shutdown()


async def test_context_manager(backend: Any) -> None:
    async with backend as entered:
        assert entered is backend


async def test_shutdown_of_what_never_started(backend: Any) -> None:
    await backend.shutdown()


async def test_what_an_engine_reads(backend: Any) -> None:
    assert isinstance(backend.name, str) and backend.name
    words = backend.get_task_states_map()
    assert len({words.RUNNING, words.DONE, words.FAILED, words.CANCELED}) == 4


async def test_calls_after_the_shutdown_are_refused(flow: WorkflowEngine) -> None:
    task = trivial(flow)
    await task(1)
    await flow.shutdown()
    with pytest.raises(EngineClosedError):
        await task(2)
    await flow.shutdown()


async def test_states_reported_in_order(flow: WorkflowEngine) -> None:
    reports, task = Reports(flow), trivial(flow)
    first = [task(number) for number in range(10)]
    second = [task(number, *first) for number in range(10)]
    await asyncio.gather(*second)
    assert set(reports.states) == {future.task["uid"] for future in [*first, *second]}
    assert all(is_life(states) for states in reports.states.values()), reports.states
    assert {states[-1] for states in reports.states.values()} == {DONE}
    assert {future.task["state"] for future in [*first, *second]} == {"DONE"}


@pytest.mark.needs("execution", "executables")
async def test_states_of_each_kind_of_end(flow: WorkflowEngine) -> None:
    reports, command = Reports(flow), shell(flow)
    ends = [command("true"), command("exit 3"), command("kill -KILL $$"), command(["no such program here"])]
    dependent = command("true", ends[1])
    await asyncio.wait([*ends, dependent])
    states = [reports.states[future.task["uid"]] for future in ends]
    assert states[:3] == [[RUNNING, DONE], [RUNNING, TaskState.FAILED], [RUNNING, TaskState.FAILED]]
    assert is_life(states[3]) and states[3][-1] is TaskState.FAILED
    assert isinstance(dependent.exception(), DependencyFailureError)
    assert dependent.task["uid"] not in reports.states


@pytest.mark.needs("execution", "executables", "cancel_running")
async def test_states_of_a_cancelled_task(flow: WorkflowEngine) -> None:
    reports = Reports(flow)
    future = shell(flow)("sleep 600")
    await until(lambda: future.state == "RUNNING")
    future.cancel()
    await asyncio.wait([future])
    assert reports.states[future.task["uid"]] == [RUNNING, TaskState.CANCELED]


@pytest.mark.needs("execution", "executables", "sandbox")
async def test_future_follows_the_states(flow: WorkflowEngine) -> None:
    future = shell(flow)("until [ -e go ]; do sleep 0.01; done")
    assert future.state == "PENDING"
    await until(lambda: future.state == "RUNNING")
    assert flow.running == {future.task["uid"]} and future.task["state"] == "RUNNING"
    (sandbox_of(future) / "go").touch()
    await future
    assert (future.state, future.task["state"]) == ("DONE", "DONE")
    assert future.task["started"] <= future.task["ended"]


async def test_callbacks_from_another_thread(flow: WorkflowEngine) -> None:
    with ThreadPoolExecutor(1) as thread:
        reports, task = Reports(flow, deliver=thread.submit), trivial(flow)
        futures = [task(number) for number in range(50)]
        last = task(50, *futures)
        await last
        assert {future.state for future in [*futures, last]} == {"DONE"}
        assert all(is_life(states) for states in reports.states.values()), reports.states


@pytest.mark.timeout(400)
async def test_a_thousand_tasks(flow: WorkflowEngine) -> None:
    reports, task = Reports(flow), trivial(flow)
    futures = [task(number) for number in range(1000)]
    results = await asyncio.gather(*futures)
    assert {future.state for future in futures} == {"DONE"}
    assert [reports.states[future.task["uid"]].count(DONE) for future in futures] == [1] * 1000
    # Of a backend that runs nothing, all results are alike.
    numbers = {str(result).strip() for result in results}
    assert numbers == {str(number) for number in range(1000)} or len(numbers) == 1


async def test_wide_and_deep(flow: WorkflowEngine) -> None:
    task = trivial(flow)
    last = task(0)
    for _ in range(5):
        last = task(0, *(task(number, last) for number in range(5)))
    await last
    assert last.state == "DONE" and not flow.running and not flow.dependencies


async def test_two_backends(backend: Any, root: Path) -> None:
    async with WorkflowEngine.create([backend, make_backend("noop", name="nothing")], work_dir=root) as flow:
        own, other = trivial(flow), trivial(flow, backend="nothing")
        for _ in range(3):
            assert await other(1, own(2)) == "Dummy Output"
            last = own(3, other(1, own(2)))
            await last
            assert last.state == "DONE"


async def test_two_of_the_same_kind(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    twin = backend_under_test.make()
    twin.name = f"{backend.name}-twin"
    async with WorkflowEngine.create([backend, twin], work_dir=root) as flow:
        one, two = trivial(flow), trivial(flow, backend=twin.name)
        futures = [two(number, one(number)) for number in range(10)]
        await asyncio.gather(*futures)
        assert {future.state for future in futures} == {"DONE"}
        assert await backend.cancel_task(futures[0].task["uid"]) is False


async def test_one_engine_after_another(backend: Any, root: Path) -> None:
    await backend
    for number in range(3):
        flow = await WorkflowEngine.create(backend=backend, work_dir=root)
        future = trivial(flow)(number)
        await future
        assert future.state == "DONE"
        await flow.shutdown(skip_execution_backend=True)
    assert len(set(backend.attached_to)) == 3 and not backend.is_attached


@pytest.mark.needs("prompts")
async def test_prompt(flow: WorkflowEngine) -> None:
    @flow.prompt_task
    async def asks(what: str) -> str:
        return f"Say {what}"

    assert isinstance(await asks("yes"), str)
