"""Function tasks that run in other processes than the driver."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import OutputFile, WorkflowEngine
from asyncflow_hpc.errors import SerializationError, TaskFailedError
from asyncflow_hpc.states import FailureCause

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "functions", "processes")]


async def test_remote_traceback(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def outer() -> None:
        def where_it_happens() -> None:
            raise KeyError("a", "b")

        where_it_happens()

    with pytest.raises(KeyError) as caught:
        await outer()
    assert caught.value.args == ("a", "b")
    assert "where_it_happens" in str(caught.value.__cause__)


@pytest.mark.needs("sandbox")
async def test_sandbox_and_output_of_a_function(flow: WorkflowEngine) -> None:
    async def writes() -> str:
        print("printed")
        os.system("echo from a child >&2")
        Path("made.dat").write_text("x")
        return os.getcwd()

    future = flow.function_task(writes, capture_stdio=True)()
    sandbox = Path(await future)
    assert sandbox == flow.session_dir / future.task["uid"] == Path(future.task["sandbox"])
    assert (sandbox / "made.dat").exists()
    assert (future.task["stdout"], future.task["stderr"]) == ("printed\n", "from a child\n")
    assert (sandbox / f"{future.task['uid']}.out").read_text() == "printed\n"


async def test_threads_of_a_function_follow_the_cores(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    @flow.function_task
    async def reads() -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    assert await reads() == "1"
    assert await reads(task_description={"environment": {"OMP_NUM_THREADS": "3"}}) == "3"
    assert await reads() == "1"


async def test_environment_of_one_call_only(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def reads() -> Any:
        return os.environ.get("OF_THE_TASK"), os.environ["ASYNCFLOW_TASK_UID"]

    future = reads(task_description={"environment": {"OF_THE_TASK": "yes"}})
    assert await future == ("yes", future.task["uid"])
    assert [(await reads())[0] for _ in range(4)] == [None] * 4


async def test_each_call_sees_the_function_as_it_is(flow: WorkflowEngine) -> None:
    state = {"n": 1}
    number = 1

    @flow.function_task
    async def mutable() -> int:
        state["n"] += 1
        return state["n"]

    @flow.function_task
    async def rebound() -> int:
        return number

    assert [await mutable() for _ in range(3)] == [2, 2, 2]
    state["n"] = 10
    assert await mutable() == 11
    assert await rebound() == 1
    number = 2
    assert await rebound() == 2


def end_with(code: int) -> Callable[[], None]:
    return lambda: os._exit(code)


def end_by(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("crash", "cause", "code", "number"),
    [
        (end_with(3), FailureCause.EXIT_CODE, 3, None),
        (end_with(0), FailureCause.EXIT_CODE, 0, None),
        (end_by(signal.SIGSEGV), FailureCause.SIGNAL, None, signal.SIGSEGV),
        (end_by(signal.SIGKILL), FailureCause.SIGNAL, None, signal.SIGKILL),
    ],
    ids=["exit 3", "exit 0", "SIGSEGV", "SIGKILL"],
)
async def test_crash_takes_one_task(
    flow: WorkflowEngine, crash: Any, cause: FailureCause, code: int | None, number: int | None
) -> None:
    @flow.function_task
    async def dies(crash: Any) -> None:
        print("last words", file=sys.stderr, flush=True)
        crash()

    @flow.function_task
    async def lives(x: int) -> int:
        return x

    crashing, others = dies(crash), [lives(i) for i in range(10)]
    with pytest.raises(TaskFailedError) as caught:
        await crashing
    assert (caught.value.cause, caught.value.exit_code, caught.value.signal) == (cause, code, number)
    assert caught.value.stderr == "last words\n"
    assert await asyncio.gather(*others) == list(range(10))


async def test_memory_error(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def greedy() -> int:
        return len(bytearray(1 << 60))

    future = greedy()
    with pytest.raises(MemoryError):
        await future
    assert future.task["cause"] == FailureCause.MEMORY


async def test_what_cannot_be_pickled_is_named(flow: WorkflowEngine) -> None:
    lock = threading.Lock()

    @flow.function_task
    async def takes(a: Any, key: Any = None) -> None: ...

    @flow.function_task
    async def closes_over() -> bool:
        return lock.locked()

    @flow.function_task
    async def returns() -> Any:
        return threading.Lock()

    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: takes(lock), "argument 'number 1' of task 'takes' is a lock"),
        (lambda: takes(1, key=[lock]), "argument 'key' of task 'takes' is a list"),
        (lambda: closes_over(), "variable 'lock', which the function of task 'closes_over' uses"),
        (lambda: returns(), "task 'returns' ran, but its result, a lock, cannot be pickled"),
    ]
    for call, words in calls:
        with pytest.raises(SerializationError, match=words):
            await call()


@pytest.mark.needs("sandbox")
async def test_output_not_written_by_a_function(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def promises(name: OutputFile) -> None: ...

    with pytest.raises(TaskFailedError, match=r"never\.dat"):
        await promises(OutputFile("never.dat"))


async def test_leftover_coroutines_end_with_their_call(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def leaves_one(kept: list[Any]) -> int:
        kept.append(asyncio.ensure_future(asyncio.sleep(600)))
        return len(asyncio.all_tasks())

    assert [await leaves_one([]) for _ in range(3)] == [2, 2, 2]


async def test_tasks_cannot_be_called_in_other_processes(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def one() -> int:
        return 1

    @flow.function_task
    async def calls_another() -> Any:
        return one()

    with pytest.raises(SerializationError, match="stay in the driver"):
        await calls_another()
