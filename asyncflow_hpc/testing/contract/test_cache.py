"""Results that one session leaves to another."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import InputFile, OutputFile, WorkflowEngine
from asyncflow_hpc.testing import BackendUnderTest

from .tasks import sandbox_of, shell

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "reattach")]


@pytest.mark.needs("functions")
async def test_a_function_in_another_session(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    log, cache = root / "log", root / "cache"

    async def script(flow: WorkflowEngine, number: int) -> Any:
        @flow.function_task
        def make(size: int) -> Any:
            with open(log, "a") as stream:
                stream.write(f"{size}\n")
            return {"bytes": b"x" * size}

        # Equal calls are told apart by their order.
        return [await make(1), await make(1), await make(9999), await make(number)]

    async with WorkflowEngine.create(backend, work_dir=root, uid="one", cache=cache) as flow:
        first = await script(flow, 2)
    async with WorkflowEngine.create(backend_under_test.make(), work_dir=root, uid="two", cache=cache) as flow:
        second = await script(flow, 3)
    assert first[:3] == second[:3] == [{"bytes": b"x"}, {"bytes": b"x"}, {"bytes": b"x" * 9999}]
    assert second[3] == {"bytes": b"xxx"}
    assert log.read_text().split() == ["1", "1", "9999", "2", "3"]


@pytest.mark.needs("executables", "staging")
async def test_a_command_and_its_files(backend: Any, backend_under_test: BackendUnderTest, root: Path) -> None:
    log, cache = root / "log", root / "cache"

    async def script(flow: WorkflowEngine, session: str) -> Any:
        made = shell(flow)(
            f"echo made >made.txt; mkdir deep; echo left >deep/left; echo out; echo ran >>{shlex.quote(str(log))}",
            OutputFile("made.txt"),
        )
        out = await made
        listing = shell(flow)(f"cat made.txt deep/left; ls; : {session}", InputFile("made.txt"), made)
        names = (await listing).replace(made.uid, "made").replace(listing.uid, "listing")
        return out, names, made.task["exit_code"], (sandbox_of(made) / "made.txt").read_text()

    async with WorkflowEngine.create(backend, work_dir=root, uid="one", cache=cache) as flow:
        first = await script(flow, "one")
    async with WorkflowEngine.create(backend_under_test.make(), work_dir=root, uid="two", cache=cache) as flow:
        # So that uids differ.
        await shell(flow)("true")
        second = await script(flow, "two")
    assert log.read_text() == "ran\n"
    assert second == first
    assert first[0] == "out\n"
    assert first[1].startswith("made\nleft\n")
    assert first[2:] == (0, "made\n")


@pytest.mark.needs("executables", "sandbox")
@pytest.mark.parametrize("damage", ["sandbox", "file", "entry", "session"])
async def test_what_cannot_be_trusted_is_run(
    backend: Any, backend_under_test: BackendUnderTest, root: Path, damage: str
) -> None:
    log, cache = root / "log", root / "cache"

    async def script(flow: WorkflowEngine) -> Any:
        future = shell(flow)(f"echo made >made.txt; echo ran >>{shlex.quote(str(log))}", OutputFile("made.txt"))
        await future
        return sandbox_of(future)

    async with WorkflowEngine.create(backend, work_dir=root, uid="one", cache=cache) as flow:
        sandbox = await script(flow)
    if damage == "sandbox":
        shutil.rmtree(sandbox)
    elif damage == "session":
        shutil.rmtree(root / "one")
    elif damage == "file":
        (sandbox / "made.txt").write_text("other\n")
    else:
        [entry] = cache.iterdir()
        entry.write_bytes(entry.read_bytes()[:-40])
    async with WorkflowEngine.create(backend_under_test.make(), work_dir=root, uid="two", cache=cache) as flow:
        again = await script(flow)
    assert log.read_text() == "ran\nran\n"
    assert (again / "made.txt").read_text() == "made\n"
    # What it came to now is there for the next one.
    async with WorkflowEngine.create(backend_under_test.make(), work_dir=root, uid="three", cache=cache) as flow:
        await script(flow)
    assert log.read_text() == "ran\nran\n"


@pytest.mark.needs("executables", "sandbox")
@pytest.mark.parametrize("gone", [False, True])
async def test_a_resume_of_a_session_with_cached_results(
    backend: Any, backend_under_test: BackendUnderTest, root: Path, gone: bool
) -> None:
    log, cache = root / "log", root / "cache"

    async def script(flow: WorkflowEngine) -> Any:
        future = shell(flow)(f"echo out; echo ran >>{shlex.quote(str(log))}")
        return await future, future.uid

    async with WorkflowEngine.create(backend, work_dir=root, uid="one", cache=cache) as flow:
        first = await script(flow)
    async with WorkflowEngine.create(backend_under_test.make(), work_dir=root, uid="two", cache=cache) as flow:
        assert await script(flow) == first
    assert log.read_text() == "ran\n"
    if gone:
        shutil.rmtree(root / "one")
    async with WorkflowEngine.create(backend_under_test.make(), resume=root / "two", cache=cache) as flow:
        assert await script(flow) == first
    assert log.read_text() == ("ran\nran\n" if gone else "ran\n")


@pytest.mark.needs("executables", "sandbox")
async def test_a_failure_is_not_cached(backend: Any, root: Path) -> None:
    async with WorkflowEngine.create(backend, work_dir=root, uid="one", cache=root / "cache") as flow:
        with pytest.raises(Exception, match="exit code 3"):
            await shell(flow)("exit 3")
    assert list((root / "cache").iterdir()) == []
