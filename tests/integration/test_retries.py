"""Tasks that are tried again, and the failure budget: on a backend that fails on request, and on the local one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import LocalExecutionBackend, RetryPolicy, WorkflowEngine
from asyncflow_hpc.backend import BackendCapabilities, BaseExecutionBackend
from asyncflow_hpc.errors import (
    ArgumentError,
    ConfigurationError,
    DependencyFailureError,
    FailureBudgetError,
    SerializationError,
    SubmitError,
    TaskFailedError,
    UnsupportedTaskError,
)
from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import TaskDescription

LARGEST = 8 << 30

NOW = RetryPolicy(3, delay=0)
LATER = RetryPolicy(3, delay=3000)


class Fails(BaseExecutionBackend):
    """Ends each attempt as the test has laid down: with a cause, an exception, or well; a real backend otherwise.

    Attributes:
        ends: name of a task -> what becomes of its attempts, one after the other, the last for all that follow.
        seen: what was submitted: name, attempt, what the dict said of memory, walltime and queue.
    """

    capabilities = BackendCapabilities(services=True, cancel_running=True)

    def __init__(self, name: str = "fails") -> None:
        super().__init__(name)
        self.ends: dict[str, list[Any]] = {}
        self.seen: list[tuple[str, int]] = []
        self.descriptions: list[TaskDescription] = []
        self.tasks: dict[str, Any] = {}
        self.submitted = asyncio.Event()
        self.cancelled: list[str] = []

    def check_description(self, description: TaskDescription) -> None:
        if (description.mem_per_rank or 0) > LARGEST:
            raise UnsupportedTaskError(f"no node has {description.mem_per_rank} bytes")

    async def submit_tasks(self, tasks: Any) -> None:
        for task in tasks:
            ends = self.ends.get(task["name"], [True])
            end = ends[min(task["attempt"], len(ends) - 1)]
            self.seen.append((task["name"], task["attempt"]))
            self.descriptions.append(task["description"])
            assert not {"exception", "cause", "exit_code", "sandbox", "native_id"} & set(task), "of the attempt before"
            if end == "refuse":
                raise SubmitError("try later", transient=True)
            if end == "break":
                raise OSError("the backend broke")
            self.tasks[task["uid"]] = task
            task["sandbox"] = f"/s/{task['uid']}.{task['attempt']}"
            if end == "queue":
                continue
            task["native_id"] = str(len(self.seen))
            self.task_state_cb(task, TaskState.RUNNING)
            if end != "run":
                self.end(task["uid"], end)
        self.submitted.set()

    def end(self, uid: str, end: Any) -> None:
        task = self.tasks.pop(uid)
        if end is True:
            task["return_value"] = task["stdout"] = f"attempt {task['attempt']}"
            self.task_state_cb(task, TaskState.DONE)
            return
        if isinstance(end, Exception):
            task["exception"] = end
        else:
            task["cause"] = end
        self.task_state_cb(task, TaskState.FAILED)

    async def cancel_task(self, uid: str) -> bool:
        self.cancelled.append(uid)
        self.task_state_cb(self.tasks.pop(uid), TaskState.CANCELED)
        return True

    async def shutdown(self) -> None:
        for uid in list(self.tasks):
            await self.cancel_task(uid)


@pytest.fixture
async def fails() -> Fails:
    return Fails()


@pytest.fixture
async def flow(fails: Fails, root: Path) -> AsyncIterator[WorkflowEngine]:
    async with WorkflowEngine.create(fails, work_dir=root) as engine:
        yield engine


def task_of(flow: WorkflowEngine, name: str = "task", **options: Any) -> Any:
    async def call(*_: Any, **__: Any) -> None: ...

    call.__name__ = name
    return flow.function_task(call, **options)


async def run(backend: Fails, root: Path, ends: dict[str, list[Any]], **options: Any) -> Any:
    """What becomes of a task called "task", in an engine of its own."""
    backend.ends = ends
    async with WorkflowEngine.create(backend, work_dir=root, **options) as flow:
        future = task_of(flow)()
        await asyncio.wait([future])
    return future


async def test_the_second_attempt_counts(flow: WorkflowEngine, fails: Fails, caplog: pytest.LogCaptureFixture) -> None:
    fails.ends["task"] = ["LOST", True]
    future = task_of(flow, task_description={"retries": NOW})()
    after = task_of(flow, "after")(future)
    assert await future == "attempt 1" and await after == "attempt 0"
    assert fails.seen == [("task", 0), ("task", 1), ("after", 0)]
    (failed,) = future.task["attempts"]
    assert (failed.number, failed.cause, failed.sandbox, failed.native_id) == (0, "LOST", "/s/task.000001.0", "1")
    assert future.task["sandbox"] == "/s/task.000001.1" and future.task["attempt"] == 1
    assert "task.000001 'task' is tried again in 0.0 s: attempt 0: LOST" in caplog.text


@pytest.mark.parametrize("cause", sorted(FailureCause))
async def test_nothing_asked(flow: WorkflowEngine, fails: Fails, cause: FailureCause) -> None:
    fails.ends["task"] = [cause]
    future = task_of(flow)()
    if cause in ("LOST", "NODE_FAILURE", "PREEMPTED"):
        await fails.submitted.wait()
        assert not future.done() and (future.state, future.task["state"], future.task["attempt"]) == (
            "PENDING",
            "PENDING",
            1,
        )
        assert future.cancel() and future.cancelled(), "what waits is cancelled at once"
    else:
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert [attempt.cause for attempt in caught.value.attempts] == [cause]
    assert fails.seen == [("task", 0)]


@pytest.mark.parametrize("retries", [2, NOW])
async def test_the_last_error_lists_all(fails: Fails, root: Path, retries: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("asyncflow_hpc.retries.RetryPolicy.delay_after", lambda *_: 0)
    future = await run(fails, root, {"task": ["LOST", "EXIT_CODE", "MEMORY"]}, retries=retries)
    error = future.exception()
    assert isinstance(error, TaskFailedError) and error.cause is FailureCause.MEMORY
    assert [attempt.cause for attempt in error.attempts] == ["LOST", "EXIT_CODE", "MEMORY"]
    assert [attempt.sandbox for attempt in error.attempts] == [f"/s/task.000001.{number}" for number in range(3)]
    assert str(error).splitlines()[-3:] == [str(attempt) for attempt in error.attempts]
    assert future.task["attempts"] == error.attempts


async def test_an_error_of_the_function_itself(fails: Fails, root: Path) -> None:
    own = ValueError("mine")
    future = await run(fails, root, {"task": ["LOST", own]}, retries=RetryPolicy(2, delay=0))
    assert future.exception() is own
    assert [attempt.cause for attempt in future.task["attempts"]] == ["LOST", "EXIT_CODE"]
    origin, *others = own.__notes__  # type: ignore[attr-defined]
    assert origin == "raised by task.000001: task(), in /s/task.000001.1"
    assert others == [str(attempt) for attempt in future.task["attempts"]]


async def test_exceptions_of_odd_classes(fails: Fails, root: Path) -> None:
    """Whatever a user's class does, the future is settled."""

    @dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    for own in (FrozenError(3), MuteError()):
        future = await run(Fails(), root, {"task": [own]}, retries=RetryPolicy(2, delay=0))
        assert future.exception() is own and len(future.task["attempts"]) == 2
        assert type(own).__name__ in future.task["attempts"][0].text


