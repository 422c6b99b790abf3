"""Function tasks: calls, results and failures in other processes and threads."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import OutputFile, WorkflowEngine
from asyncflow_hpc.errors import SerializationError, TaskFailedError, UnsupportedTaskError
from asyncflow_hpc.states import FailureCause

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="of nobody")


class OwnError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


async def test_async_and_sync(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def slow_add(a: int, b: int = 0) -> int:
        await asyncio.sleep(0)
        return a + b

    @flow.function_task
    def double(x: Any) -> Any:
        return x * 2

    assert await double(slow_add(1, b=slow_add(2))) == 6
    assert await double(b"\0\xff") == b"\0\xff\0\xff"
    assert await double((1, {2}, None, "ü")) == (1, {2}, None, "ü") * 2


async def test_exception_crosses_unchanged(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def fails() -> None:
        raise OwnError(3, "why")

    future = fails()
    with pytest.raises(OwnError) as caught:
        await future
    assert (caught.value.args, caught.value.code) == ((3, "why"), 3)
    assert future.state == "FAILED"


async def test_remote_traceback(processes: WorkflowEngine) -> None:
    @processes.function_task
    async def outer() -> None:
        def where_it_happens() -> None:
            raise KeyError("a", "b")

        where_it_happens()

    with pytest.raises(KeyError) as caught:
        await outer()
    assert caught.value.args == ("a", "b")
    assert "where_it_happens" in str(caught.value.__cause__)


async def test_sys_exit_is_no_result(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def leaves(code: int) -> None:
        sys.exit(code)

    for code in (0, 3):
        with pytest.raises(RuntimeError, match=r"sys\.exit"):
            await leaves(code)


async def test_stop_iteration(flow: WorkflowEngine) -> None:
    @flow.function_task
    def stops() -> None:
        raise StopIteration(3)

    with pytest.raises(RuntimeError, match=r"StopIteration"):
        await stops()


async def test_context_variables(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def reads() -> str:
        return VARIABLE.get()

    if not flow.backend.capabilities.contextvars:
        pytest.skip("context variables stay in the driver")
    assert await reads() == "of nobody"
    token = VARIABLE.set("of the caller")
    later = reads()
    VARIABLE.reset(token)
    assert await later == "of the caller"
    assert await reads() == "of nobody"


async def test_sandbox_and_output(processes: WorkflowEngine) -> None:
    @processes.function_task(capture_stdio=True)
    async def writes() -> str:
        print("printed")
        os.system("echo from a child >&2")
        Path("made.dat").write_text("x")
        return os.getcwd()

    future = writes()
    sandbox = Path(await future)
    assert sandbox == processes.session_dir / future.task["uid"] == Path(future.task["sandbox"])
    assert (sandbox / "made.dat").exists()
    assert (future.task["stdout"], future.task["stderr"]) == ("printed\n", "from a child\n")
    assert (sandbox / f"{future.task['uid']}.out").read_text() == "printed\n"


async def test_environment_of_one_call_only(processes: WorkflowEngine) -> None:
    @processes.function_task
    async def reads() -> Any:
        return os.environ.get("OF_THE_TASK"), os.environ["ASYNCFLOW_TASK_UID"]

    future = reads(task_description={"environment": {"OF_THE_TASK": "yes"}})
    assert await future == ("yes", future.task["uid"])
    assert [(await reads())[0] for _ in range(4)] == [None] * 4


async def test_each_call_sees_the_function_as_it_is(processes: WorkflowEngine) -> None:
    state = {"n": 1}
    number = 1

    @processes.function_task
    async def mutable() -> int:
        state["n"] += 1
        return state["n"]

    @processes.function_task
    async def rebound() -> int:
        return number

    assert [await mutable() for _ in range(3)] == [2, 2, 2]
    state["n"] = 10
    assert await mutable() == 11
    assert await rebound() == 1
    number = 2
    assert await rebound() == 2


@pytest.mark.parametrize(
    ("crash", "cause", "code", "number"),
    [
        (lambda: os._exit(3), FailureCause.EXIT_CODE, 3, None),
        (lambda: os._exit(0), FailureCause.EXIT_CODE, 0, None),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), FailureCause.SIGNAL, None, signal.SIGSEGV),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), FailureCause.SIGNAL, None, signal.SIGKILL),
    ],
)
async def test_crash_takes_one_task(
    processes: WorkflowEngine, crash: Any, cause: FailureCause, code: int | None, number: int | None
) -> None:
    @processes.function_task
    async def dies(crash: Any) -> None:
        print("last words", file=sys.stderr, flush=True)
        crash()

    @processes.function_task
    async def lives(x: int) -> int:
        return x

    crashing, others = dies(crash), [lives(i) for i in range(20)]
    with pytest.raises(TaskFailedError) as caught:
        await crashing
    assert (caught.value.cause, caught.value.exit_code, caught.value.signal) == (cause, code, number)
    assert caught.value.stderr == "last words\n"
    assert await asyncio.gather(*others) == list(range(20))


async def test_memory_error(processes: WorkflowEngine) -> None:
    @processes.function_task
    async def greedy() -> int:
        return len(bytearray(1 << 60))

    future = greedy()
    with pytest.raises(MemoryError):
        await future
    assert future.task["cause"] == FailureCause.MEMORY


CGROUP = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup of 64 MiB, where this machine lets us make one."""
    group = CGROUP / f"asyncflow-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 * 1024 * 1024))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield group
    group.rmdir()


