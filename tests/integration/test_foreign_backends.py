"""Backends that were written for radical.asyncflow or RHAPSODY, under our engine."""

from __future__ import annotations

import asyncio
import logging
import shlex
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import InputFile, OutputFile, RetryPolicy, WorkflowEngine, lanes


def of_radical() -> Any:
    theirs = pytest.importorskip("radical.asyncflow")
    return theirs.LocalExecutionBackend(ThreadPoolExecutor(4), name="foreign")


def of_rhapsody() -> Any:
    theirs = pytest.importorskip("rhapsody.backends.execution.concurrent")
    return theirs.ConcurrentExecutionBackend(ThreadPoolExecutor(4), name="foreign")


Make = Callable[[], Any]
pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("make", [of_radical, of_rhapsody])]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("asyncflow_hpc")]


@pytest.mark.parametrize("shell", [None, True, False, "/bin/sh"])
@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("echo a b | wc -w", "2"),
        ("echo 'a  b'; echo $((1 + 1))", "a  b\n2"),
        ("printf '%s.' \"x y\" z", "x y.z."),
        (["printf", "%s.", "x y", "$HOME", "'", ";"], "x y.$HOME.'.;."),
    ],
)
async def test_a_command_means_the_same(make: Make, root: Path, shell: Any, command: Any, printed: str) -> None:
    async with WorkflowEngine.create(await make(), work_dir=root) as flow:

        @flow.executable_task
        async def task(value: Any) -> Any:
            return value

        options = {} if shell is None else {"task_description": {"shell": shell}}
        assert (await task(command, **options)).strip() == printed


async def test_its_session_directory_is_there(make: Make, root: Path) -> None:
    async with WorkflowEngine.create(await make(), work_dir=root, uid="session") as flow:

        @flow.executable_task(capture_stdio=True)
        async def task() -> str:
            return "echo out"

        assert not (root / "session").exists()
        out = await task()
        assert (root / "session").stat().st_mode & 0o777 == 0o700
        assert "out" in (out, Path(out.strip()).read_text().strip() if out.startswith("/") else "", out.strip())


async def test_what_it_may_ignore_is_said_once_a_kind(make: Make, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "data").touch()
    wanted = {"walltime": 1, "environment": {"A": "1"}, "ranks": 4, "retries": 0}
    async with WorkflowEngine.create(await make(), work_dir=root) as flow:

        @flow.executable_task
        async def task(*_: Any) -> str:
            return "true"

        for _ in range(3):
            await task(InputFile(root / "data"), OutputFile("never"), task_description=wanted)
    said = messages(caplog)
    assert len(said) == 5 and all("backend 'foreign' was not written for asyncflow_hpc" in text for text in said)
    for kind in ("'walltime'", "'environment'", "'ranks'", "InputFile(", "OutputFile('never')"):
        assert sum(kind in text for text in said) == 1


async def test_retries_are_the_engines(make: Make, root: Path) -> None:
    async with WorkflowEngine.create(await make(), work_dir=root) as flow:

        @flow.executable_task
        async def task() -> str:
            ran = shlex.quote(str(root / "ran"))
            return f"echo >>{ran}; [ $(wc -l <{ran}) -ge 3 ]"

        await task(task_description={"retries": RetryPolicy(3, delay=0)})
        assert (root / "ran").read_text() == "\n" * 3


async def test_one_that_does_not_end_has_a_limit(
    make: Make, root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(lanes, "FOREIGN_TIMEOUT", 1)

    async def never(*_: Any) -> bool:
        await asyncio.Event().wait()
        return True

    backend = await make()
    began, over = threading.Event(), threading.Event()
    real = backend.shutdown
    async with WorkflowEngine.create(backend, work_dir=root) as flow:

        @flow.function_task
        async def task() -> None:
            began.set()
            over.wait()

        future = task()
        await asyncio.to_thread(began.wait)
        monkeypatch.setattr(backend, "shutdown", never)
        monkeypatch.setattr(backend, "cancel_task", never)
        future.cancel()
    said = "\n".join(messages(caplog))
    assert "backend 'foreign' has not shut down" in said and "has not cancelled task.000001" in said
    assert future.cancelled()
    over.set()
    await real()