async def test_the_task_before_the_engine(fails: Fails, root: Path) -> None:
    fails.ends = {"never": ["LOST"], "more": ["LOST"], "task": ["EXIT_CODE"]}
    async with WorkflowEngine.create(fails, work_dir=root, retries=NOW) as flow:
        never = task_of(flow, "never", task_description={"retries": 0})
        more = task_of(flow, "more", task_description={"retries": 0})
        futures = [never(), more(task_description={"retries": RetryPolicy(5, delay=0)}), task_of(flow)()]
        await asyncio.wait(futures)
    assert sorted(fails.seen) == [*[("more", n) for n in range(5)], ("never", 0), *[("task", n) for n in range(3)]]


async def test_attempts_are_counted_from_the_first_of_this_engine(flow: WorkflowEngine, fails: Fails) -> None:
    fails.ends["task"] = ["LOST"]
    future = task_of(flow, task_description={"retries": NOW})()
    # As after a resume, where the sandboxes of earlier attempts are there.
    future.task["attempt"] = 7
    await asyncio.wait([future])
    assert fails.seen == [("task", 7), ("task", 8), ("task", 9)]
    assert [attempt.number for attempt in future.task["attempts"]] == [7, 8, 9]


async def test_submissions_that_fail(fails: Fails, root: Path) -> None:
    future = await run(fails, root, {"task": ["refuse", "refuse", True]}, retries=NOW)
    assert future.result() == "attempt 2"
    assert [attempt.cause for attempt in future.task["attempts"]] == ["SUBMIT", "SUBMIT"]
    future = await run(Fails(), root, {"task": ["break", True]}, retries=NOW)
    assert future.result() == "attempt 1" and future.task["attempts"][0].cause is FailureCause.BACKEND
    broken = Fails()
    future = await run(broken, root, {"task": ["break"]})
    assert isinstance(future.exception(), SubmitError) and broken.seen == [("task", 0)], "not unless asked"


