"""Function tasks: calls, their results and their failures."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
import traceback
from typing import Any

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing import BackendUnderTest

from .crossing import ODD_ERRORS, VARIABLE, OwnError
from .tasks import umask_here

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "functions")]


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


async def test_exception_says_in_which_file_it_was_raised(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def fails() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError) as caught:
        await fails()
    told = "".join(traceback.format_exception(caught.value))
    assert re.search(rf'File "{re.escape(__file__)}", line \d+, in fails\n', told)


async def test_exception_about_a_name_that_is_not_utf_8(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def fails(name: bytes) -> None:
        raise ValueError(os.fsdecode(name))

    with pytest.raises(ValueError) as caught:
        await fails(b"\xff.dat")
    assert caught.value.args == (os.fsdecode(b"\xff.dat"),)


@pytest.mark.needs("sandbox", "processes")
async def test_umask(flow: WorkflowEngine) -> None:
    """What a function makes has the umask of the driver, as what a command makes has; its sandbox is private."""

    @flow.function_task
    def makes() -> list[int]:
        os.mkdir("made")
        with open("made/file", "w"):
            return [os.stat(path).st_mode & 0o777 for path in ("made/file", "made", ".")]

    future = makes()
    assert await future == [0o666 & ~umask_here(), 0o777 & ~umask_here(), 0o700]


@pytest.mark.parametrize("error", ODD_ERRORS)
async def test_exceptions_of_odd_classes(flow: WorkflowEngine, error: type[BaseException]) -> None:
    @flow.function_task
    def fails() -> None:
        raise error

    future = fails()
    await asyncio.wait([future])
    expected = error if error in ODD_ERRORS[:-2] else RuntimeError
    # Compared as a truth value: pytest would show the exception.
    same = isinstance(future.exception(), expected)
    assert same, f"{type(future.exception())}"


async def test_sys_exit_is_no_result(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def leaves(code: Any) -> None:
        sys.exit(code)

    for code in (0, 3, True, 2**70):
        with pytest.raises(RuntimeError, match=r"sys\.exit"):
            await leaves(code)
    with pytest.raises(RuntimeError, match=r"sys\.exit.*what it said"):
        await leaves("what it said")


async def test_stop_iteration(flow: WorkflowEngine) -> None:
    @flow.function_task
    def stops() -> None:
        raise StopIteration(3)

    with pytest.raises(RuntimeError, match=r"StopIteration"):
        await stops()


@pytest.mark.needs("contextvars")
async def test_context_variables(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def reads() -> str:
        return VARIABLE.get()

    assert await reads() == "of nobody"
    token = VARIABLE.set("of the caller")
    later = reads()
    VARIABLE.reset(token)
    assert await later == "of the caller"
    assert await reads() == "of nobody"


@pytest.mark.needs("walltime")
async def test_walltime_of_a_function(flow: WorkflowEngine, backend_under_test: BackendUnderTest) -> None:
    limit = backend_under_test.walltime

    # Not endless, and awake now and then: a thread cannot be stopped.
    @flow.function_task
    async def waits() -> None:
        for _ in range(200):
            time.sleep(limit / 20)

    with pytest.raises(TaskFailedError) as caught:
        await waits(task_description={"walltime": limit})
    assert caught.value.cause is FailureCause.WALLTIME


async def test_large_arguments_and_results(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def echo(data: bytes) -> bytes:
        return data

    data = os.urandom(20_000_000)
    same = await echo(data) == data
    assert same


async def test_many_functions_at_once(flow: WorkflowEngine) -> None:
    @flow.function_task
    def square(x: int) -> int:
        return x * x

    # Where each starts an interpreter, a thousand would take minutes.
    assert await asyncio.gather(*(square(i) for i in range(100))) == [i * i for i in range(100)]
