"""A later driver of the same session: what is done is not done again, and what is not is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import InputFile, OutputFile, WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.testing import BackendUnderTest

from .tasks import sandbox_of, shell

LEVEL: ContextVar[int] = ContextVar("level", default=0)

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "reattach")]


async def two_drivers(
    backend: Any, under_test: BackendUnderTest, root: Path, script: Callable[[WorkflowEngine, int], Awaitable[Any]]
) -> tuple[Any, Any]:
    """Run a script in a session, and again in another driver that resumes it."""
    async with WorkflowEngine.create(backend, work_dir=root, uid="session") as flow:
        first = await script(flow, 1)
    async with WorkflowEngine.create(under_test.make(), resume=root / "session") as flow:
        second = await script(flow, 2)
    return first, second


@pytest.mark.needs("executables", "sandbox")
async def test_a_command_that_is_done(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    log = root / "log"

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        future = shell(flow)(f"echo ran >>{shlex.quote(str(log))}; echo out; echo err >&2")
        out = await future
        return out, future.task["stderr"], future.task["exit_code"], future.uid, sandbox_of(future)

    first, second = await two_drivers(backend, backend_under_test, root, script)
    assert first == second == ("out\n", "err\n", 0, "task.000001", root / "session" / "task.000001")
    assert log.read_text() == "ran\n"


@pytest.mark.needs("executables", "functions")
async def test_what_odd_values_leave_can_be_resumed(
    backend: Any, backend_under_test: BackendUnderTest, root: Path
) -> None:
    class Text(str):
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("it stays here")

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        @flow.function_task
        def leaves(code: Any) -> None:
            sys.exit(code)

        for code in (True, 2**70):
            with pytest.raises(RuntimeError):
                await leaves(code)
        return [await shell(flow)(text, workflow_id=Text("w")) for text in (Text("echo x"), [Text("echo"), Text("y")])]

    assert await two_drivers(backend, backend_under_test, root, script) == (["x\n", "y\n"],) * 2


@pytest.mark.needs("executables", "staging")
async def test_files_of_a_task_that_is_done(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    async def script(flow: WorkflowEngine, driver: int) -> Any:
        made = shell(flow)("echo made >made.txt; echo undeclared >left.txt", OutputFile("made.txt"))
        await made
        # Another command for each driver, so it runs for each.
        return await shell(flow)(f"cat made.txt left.txt; : {driver}", InputFile("made.txt"), made)

    assert await two_drivers(backend, backend_under_test, root, script) == ("made\nundeclared\n",) * 2


@pytest.mark.needs("executables", "staging")
async def test_a_final_place_that_was_emptied(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    log, target = root / "log", root / "final" / "made.txt"

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        await shell(flow)(
            f"echo ran >>{shlex.quote(str(log))}; echo made >made.txt", OutputFile("made.txt", target=target)
        )
        text = target.read_text()
        target.unlink()
        return text

    assert await two_drivers(backend, backend_under_test, root, script) == ("made\n", "made\n")
    assert log.read_text() == "ran\n"


@pytest.mark.needs("executables", "staging")
async def test_a_file_in_an_input_directory_has_changed(
    backend: Any, backend_under_test: BackendUnderTest, root: Path
) -> None:
    (root / "given" / "deep").mkdir(parents=True)

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        # Neither of the directories shows it.
        (root / "given" / "deep" / "file").write_text(f"driver {driver}\n")
        return await shell(flow)("cat given/deep/file", InputFile(root / "given"))

    assert await two_drivers(backend, backend_under_test, root, script) == ("driver 1\n", "driver 2\n")


@pytest.mark.needs("functions")
async def test_results_of_functions_that_are_done(
    backend: Any, backend_under_test: BackendUnderTest, root: Path
) -> None:
    log = root / "log"

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        @flow.function_task
        def make(size: int) -> Any:
            with open(log, "a") as stream:
                stream.write(f"{size}\n")
            return {"bytes": b"x" * size, "tuple": (1, {2}, "ü")}

        small = make(1)
        return await small, await make(2), small.uid

    first, second = await two_drivers(backend, backend_under_test, root, script)
    assert first == second
    assert sorted(log.read_text().split()) == ["1", "2"]


@pytest.mark.needs("functions")
async def test_a_number_too_long_for_text(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    async def script(flow: WorkflowEngine, driver: int) -> Any:
        @flow.function_task
        def name(value: Any) -> str:
            return type(value).__name__

        return await name(10**5000)

    assert await two_drivers(backend, backend_under_test, root, script) == ("int", "int")


@pytest.mark.needs("functions")
async def test_calls_that_differ_by_names_only(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    async def script(flow: WorkflowEngine, driver: int) -> Any:
        @flow.function_task
        def told(*args: Any, **kwargs: Any) -> Any:
            return args, kwargs

        return await (told(1, {"x": 2}) if driver == 1 else told(1, x=2))

    assert await two_drivers(backend, backend_under_test, root, script) == (((1, {"x": 2}), {}), ((1,), {"x": 2}))


@pytest.mark.needs("functions")
async def test_what_comes_of_a_block_counts_and_not_its_code(
    backend: Any, backend_under_test: BackendUnderTest, root: Path
) -> None:
    # As of one that takes what comes first.
    outcome = {"name": "one"}

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        @flow.function_task
        def shout(text: str) -> str:
            return text.upper()

        @flow.block
        async def first(of: list[str]) -> str:
            return outcome["name"]

        return await shout(first([await shout("a")])), await shout(first(shout("b")))

    async with WorkflowEngine.create(backend, work_dir=root, uid="session") as flow:
        assert await script(flow, 1) == ("ONE", "ONE")
    outcome["name"] = "other"
    async with WorkflowEngine.create(backend_under_test.make(), resume=root / "session") as flow:
        assert await script(flow, 2) == ("OTHER", "OTHER")


@pytest.mark.needs("functions", "contextvars")
async def test_context_variables_count(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    async def script(flow: WorkflowEngine, driver: int) -> Any:
        @flow.function_task
        def read() -> int:
            return LEVEL.get()

        LEVEL.set(driver)
        return await read()

    assert await two_drivers(backend, backend_under_test, root, script) == (1, 2)


@pytest.mark.needs("functions", "processes")
async def test_a_large_result_that_is_done(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    log = root / "log"

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        @flow.function_task
        def make() -> bytes:
            with open(log, "a") as stream:
                stream.write("ran\n")
            return b"x" * 1_000_000

        return await make()

    first, second = await two_drivers(backend, backend_under_test, root, script)
    assert first == second == b"x" * 1_000_000
    assert log.read_text() == "ran\n"


@pytest.mark.needs("executables", "sandbox")
async def test_what_failed_or_was_cancelled_runs_again(
    backend: Any, backend_under_test: BackendUnderTest, root: Path
) -> None:
    async def script(flow: WorkflowEngine, driver: int) -> Any:
        future = shell(flow)(f"[ -e {shlex.quote(str(root / 'mended'))} ] && echo mended")
        try:
            return await future, sandbox_of(future).name
        except TaskFailedError:
            (root / "mended").touch()
            return None

    first, second = await two_drivers(backend, backend_under_test, root, script)
    assert (first, second) == (None, ("mended\n", "task.000001.1"))


@pytest.mark.needs("executables", "sandbox")
async def test_evidence_that_is_gone(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    log = root / "log"

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        future = shell(flow)(f"echo ran >>{shlex.quote(str(log))}; echo out >kept", OutputFile("kept"))
        await future
        (sandbox_of(future) / "kept").unlink()

    await two_drivers(backend, backend_under_test, root, script)
    assert log.read_text() == "ran\nran\n"


@pytest.mark.needs("executables")
async def test_a_task_like_another_is_another(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    log = root / "log"

    async def script(flow: WorkflowEngine, driver: int) -> Any:
        for _ in range(2 * driver):
            await shell(flow)(f"echo ran >>{shlex.quote(str(log))}")

    await two_drivers(backend, backend_under_test, root, script)
    assert log.read_text() == "ran\n" * 4
