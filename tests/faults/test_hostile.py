"""Tasks and bodies that do what no task should: each is settled, and no other is hurt."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.events import SessionOpened
from asyncflow_hpc.journal import read_events
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing.contract.crossing import OwnEnd
from tests.conftest import until


@pytest.fixture
async def flow(root: Path) -> AsyncIterator[WorkflowEngine]:
    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=1), work_dir=root) as engine:
        yield engine
        assert engine.backend.slots.granted == 0


def shell(flow: WorkflowEngine) -> Any:
    @flow.executable_task
    async def command(text: str) -> str:
        return text

    return command


def function(flow: WorkflowEngine, func: Any, **options: Any) -> Any:
    return flow.function_task(**options)(func)


class ComesBackAsNothing(Exception):
    def __reduce__(self) -> Any:
        return (dict, ())


class CannotComeBack(Exception):
    def __reduce__(self) -> Any:
        return (_only_in, (os.getpid(),))


def _only_in(pid: int) -> Exception:
    if os.getpid() != pid:
        raise SystemExit("not here")
    return CannotComeBack()


class CannotBeShown(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


async def test_a_child_that_comes_back_answers_nobody(flow: WorkflowEngine) -> None:
    def forks(leaves: bool) -> str:
        if os.fork():
            return "parent"
        if leaves:
            sys.exit(0)
        return "child"

    forking, after = function(flow, forks), function(flow, lambda x: x)
    for leaves in (False, True):
        futures = [forking(leaves), *(after(i) for i in range(5))]
        assert await asyncio.gather(*futures) == ["parent", 0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [ComesBackAsNothing, CannotComeBack, CannotBeShown])
async def test_exceptions_that_do_not_travel(flow: WorkflowEngine, error: type[Exception]) -> None:
    def fails() -> None:
        raise error

    future = function(flow, fails)()
    await asyncio.wait([future])
    raised = future.exception()
    assert isinstance(raised, error) or (isinstance(raised, TaskFailedError) and error.__name__ in str(raised))


class EndsWhoPicklesIt:
    def __reduce__(self) -> Any:
        raise SystemExit(3)


async def test_result_that_does_not_travel(flow: WorkflowEngine) -> None:
    with pytest.raises(TypeError, match="cannot be unpickled"):
        await function(flow, CannotComeBack)()
    with pytest.raises(TypeError, match="cannot be pickled"):
        await function(flow, EndsWhoPicklesIt)()


async def test_argument_that_does_not_travel(flow: WorkflowEngine) -> None:
    other = function(flow, lambda: 1)()
    with pytest.raises(TypeError, match=r"argument 'number 1'.*cannot be pickled"):
        await function(flow, print)(EndsWhoPicklesIt())
    assert await other == 1
    assert await shell(flow)("echo next", task_description={"slurm": {"x": EndsWhoPicklesIt()}}) == "next\n"


@pytest.mark.parametrize("instead", ["mkdir", "mkfifo"])
async def test_output_that_is_no_file_any_more(flow: WorkflowEngine, instead: str) -> None:
    with pytest.raises(TaskFailedError, match=r"no file|directory"):
        await shell(flow)(f"rm $ASYNCFLOW_TASK_UID.out; {instead} $ASYNCFLOW_TASK_UID.out")
    assert await shell(flow)("echo next") == "next\n"


async def test_driver_out_of_descriptors_while_tasks_end(root: Path) -> None:
    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=4), work_dir=root) as flow:
        futures = [shell(flow)("until [ -e ../go ]; do sleep 0.01; done; echo out") for _ in range(4)]
        await until(lambda: all(future.state == "RUNNING" for future in futures))
        held: list[int] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        (flow.session_dir / "go").touch()
        try:
            with pytest.raises(OSError):
                while True:
                    held.append(os.dup(0))
            await asyncio.sleep(0.3)
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await asyncio.gather(*futures) == ["out\n"] * 4


async def test_machine_that_is_full_for_a_moment(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refusals = subprocess.Popen, [1, 1, 1]

    def refuses_at_first(*arguments: Any, **options: Any) -> Any:
        if refusals:
            refusals.pop()
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", refuses_at_first)
    assert await asyncio.gather(*(shell(flow)("echo hi") for _ in range(4))) == ["hi\n"] * 4


async def test_cancel_counts_even_when_the_answer_comes_first(flow: WorkflowEngine) -> None:
    def stubborn() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path("up").touch()
        time.sleep(1)
        return 1

    went_on = []

    async def driver() -> None:
        await first
        went_on.append(True)

    first = function(flow, stubborn)()
    driving = asyncio.ensure_future(driver())
    await until(lambda: first.state == "RUNNING" and Path(first.task["sandbox"], "up").exists())
    driving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driving
    assert not went_on and first.cancelled()


async def test_walltime_counts_even_when_the_answer_comes_first(flow: WorkflowEngine) -> None:
    def stubborn() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1)
        return 1

    with pytest.raises(TaskFailedError) as caught:
        await function(flow, stubborn)(task_description={"walltime": 0.3})
    assert caught.value.cause is FailureCause.WALLTIME


async def test_functions_that_bend_their_process(flow: WorkflowEngine) -> None:
    def closes_output() -> None:
        os.close(1)

    def replaces_output() -> None:
        sys.stdout = io.StringIO()

    def sets_alarm() -> None:
        signal.alarm(1)

    def removes_its_sandbox() -> None:
        print("secret of one")
        shutil.rmtree(os.environ["ASYNCFLOW_SANDBOX"])

    def prints() -> None:
        print("mine")

    after = function(flow, prints, capture_stdio=True)
    for bends in (closes_output, replaces_output, sets_alarm, removes_its_sandbox):
        await asyncio.wait([function(flow, bends)()])
        future = after()
        await future
        assert future.task["stdout"] == "mine\n", bends.__name__


async def test_forked_daemon_ends_with_its_call(root: Path) -> None:
    def forks_a_daemon() -> int:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.closerange(3, 100)
            time.sleep(600)
        return pid

    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=1), work_dir=root) as flow:
        pid = await function(flow, forks_a_daemon)()
        await until(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_one_backend_does_not_end_the_tasks_of_another(root: Path) -> None:
    backends = [LocalExecutionBackend(cores=1, name="one"), LocalExecutionBackend(cores=1, name="two")]
    async with WorkflowEngine.create(backend=backends, work_dir=root) as flow:

        @flow.executable_task(backend="two")
        async def command() -> str:
            return "until [ -e ../go ]; do sleep 0.01; done; echo done"

        await shell(flow)("true")
        future = command()
        await until(lambda: future.state == "RUNNING")
        await backends[0].shutdown()
        (flow.session_dir / "go").touch()
        assert await future == "done\n"


async def test_bodies_that_raise_anything(flow: WorkflowEngine) -> None:
    class Own(BaseException):
        pass

    for error in (GeneratorExit, Own, OwnEnd):

        @flow.block
        async def block(error: Any = error) -> None:
            raise error

        @flow.executable_task
        async def command(error: Any = error) -> str:
            raise error

        for component in (block, command):
            with pytest.raises(TaskFailedError, match=error.__name__):
                await component()

    @flow.block
    def stops() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await stops()


async def test_a_command_line_that_is_no_text(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", 5, Path("x")])
    assert await shell(flow)("echo x") == "x\n"
    opened = next(read_events(flow.session_dir))
    assert isinstance(opened, SessionOpened) and opened.script == ("run.py", "5", "x")


async def test_a_bad_report_hurts_no_other(flow: WorkflowEngine) -> None:
    first, second = shell(flow)("sleep 600"), shell(flow)("sleep 600")
    await until(lambda: first.state == "RUNNING")
    flow.task_callbacks({"no uid": 1}, "RUNNING")
    await asyncio.to_thread(flow.task_callbacks, {"no uid": 1}, "RUNNING")
    flow.task_callbacks({"uid": second.uid, "cause": "WEIRD"}, "FAILED")
    with pytest.raises(TaskFailedError) as caught:
        await second
    assert caught.value.cause is FailureCause.BACKEND
    await flow.backend.cancel_task(second.uid)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    third = shell(flow)("sleep 600")
    await until(lambda: third.state == "RUNNING")
    flow.task_callbacks({"uid": third.uid, "stderr": b"no text"}, "FAILED")
    with pytest.raises(TaskFailedError, match="cannot be used") as caught:
        await third
    assert caught.value.cause is FailureCause.BACKEND
    await flow.backend.cancel_task(third.uid)
    await until(lambda: flow.backend.slots.granted == 0)


async def test_executor_that_is_shut_down_by_others(root: Path) -> None:
    executor = ThreadPoolExecutor(1)
    async with WorkflowEngine.create(backend=LocalExecutionBackend(executor), work_dir=root) as flow:
        futures = [function(flow, time.sleep)(0.2), function(flow, time.sleep)(0.2)]
        await until(lambda: all(future.state == "RUNNING" for future in futures))
        executor.shutdown(wait=False, cancel_futures=True)
        await futures[0]
        with pytest.raises(TaskFailedError, match="shut down"):
            await futures[1]


async def test_a_cancelled_block_starts_nothing_more(flow: WorkflowEngine) -> None:
    made, task = [], shell(flow)

    @flow.block
    async def stubborn() -> None:
        try:
            await task("sleep 600")
        finally:
            made.append(task("true"))

    block = stubborn()
    await until(lambda: flow.running > {block.uid})
    block.cancel()
    with pytest.raises(asyncio.CancelledError):
        await block
    await until(lambda: flow.running == set())
    assert not made


async def test_shutdown_from_within_a_block(root: Path) -> None:
    flow = await WorkflowEngine.create(backend=LocalExecutionBackend(cores=1), work_dir=root)

    @flow.block
    async def closes() -> None:
        try:
            await shell(flow)("sleep 600")
        finally:
            await flow.shutdown()

    block = closes()
    await until(lambda: flow.running > {block.uid})
    await flow.shutdown()
    assert block.cancelled()


async def test_cancel_from_another_thread(flow: WorkflowEngine) -> None:
    future = shell(flow)("sleep 600")
    await until(lambda: future.state == "RUNNING")
    assert await asyncio.to_thread(future.cancel)
    with pytest.raises(asyncio.CancelledError):
        await future


def test_an_engine_of_an_ended_loop_does_not_stand_in_the_way(root: Path) -> None:
    async def forgets() -> WorkflowEngine:
        return await WorkflowEngine.create(backend="local", work_dir=root)

    before = signal.getsignal(signal.SIGTERM)
    old = asyncio.run(forgets())
    assert signal.getsignal(signal.SIGTERM) == before

    async def closes_both() -> None:
        async with WorkflowEngine.create(backend="local", work_dir=root) as flow:
            assert await shell(flow)("echo x") == "x\n"
            await old.shutdown()

    asyncio.run(closes_both())
    assert signal.getsignal(signal.SIGTERM) == before


async def test_room_for_one_descriptor_pair(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    backend = LocalExecutionBackend(cores=4)
    resource.setrlimit(resource.RLIMIT_NOFILE, (67, hard))
    try:
        await backend
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    async with WorkflowEngine.create(backend=backend, work_dir=root) as flow:
        assert await asyncio.gather(*(shell(flow)("echo x") for _ in range(5))) == ["x\n"] * 5
