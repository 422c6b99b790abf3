"""Tasks that are tried again: each attempt has a sandbox, a record and a name of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import InputFile, OutputFile, RetryPolicy, WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause

from .tasks import output_of, sandbox_of, shell

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "sandbox")]

TWICE: dict[str, Any] = {"retries": RetryPolicy(2, delay=0)}


@pytest.mark.needs("executables")
async def test_second_attempt(flow: WorkflowEngine) -> None:
    future = shell(flow, task_description=TWICE)('echo $ASYNCFLOW_ATTEMPT; pwd; [ "$ASYNCFLOW_ATTEMPT" = 1 ]')
    output = (await future).split("\n", 1)
    (failed,) = future.task["attempts"]
    assert (failed.number, failed.cause, failed.exit_code) == (0, FailureCause.EXIT_CODE, 1)
    assert (future.state, future.task["exit_code"], future.task["attempt"]) == ("DONE", 0, 1)
    first, second = Path(failed.sandbox), sandbox_of(future)
    assert first != second and first.parent == second.parent
    assert output[0] == "1" and os.path.samefile(output[1].rstrip("\n"), second)
    assert [path.joinpath(f"{future.uid}.out").read_text()[:2] for path in (first, second)] == ["0\n", "1\n"]


@pytest.mark.needs("executables", "staging")
async def test_files_come_from_the_attempt_that_ended_well(backend: Any, root: Path) -> None:
    (root / "input").write_text("of the input\n")
    async with WorkflowEngine.create(backend, work_dir=root) as flow:
        first = shell(flow, task_description=TWICE)(
            "cat input >seen; echo $ASYNCFLOW_ATTEMPT >declared; cp declared undeclared\n"
            '[ "$ASYNCFLOW_ATTEMPT" = 1 ] || { : >stale; exit 3; }',
            InputFile(root / "input"),
            OutputFile("declared"),
        )
        dependent = shell(flow)(
            "cat declared undeclared seen; cat task.000001/declared; ls",
            first,
            InputFile("declared"),
        )
        output = await dependent
    assert output.startswith("1\n1\nof the input\n1\n") and "stale" not in output
    assert Path(first.task["attempts"][0].sandbox, "stale").exists()


@pytest.mark.needs("executables", "staging")
@pytest.mark.parametrize("command", ["cat data; exit 3", "cat data; rm data; exit 3", "cat data; kill -KILL $$"])
@pytest.mark.parametrize("kind", ["path", "url", "output"])
async def test_an_input_that_was_moved(flow: WorkflowEngine, root: Path, command: str, kind: str) -> None:
    """Another attempt would lack it, and hide why the first one failed."""
    data = root / "data"
    if kind == "output":
        first = shell(flow)("echo data >data", OutputFile("data"))
        item = InputFile("data", task=first, action="move")
    else:
        data.write_text("data\n")
        item = InputFile(data if kind == "path" else data.as_uri(), action="move")
    with pytest.raises(TaskFailedError, match="moved") as caught:
        await shell(flow, task_description=TWICE)(command, item)
    error = caught.value
    assert error.cause is (FailureCause.SIGNAL if "kill" in command else FailureCause.EXIT_CODE)
    assert output_of(error) == "data\n" and len(error.attempts) == 1


@pytest.mark.needs("executables", "staging")
async def test_an_input_that_was_not_moved_yet(flow: WorkflowEngine, root: Path) -> None:
    (root / "data").write_text("data\n")
    inputs = InputFile(root / "never"), InputFile(root / "data", action="move")
    with pytest.raises(TaskFailedError, match="never") as caught:
        await shell(flow, task_description=TWICE)("cat data", *inputs)
    assert (caught.value.cause, len(caught.value.attempts)) == (FailureCause.STAGING, 2)
    assert (root / "data").exists()


@pytest.mark.needs("functions", "processes")
async def test_function(flow: WorkflowEngine) -> None:
    @flow.function_task
    def fails_first() -> tuple[str, str]:
        attempt = os.environ["ASYNCFLOW_ATTEMPT"]
        if attempt == "0":
            raise ValueError("the first time")
        return attempt, os.getcwd()

    future = fails_first(task_description=TWICE)
    attempt, directory = await future
    assert attempt == "1" and os.path.samefile(directory, sandbox_of(future))
    (failed,) = future.task["attempts"]
    assert failed.text == "ValueError: the first time" and failed.sandbox != future.task["sandbox"]


@pytest.mark.needs("executables")
async def test_last_error_lists_all_attempts(flow: WorkflowEngine) -> None:
    future = shell(flow, task_description=TWICE)("echo why $ASYNCFLOW_ATTEMPT >&2; exit $((ASYNCFLOW_ATTEMPT + 3))")
    with pytest.raises(TaskFailedError) as caught:
        await future
    error = caught.value
    assert [(attempt.number, attempt.exit_code, attempt.text) for attempt in error.attempts] == [
        (0, 3, "why 0"),
        (1, 4, "why 1"),
    ]
    assert error.exit_code == 4 and error.sandbox == error.attempts[1].sandbox
    assert len({attempt.sandbox for attempt in error.attempts}) == 2
    assert all(str(attempt) in str(error) for attempt in error.attempts)


@pytest.mark.needs("executables", "walltime")
async def test_more_walltime(flow: WorkflowEngine, backend_under_test: Any) -> None:
    """The first attempt is ended by its walltime, and the second has enough."""
    short = backend_under_test.walltime
    policy = RetryPolicy(2, on={FailureCause.WALLTIME}, delay=0, escalate={"walltime": 60})
    future = shell(flow)(
        '[ "$ASYNCFLOW_ATTEMPT" = 1 ] || sleep 1000', task_description={"walltime": short, "retries": policy}
    )
    assert await future == ""
    assert [attempt.cause for attempt in future.task["attempts"]] == [FailureCause.WALLTIME]
    assert future.task["description"].walltime == 60 * short