async def test_kill_for_want_of_memory(processes: WorkflowEngine, small_cgroup: Path) -> None:
    @processes.function_task
    async def greedy() -> int:
        (small_cgroup / "cgroup.procs").write_text(str(os.getpid()))
        return len(bytearray(b"x") * (512 * 1024 * 1024))

    with pytest.raises(TaskFailedError) as caught:
        await greedy()
    assert (caught.value.cause, caught.value.signal) == (FailureCause.MEMORY, signal.SIGKILL)


async def test_what_cannot_be_pickled_is_named(processes: WorkflowEngine) -> None:
    lock = threading.Lock()

    @processes.function_task
    async def takes(a: Any, key: Any = None) -> None: ...

    @processes.function_task
    async def closes_over() -> bool:
        return lock.locked()

    @processes.function_task
    async def returns() -> Any:
        return threading.Lock()

    for call, words in (
        (lambda: takes(lock), "argument 'number 1' of task 'takes' is a lock"),
        (lambda: takes(1, key=[lock]), "argument 'key' of task 'takes' is a list"),
        (lambda: closes_over(), "variable 'lock', which the function of task 'closes_over' uses"),
        (lambda: returns(), "task 'returns' ran, but its result, a lock, cannot be pickled"),
    ):
        with pytest.raises(SerializationError, match=words):
            await call()


async def test_walltime(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def waits() -> None:
        for _ in range(100):
            time.sleep(0.05)

    with pytest.raises(TaskFailedError) as caught:
        await waits(task_description={"walltime": 0.3})
    assert caught.value.cause is FailureCause.WALLTIME


async def test_missing_output(processes: WorkflowEngine) -> None:
    @processes.function_task
    async def promises(name: OutputFile) -> None: ...

    with pytest.raises(TaskFailedError, match=r"never\.dat"):
        await promises(OutputFile("never.dat"))


async def test_leftover_coroutines_end_with_their_call(processes: WorkflowEngine) -> None:
    @processes.function_task
    async def leaves_one(kept: list[Any]) -> int:
        kept.append(asyncio.ensure_future(asyncio.sleep(600)))
        return len(asyncio.all_tasks())

    assert [await leaves_one([]) for _ in range(3)] == [2, 2, 2]


async def test_tasks_cannot_be_called_in_other_processes(processes: WorkflowEngine) -> None:
    @processes.function_task
    async def one() -> int:
        return 1

    @processes.function_task
    async def calls_another() -> Any:
        return one()

    with pytest.raises(SerializationError, match="stay in the driver"):
        await calls_another()


async def test_large_arguments_and_results(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def echo(data: bytes) -> bytes:
        return data

    data = os.urandom(20_000_000)
    assert await echo(data) == data


async def test_unsupported(processes: WorkflowEngine) -> None:
    @processes.function_task
    async def nothing() -> None: ...

    with pytest.raises(UnsupportedTaskError, match="ranks"):
        await nothing(task_description={"ranks": 2})


async def test_a_thousand(flow: WorkflowEngine) -> None:
    @flow.function_task
    def square(x: int) -> int:
        return x * x

    assert await asyncio.gather(*(square(i) for i in range(1000))) == [i * i for i in range(1000)]