async def test_what_is_wrong_with_the_task_itself(fails: Fails, root: Path) -> None:
    future = await run(fails, root, {"task": [SerializationError("its result")]}, retries=5)
    assert isinstance(future.exception(), SerializationError) and fails.seen == [("task", 0)]


async def test_cancelled_is_never_tried_again(flow: WorkflowEngine, fails: Fails) -> None:
    fails.ends["task"] = ["run"]
    future = task_of(flow, task_description={"retries": 5})()
    await fails.submitted.wait()
    future.cancel()
    await asyncio.wait([future])
    assert future.cancelled() and fails.seen == [("task", 0)]


async def test_shutdown_while_one_waits(fails: Fails, root: Path) -> None:
    fails.ends["task"] = ["LOST"]
    async with WorkflowEngine.create(fails, work_dir=root, retries=LATER) as flow:
        future = task_of(flow)()
        dependent = task_of(flow)(future)
        await fails.submitted.wait()
        assert future.state == "PENDING"
    assert future.cancelled() and dependent.cancelled() and fails.seen == [("task", 0)]


async def test_a_failure_at_shutdown_is_the_last(fails: Fails, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails.ends["task"] = ["run"]
    async with WorkflowEngine.create(fails, work_dir=root, retries=NOW) as flow:
        future = task_of(flow)()
        await fails.submitted.wait()

        async def lose() -> None:
            fails.end(future.uid, "LOST")

        monkeypatch.setattr(fails, "shutdown", lose)
    assert fails.seen == [("task", 0)]
    with pytest.raises(TaskFailedError):
        future.result()


async def test_services_are_tried_again_until_they_were_ready(flow: WorkflowEngine, fails: Fails) -> None:
    fails.ends["service"] = ["LOST", "run"]
    future = task_of(flow, "service", service=True, task_description={"retries": NOW})()
    while fails.seen != [("service", 0), ("service", 1)]:
        fails.submitted.clear()
        await fails.submitted.wait()
    future.set_result("ready")
    fails.end(future.uid, "LOST")
    assert await future == "ready" and future.state == "FAILED"
    assert len(fails.seen) == 2 and future.uid not in flow.running


async def test_each_attempt_gets_more(flow: WorkflowEngine, fails: Fails, caplog: pytest.LogCaptureFixture) -> None:
    fails.ends["task"] = ["MEMORY", "WALLTIME", True]
    policy = RetryPolicy(3, delay=0, escalate={"memory": 2.0, "walltime": 1.5, "queue": ["long"]})
    wanted = {"mem_per_rank": "1GB", "walltime": 100, "queue": "short", "retries": policy}
    future = task_of(flow, task_description=wanted)()
    assert await future == "attempt 2"
    assert [(d.mem_per_rank, d.walltime, d.queue) for d in fails.descriptions] == [
        (1 << 30, 100.0, "short"),
        (2 << 30, 150.0, "long"),
        (4 << 30, 225.0, "long"),
    ]
    assert wanted["mem_per_rank"] == "1GB" and wanted["queue"] == "short"
    assert "with mem_per_rank=2147483648, walltime=150.0, queue='long'" in caplog.text
    assert await task_of(flow, "other", task_description=wanted)() and fails.descriptions[-1].queue == "short"


async def test_more_than_there_is(flow: WorkflowEngine, fails: Fails) -> None:
    fails.ends["task"] = ["MEMORY"]
    policy = RetryPolicy(9, delay=0, escalate={"memory": 3.0})
    future = task_of(flow, task_description={"mem_per_rank": LARGEST // 4, "retries": policy})()
    with pytest.raises(TaskFailedError, match=rf"not tried again: with mem_per_rank={LARGEST // 4 * 9}: no node has"):
        await future
    assert fails.seen == [("task", 0), ("task", 1)] and future.task["attempts"][1].remark


async def test_a_backend_whose_check_breaks(fails: Fails, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(description: TaskDescription) -> None:
        if description.queue == "long":
            raise RuntimeError("broken")

    monkeypatch.setattr(fails, "check_description", check)
    future = await run(fails, root, {"task": ["LOST"]}, retries=RetryPolicy(2, escalate={"queue": "long"}))
    assert "not tried again: with queue='long': broken" in str(future.exception())
    assert future.task["description"].queue is None


async def test_one_report_too_many(flow: WorkflowEngine, fails: Fails) -> None:
    fails.ends["task"] = ["run", True]
    future = task_of(flow, task_description={"retries": NOW})()
    await fails.submitted.wait()
    task = future.task
    fails.end(future.uid, "LOST")
    fails.task_state_cb(task, TaskState.FAILED)
    assert await future == "attempt 1" and len(future.task["attempts"]) == 1


async def test_blocks_are_not_tried_again(flow: WorkflowEngine) -> None:
    calls = []

    @flow.block
    async def block() -> None:
        calls.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await block()
    assert calls == [1]
    with pytest.raises(UnsupportedTaskError, match="only tasks are tried again"):
        flow.block(block, task_description={"retries": 1})


async def test_bad_values(root: Path) -> None:
    wrong = [
        ({"retries": "2"}, ArgumentError),
        ({"retries": True}, ArgumentError),
        ({"retries": -1}, ConfigurationError),
        ({"max_failures": "2"}, ArgumentError),
        ({"max_failures": True}, ArgumentError),
        ({"max_failures": 0}, ConfigurationError),
    ]
    for values, kind in wrong:
        with pytest.raises(kind, match=next(iter(values))):
            await WorkflowEngine.create(Fails(), work_dir=root, **values)


async def test_budget(fails: Fails, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Everything that is not submitted fails, what runs goes on, and what is queued is taken back."""
    fails.ends = {"bad": ["EXIT_CODE"], "queued": ["queue"], "running": ["run"]}
    caplog.set_level(logging.ERROR)
    async with WorkflowEngine.create(fails, work_dir=root, max_failures=3, retries=LATER) as flow:
        bad = task_of(flow, "bad", task_description={"retries": 0})
        running, queued, waiting = task_of(flow, "running")(), task_of(flow, "queued")(), task_of(flow, "bad")()
        dependents = [task_of(flow)(running)]
        dependents.append(task_of(flow)(dependents[0]))

        @flow.block
        async def block(_: Any) -> None: ...

        dependents.append(block(running))
        started, stopped = asyncio.Event(), asyncio.Event()

        @flow.executable_task
        async def slow() -> str:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
            return "true"

        body = slow()
        await started.wait()
        await asyncio.wait([bad()])
        assert not any(future.done() for future in (running, queued, waiting, body, *dependents))
        last = bad()
        await asyncio.wait([last, queued])
        assert type(last.exception()) is TaskFailedError
        for future in (queued, waiting, body, *dependents):
            error = future.exception()
            assert type(error) is FailureBudgetError and future.uid in str(error) and "'bad'" in str(error), future
        assert fails.cancelled == [queued.uid] and not running.done() and flow.running == {running.uid}
        with pytest.raises(FailureBudgetError):
            await task_of(flow)()
        await asyncio.wait_for(stopped.wait(), 30)
        fails.end(running.uid, True)
        assert await running == "attempt 0"
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["max_failures=3 attempts have failed"]


async def test_no_retry_after_the_budget(fails: Fails, root: Path) -> None:
    future = await run(fails, root, {"task": ["LOST"]}, retries=RetryPolicy(9, delay=0), max_failures=2)
    with pytest.raises(TaskFailedError, match="not tried again: max_failures=2 attempts have failed"):
        future.result()
    assert fails.seen == [("task", 0), ("task", 1)]


async def test_others_may_fail_of_the_budget(fails: Fails, root: Path) -> None:
    """A block that awaits one of its tasks fails of that, and what depends on the block of the block."""
    fails.ends["bad"] = ["EXIT_CODE"]
    async with WorkflowEngine.create(fails, work_dir=root, max_failures=1) as flow:
        good, bad = task_of(flow), task_of(flow, "bad")

        @flow.block
        async def block() -> None:
            await asyncio.wait([bad()])
            await good()

        future = block()
        with pytest.raises(FailureBudgetError):
            await future
        with pytest.raises(DependencyFailureError):
            await good(future)


@pytest.mark.parametrize("scripted", [False, True])
async def test_on_this_machine(root: Path, scripted: bool) -> None:
    backend = LocalExecutionBackend(cores=2, scripted=scripted)
    async with WorkflowEngine.create(backend, work_dir=root, retries=RetryPolicy(2, delay=0)) as flow:

        @flow.executable_task
        async def second_time() -> str:
            return 'echo $ASYNCFLOW_ATTEMPT | tee made; [ "$ASYNCFLOW_ATTEMPT" = 1 ]'

        first = second_time()

        @flow.executable_task
        async def read(_: str) -> str:
            return "cat made"

        assert await read(first) == "1\n" and await first == "1\n"
        for number, name in enumerate(["task.000001", "task.000001.1"]):
            assert (flow.session_dir / name / "task.000001.out").read_text() == f"{number}\n"


async def test_a_killed_worker_on_this_machine(root: Path) -> None:
    async with WorkflowEngine.create(LocalExecutionBackend(cores=1), work_dir=root, retries=NOW) as flow:

        @flow.function_task
        def dies_first() -> int:
            import os
            import signal

            if os.environ["ASYNCFLOW_ATTEMPT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            return int(os.environ["ASYNCFLOW_ATTEMPT"])

        future = dies_first()
        assert await future == 1 and future.task["attempts"][0].signal == 9
