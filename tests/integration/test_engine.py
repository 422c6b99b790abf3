"""The engine: dependencies, blocks, callbacks, several engines, signals; on the no-op and the local backend."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow_hpc import InputFile, LocalExecutionBackend, NoopExecutionBackend, OutputFile, WorkflowEngine
from asyncflow_hpc.backend import BackendCapabilities, BaseExecutionBackend
from asyncflow_hpc.errors import (
    ArgumentError,
    AsyncFlowError,
    ConfigurationError,
    CycleError,
    DependencyFailureError,
    DescriptionTypeError,
    EngineClosedError,
    SubmitError,
    TaskDescriptionError,
    UnknownBackendError,
)
from tests.conftest import until

SCRIPTS = Path(__file__).with_name("scripts")


class ByHand(BaseExecutionBackend):
    """Keeps tasks until the test says what becomes of them; a real backend in all but running anything."""

    capabilities = BackendCapabilities(services=True, cancel_running=True)

    def __init__(self, name: str = "by-hand") -> None:
        super().__init__(name)
        self.tasks: dict[str, Any] = {}
        self.batches: list[list[str]] = []
        self.refuse: Exception | None = None
        self.closed = 0

    async def submit_tasks(self, tasks: Any) -> None:
        self.batches.append([task["uid"] for task in tasks])
        if self.refuse is not None:
            raise self.refuse
        self.tasks.update({task["uid"]: task for task in tasks})

    async def cancel_task(self, uid: str) -> bool:
        self.task_state_cb(self.tasks.pop(uid), "CANCELED")
        return True

    async def shutdown(self) -> None:
        self.closed += 1
        for uid in list(self.tasks):
            await self.cancel_task(uid)

    def done(self, uid: str, value: Any = None) -> None:
        task = self.tasks.pop(uid)
        task["return_value"] = task["stdout"] = value
        self.task_state_cb(task, "DONE")

    def failed(self, uid: str, error: Any) -> None:
        task = self.tasks.pop(uid)
        task["exception"] = error
        self.task_state_cb(task, "FAILED")


@pytest.fixture
async def by_hand(root: Path) -> AsyncIterator[WorkflowEngine]:
    async with WorkflowEngine.create(backend=ByHand(), work_dir=root) as flow:
        yield flow


@pytest.fixture
async def local(root: Path) -> AsyncIterator[WorkflowEngine]:
    async with WorkflowEngine.create(backend=LocalExecutionBackend(functions="thread", cores=4), work_dir=root) as flow:
        yield flow


def identity(flow: WorkflowEngine, **options: Any) -> Any:
    @flow.function_task(**options)
    async def task(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    return task


@dataclass(frozen=True)
class Held:
    value: Any
    more: list[Any] = field(default_factory=list)


async def test_futures_anywhere_in_the_arguments(local: WorkflowEngine) -> None:
    task = identity(local)

    @local.function_task
    def one() -> int:
        return 1

    kept = [one(), {"k": (one(), {one()})}]
    args, kwargs = await task(kept, Held(one(), [one()]), key={"deep": [one()]})
    assert args == ([1, {"k": (1, {1})}], Held(1, [1])) and kwargs == {"key": {"deep": [1]}}
    assert isinstance(kept[0], asyncio.Future)


async def test_completion_makes_dependents_ready_at_once(by_hand: WorkflowEngine) -> None:
    task, backend = identity(by_hand), by_hand.backend
    first = task()
    second, third = task(first), task(first, first)
    await until(lambda: backend.batches == [[first.task["uid"]]])
    backend.done(first.task["uid"])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert backend.batches[1:] == [[second.task["uid"], third.task["uid"]]]
    assert by_hand.dependencies[second.uid] == [{"uid": first.uid, "name": "task"}]


async def test_failed_dependency(by_hand: WorkflowEngine) -> None:
    task, backend = identity(by_hand), by_hand.backend
    first = task()
    middle, other = task(first), task()
    last = task([middle], x=other)
    await until(lambda: len(backend.tasks) == 2)
    cause = ValueError("a", "b")
    backend.failed(first.uid, cause)
    for future, names in ((middle, ["task"]), (last, ["task"])):
        with pytest.raises(DependencyFailureError, match="Cannot execute 'task' due to dependency failure") as caught:
            await future
        assert caught.value.root_cause is cause and caught.value.__cause__ is cause
        assert caught.value.failed_dependencies == names
    assert not other.done()
    with pytest.raises(DependencyFailureError) as caught:
        await task(middle)
    assert caught.value.root_cause is cause


async def test_long_chain_of_failures(by_hand: WorkflowEngine) -> None:
    task, backend = identity(by_hand), by_hand.backend
    first = last = task()
    for _ in range(20_000):
        last = task(last)
    await until(lambda: backend.tasks)
    backend.failed(first.uid, "some text")
    with pytest.raises(DependencyFailureError) as caught:
        await last
    assert "some text" in str(caught.value.root_cause)
    assert len(by_hand.components) == 1000


async def test_cancelled_dependency(by_hand: WorkflowEngine) -> None:
    task = identity(by_hand)
    first = task()
    last = task(task(first))
    first.cancel()
    for future in (first, last, task(first)):
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.state == "CANCELLED"


async def test_unread_errors_complain_once(by_hand: WorkflowEngine) -> None:
    complaints: list[str] = []
    by_hand.loop.set_exception_handler(lambda _, context: complaints.append(str(context["future"])))
    task, backend = identity(by_hand), by_hand.backend

    async def fail(awaited: bool) -> None:
        first = task()
        last = task(task(first))
        await until(lambda: backend.tasks)
        waiter = asyncio.ensure_future(asyncio.wait([last])) if awaited else None
        await asyncio.sleep(0)
        backend.failed(first.uid, ValueError())
        if waiter is not None:
            await waiter

    await fail(awaited=True)
    gc.collect()
    assert complaints == []
    await fail(awaited=False)
    gc.collect()
    assert len(complaints) == 1 and "FAILED" in complaints[0]


async def test_submit_that_fails_takes_its_own_tasks_only(by_hand: WorkflowEngine) -> None:
    task, backend = identity(by_hand), by_hand.backend
    before = task()
    await until(lambda: backend.tasks)
    backend.refuse = OSError("no queue")
    refused = [task(), task()]
    for future in refused:
        with pytest.raises(SubmitError, match="no queue") as caught:
            await future
        assert isinstance(caught.value.__cause__, OSError)
    backend.refuse = None
    after = task()
    await until(lambda: len(backend.tasks) == 2)
    backend.done(before.uid, 1)
    backend.done(after.uid, 2)
    assert (await before, await after) == (1, 2)


async def test_callbacks_from_any_thread_in_order(by_hand: WorkflowEngine) -> None:
    task, backend = identity(by_hand), by_hand.backend
    futures = [task() for _ in range(200)]
    await until(lambda: len(backend.tasks) == 200)

    def report(part: list[Any]) -> None:
        for future in part:
            backend.task_state_cb(future.task, "RUNNING")
            backend.done(future.uid, future.uid)

    threads = [threading.Thread(target=report, args=(futures[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    assert await asyncio.gather(*futures) == [future.uid for future in futures]
    for thread in threads:
        thread.join()


async def test_callback_with_an_object(by_hand: WorkflowEngine) -> None:
    class Native:
        def as_dict(self) -> dict[str, Any]:
            return {"uid": future.uid, "return_value": 5, "exit_code": 0, "args": "not ours"}

    future = identity(by_hand)()
    await until(lambda: by_hand.backend.tasks)
    by_hand.task_callbacks(Native(), "RUNNING")
    assert future.state == "RUNNING"
    by_hand.task_callbacks(Native(), "SOMETHING ELSE")
    by_hand.task_callbacks(Native(), "DONE")
    assert await future == 5
    assert future.task["exit_code"] == 0 and future.task["args"] == ()
    by_hand.task_callbacks({"uid": "task.999999"}, "DONE")


async def test_service_callback(by_hand: WorkflowEngine) -> None:
    service = identity(by_hand, service=True)()
    dependent = identity(by_hand)(service)
    backend = by_hand.backend
    await until(lambda: backend.tasks)

    def ready(future: Any, task: Any, state: str) -> None:
        threading.Thread(target=future.set_result, args=(f"{task['uid']} {state}",), daemon=True).start()

    by_hand.task_callbacks(service.task, "RUNNING", ready)
    assert await service == f"{service.uid} RUNNING"
    await until(lambda: dependent.uid in backend.tasks)
    assert service.state == "RUNNING" and service.uid in by_hand.components
    backend.done(service.uid)
    assert service.state == "DONE"


async def test_handlers_are_public(by_hand: WorkflowEngine) -> None:
    task = identity(by_hand)
    done, failed, cancelled = task(), task(), task()
    by_hand.handle_task_success({"uid": done.uid, "return_value": 3}, done)
    by_hand.handle_task_failure(failed.task, failed, "words")
    by_hand.handle_task_cancellation(cancelled.task, cancelled)
    assert await done == 3
    with pytest.raises(RuntimeError, match="words"):
        await failed
    assert cancelled.cancelled()


async def test_block_and_nested_blocks(local: WorkflowEngine) -> None:
    @local.function_task
    def add(a: int, b: int) -> int:
        return a + b

    @local.block
    async def inner(start: int) -> int:
        return int(await add(await add(start, 1), 1))

    @local.block()
    async def outer(start: int) -> list[int]:
        return list(await asyncio.gather(inner(start), inner(add(start, 10))))

    @local.block
    def in_a_thread(values: list[int]) -> tuple[int, bool]:
        return sum(values), threading.current_thread() is not threading.main_thread()

    future = in_a_thread(outer(add(0, 0)))
    assert await future == (14, True)
    assert future.block["name"] == "in_a_thread" and future.block["uid"].startswith("block.")
    assert not hasattr(future, "task")


async def test_failing_block(local: WorkflowEngine) -> None:
    @local.block
    async def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await fails()
    with pytest.raises(DependencyFailureError):
        await identity(local)(fails())


async def test_bodies_that_raise_what_no_future_should_carry(local: WorkflowEngine) -> None:
    @local.executable_task
    async def cancels() -> str:
        raise asyncio.CancelledError

    @local.executable_task
    def leaves() -> str:
        sys.exit(3)

    @local.block
    async def leaves_too() -> None:
        sys.exit(4)

    with pytest.raises(asyncio.CancelledError):
        await identity(local)(cancels())
    for component in (leaves, leaves_too):
        with pytest.raises(RuntimeError, match="SystemExit"):
            await component()


async def test_long_chain_in_a_block_that_others_wait_for(root: Path) -> None:
    async with WorkflowEngine.create(backend="noop", work_dir=root) as flow:
        task = identity(flow)

        @flow.block
        async def block() -> str:
            last = task()
            for _ in range(10_000):
                last = task(last)
            return str(await last)

        assert await task(block()) == "Dummy Output"


async def test_cancelled_block_cancels_its_members(by_hand: WorkflowEngine) -> None:
    task, members = identity(by_hand), []

    @by_hand.block
    async def inner() -> None:
        members.append(task())
        await members[-1]

    @by_hand.block
    async def outer() -> None:
        members.extend([task(), inner()])
        await asyncio.gather(*members)

    outside = task()
    block = outer()
    await until(lambda: len(by_hand.backend.tasks) == 3)
    block.cancel()
    with pytest.raises(asyncio.CancelledError):
        await block
    await until(lambda: all(member.cancelled() for member in members))
    assert len(members) == 3 and not outside.done()


async def test_cancelled_member_cancels_a_block_that_awaits_it(by_hand: WorkflowEngine) -> None:
    task, members = identity(by_hand), []

    @by_hand.block
    async def block() -> None:
        members.append(task())
        await members[0]

    future = block()
    await until(lambda: by_hand.backend.tasks)
    members[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert future.state == "CANCELLED"


async def test_execute_block_and_submit(local: WorkflowEngine) -> None:
    @local.block
    async def waits_for(dependency: Any) -> None: ...

    @local.function_task
    def slow() -> None: ...

    async def body(x: int) -> int:
        return x + 1

    dependency = slow()
    future = waits_for(dependency)
    await local.execute_block(future, body, 4)
    assert await future == 5
    await local.submit([])
    # It is gone already when what it waited for ends.
    dependency.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dependency


async def test_cycles_are_refused(local: WorkflowEngine) -> None:
    task = identity(local)
    own: list[Any] = []

    @local.block
    async def awaits_itself() -> None:
        await asyncio.sleep(0)
        await own[0]

    @local.block
    async def depends_on_itself(how: Any) -> None:
        await asyncio.sleep(0)
        await how()

    own.append(awaits_itself())
    with pytest.raises(CycleError, match="waits for itself"):
        await own[0]
    for how in (lambda: task(own[0]), lambda: task([own[1]])):
        own[:] = [depends_on_itself(how)]
        own.append(task(own[0]))
        with pytest.raises(CycleError, match="ends only after that block"):
            await own[0]
    endless: list[Any] = []
    endless.append(endless)
    assert (await task(endless))[0][0] is endless


async def test_context_of_the_caller(local: WorkflowEngine) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody")

    @local.executable_task
    async def command() -> str:
        return f"echo {variable.get()}"

    @local.block
    async def block() -> str:
        return variable.get()

    @local.block
    def sync_block() -> str:
        return variable.get()

    variable.set("caller")
    futures = [command(), block(), sync_block()]
    variable.set("later")
    assert await asyncio.gather(*futures) == ["caller\n", "caller", "caller"]


async def test_task_description_is_merged_and_not_changed(by_hand: WorkflowEngine) -> None:
    defaults = {"ranks": 1, "environment": {"A": "1"}}

    @by_hand.function_task
    async def task(x: int = 0, task_description: Any = defaults) -> None: ...

    @by_hand.function_task(task_description={"qos": "low", "walltime": 5})
    def decorated(task_description: Any = {"walltime": 7}) -> None: ...  # noqa: B006

    assert decorated().task["task_backend_specific_kwargs"] == {"qos": "low", "walltime": 7}
    given = {"cores_per_rank": 2, "walltime": "00:01:00"}
    first, second = task(1, task_description=given), task(2)
    assert first.task["task_backend_specific_kwargs"] == {**defaults, **given}
    assert first.task["description"].walltime == 60 and first.task["description"].cores_per_rank == 2
    assert second.task["task_backend_specific_kwargs"] == defaults
    first.task["task_backend_specific_kwargs"]["leak"] = 1
    assert task().task["task_backend_specific_kwargs"] == defaults == {"ranks": 1, "environment": {"A": "1"}}
    assert given == {"cores_per_rank": 2, "walltime": "00:01:00"} and first.task["kwargs"] == {}


async def test_task_dict(by_hand: WorkflowEngine, root: Path) -> None:
    (root / "here.dat").touch()

    @by_hand.executable_task(capture_stdio=True)
    async def task(*_: Any) -> str:
        return "/bin/cat 'a b'"

    async with by_hand.workflow_scope("wf-1"):
        future = task(InputFile(root / "here.dat"), [InputFile("there.dat")], OutputFile("out.dat"))
    await until(lambda: by_hand.backend.tasks)
    known = future.task
    assert (known["executable"], known["arguments"]) == ("/bin/cat", ["a b"])
    assert known["metadata"]["input_files"] == [str(root / "here.dat"), "there.dat"]
    assert known["metadata"]["output_files"] == ["out.dat"]
    assert known["workflow_id"] == "wf-1" and known["capture_stdio"] and known["function"] is None
    assert task(workflow_id=5).task["workflow_id"] == "5"
    with pytest.raises(ArgumentError, match="workflow_id must be text"):
        task(workflow_id=["wf"])
    assert (future.id, known["uid"], task(workflow_id="other").task["workflow_id"]) == (
        "000001",
        "task.000001",
        "other",
    )


async def test_bad_input(by_hand: WorkflowEngine) -> None:
    task = identity(by_hand)
    with pytest.raises(TaskDescriptionError, match=r"unknown key 'rank'.*'ranks'"):
        task(task_description={"rank": 2})
    for wrong in ([1], "ranks=2", 0):
        with pytest.raises(DescriptionTypeError):
            task(task_description=wrong)
    with pytest.raises(TypeError, match="must be a dict"):
        by_hand.function_task(lambda task_description=5: None)
    with pytest.raises(TypeError, match="service"):
        by_hand.function_task(service="yes")(lambda: None)
    with pytest.raises(TypeError, match="made from a function"):
        by_hand.block(5)
    with pytest.raises(KeyError, match="nowhere"):
        by_hand.function_task(backend="nowhere")(lambda: None)
    assert not by_hand.backend.batches


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"backend": "lokal"}, UnknownBackendError, "did you mean 'local'"),
        ({"backend": []}, ConfigurationError, "empty"),
        ({"backend": object()}, ConfigurationError, "no backend"),
        ({"backend": ["noop", "noop"]}, ConfigurationError, "different names"),
        ({"dry_run": 1}, ArgumentError, "dry_run"),
        ({"uid": 7}, ArgumentError, "uid"),
        ({"uid": "../x"}, ConfigurationError, "uid"),
    ],
)
async def test_bad_engine(arguments: dict[str, Any], error: type[AsyncFlowError], words: str) -> None:
    with pytest.raises(error, match=words):
        await WorkflowEngine.create(**{"backend": "noop", **arguments})


async def test_default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCFLOW_BACKEND", raising=False)
    for given, named, expected in (({}, None, "local"), ({"dry_run": True}, None, "noop"), ({}, "noop", "noop")):
        if named is not None:
            monkeypatch.setenv("ASYNCFLOW_BACKEND", named)
        async with WorkflowEngine.create(**given) as flow:
            assert flow.backend.name == expected


async def test_dry_run() -> None:
    async with WorkflowEngine.create(dry_run=True) as flow:

        @flow.executable_task
        async def command() -> str:
            return "rm -rf /"

        @flow.prompt_task
        async def prompt() -> str:
            return "words"

        assert await identity(flow)(command()) == "Dummy Output"
        assert await prompt() == "Dummy Prompt Output"


async def test_prompts_need_a_backend_that_answers(local: WorkflowEngine) -> None:
    @local.prompt_task
    async def prompt(text: Any) -> Any:
        return text

    with pytest.raises(NotImplementedError, match="prompt"):
        await prompt("words")
    for nothing in ("", None):
        with pytest.raises(ValueError, match="non-empty string prompt"):
            await prompt(nothing)


async def test_several_engines_in_one_process(root: Path) -> None:
    async with (
        WorkflowEngine.create(backend=LocalExecutionBackend(functions="thread"), work_dir=root) as one,
        WorkflowEngine.create(backend=LocalExecutionBackend(functions="thread"), work_dir=root) as two,
    ):
        tell_one, tell_two = identity(one), identity(two)
        first, second = tell_one(1), tell_two(2)
        assert first.uid == second.uid
        assert (await first, await second) == (((1,), {}), ((2,), {}))
        assert await tell_two(tell_one(3)) == ((((3,), {}),), {})
        slow = tell_one(3)
        cancelled = tell_two(slow)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled


async def test_backend_serves_one_engine() -> None:
    backend = NoopExecutionBackend()
    async with WorkflowEngine.create(backend=backend):
        with pytest.raises(ConfigurationError, match="already serves"):
            await WorkflowEngine.create(backend=backend)
    async with WorkflowEngine.create(backend=backend) as flow:
        assert backend.attached_to[-1] == flow.uid


async def test_calls_from_threads(local: WorkflowEngine) -> None:
    task, made = identity(local), []

    @local.block
    def calls() -> None:
        made.append(task(1))

    await calls()
    assert await made[0] == ((1,), {})


async def test_a_closed_engine_says_so(root: Path) -> None:
    flow = await WorkflowEngine.create(backend=ByHand(), work_dir=root)
    task = identity(flow)
    pending = [task(), task()]
    await until(lambda: flow.backend.tasks)
    await asyncio.gather(flow.shutdown(), flow.shutdown())
    await flow.shutdown()
    assert flow.backend.closed == 1 and all(future.cancelled() for future in pending)
    with pytest.raises(EngineClosedError, match="'task'"):
        task()


async def test_a_submission_that_a_shutdown_breaks_off(root: Path) -> None:
    begun, closing, broken_off = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Starting(ByHand):
        """Takes a while to start, with the first task."""

        async def submit_tasks(self, tasks: Any) -> None:
            begun.set()
            await closing.wait()
            broken_off.set()
            raise ConfigurationError("it was shut down")

        async def shutdown(self) -> None:
            closing.set()
            await broken_off.wait()

    flow = await WorkflowEngine.create(backend=Starting(), work_dir=root)
    task = identity(flow)(1)
    await begun.wait()
    await flow.shutdown()
    assert task.cancelled()


async def test_finished_tasks_are_forgotten(by_hand: WorkflowEngine) -> None:
    class Big:
        pass

    task, backend = identity(by_hand), by_hand.backend
    argument, result = Big(), Big()
    refs = [weakref.ref(argument), weakref.ref(result)]
    future = task(argument)
    await until(lambda: backend.tasks)
    backend.done(future.uid, result)
    await future
    uid = future.uid
    refs.append(weakref.ref(future))
    del argument, result, future
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3
    known = by_hand.components[uid]
    assert (known["type"], known["future"], known["description"]["state"]) == ("task", None, "DONE")
    assert uid in by_hand.resolved and uid in list(by_hand.components)


def run_script(name: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_everything(root: Path, number: signal.Signals) -> None:
    # Under nohup a signal is ignored, and an engine leaves it so.
    process = run_script("interrupted.py", str(root), preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == -number, err
    assert number.name in err and "never retrieved" not in err


def test_an_ignored_signal_stays_ignored(root: Path) -> None:
    process = run_script("interrupted.py", str(root), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGTERM and "SIGHUP" not in err


def test_second_signal_ends_at_once(root: Path) -> None:
    process = run_script("interrupted.py", str(root), "stuck")
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


def test_old_handlers_come_back(root: Path) -> None:
    process = run_script("handlers.py", str(root))
    out, err = process.communicate()
    assert (process.returncode, out) == (0, "own handler\n"), err


async def test_loop_that_ends_without_shutdown_leaves_nothing(root: Path) -> None:
    process = run_script("forgetful.py", str(root))
    _, err = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0 and "before engine" in err, err
    await until(lambda: not [p for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(root))])


def test_radical_asyncflow_scripts(root: Path) -> None:
    """Scripts in the styles that radical.asyncflow documents, with the import changed."""
    for script in [*sorted(SCRIPTS.glob("compat_*.py")), SCRIPTS / "with_radical_asyncflow.py"]:
        process = run_script(script.name, cwd=root, env={**os.environ, "PYTHONWARNINGS": "error"})
        out, err = process.communicate()
        assert process.returncode == 0 and out.endswith("ok\n"), (script.name, err)


def test_a_session_whose_loop_ended_without_a_shutdown_can_be_resumed(tmp_path: Path) -> None:
    async def forgotten() -> Any:
        flow = await WorkflowEngine.create(backend="local", work_dir=tmp_path, uid="session")
        return await identity(flow)(1)

    async def resumed() -> Any:
        async with WorkflowEngine.create(backend="local", resume=tmp_path / "session") as flow:
            future = identity(flow)(1)
            return await future, future.uid

    result = asyncio.run(forgotten())
    assert asyncio.run(resumed()) == (result, "task.000001")
