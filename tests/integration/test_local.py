"""What is the local backend's alone: room on this machine, its memory, its descriptors, its ports."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.errors import ConfigurationError, TaskFailedError, UnsupportedTaskError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing.contract.tasks import sandbox_of, shell
from asyncflow_hpc.testing.waiting import until


@pytest.fixture(params=["plain", "script"])
async def flow(request: pytest.FixtureRequest, root: Path) -> AsyncIterator[WorkflowEngine]:
    """An engine on two cores and two GPUs, with and without the run script."""
    backend = LocalExecutionBackend(cores=2, gpus=2, scripted=request.param == "script")
    async with WorkflowEngine.create(backend=backend, work_dir=root) as engine:
        yield engine


@pytest.fixture
async def local(root: Path) -> AsyncIterator[WorkflowEngine]:
    """An engine on two cores."""
    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=2), work_dir=root) as engine:
        yield engine


async def test_too_large_for_the_machine(flow: WorkflowEngine) -> None:
    command = shell(flow)
    for wish, word in (({"cores_per_rank": 3}, "3 cores"), ({"ranks": 3}, "3 cores"), ({"gpus_per_rank": 3}, "3 gpus")):
        with pytest.raises(UnsupportedTaskError, match=word):
            command("true", task_description=wish)
    with pytest.raises(UnsupportedTaskError, match="memory"):
        command("true", task_description={"mem_per_rank": "1000TB"})
    with pytest.raises(UnsupportedTaskError, match="nodes"):
        command("true", task_description={"nodes": 2})


async def test_never_more_than_there_is(flow: WorkflowEngine) -> None:
    command = shell(flow)
    log = flow.session_dir.parent / "log"
    # None ends before there were two of them at once.
    text = 'echo + >>"$LOG"; until [ "$(grep -c + "$LOG")" -ge 2 ]; do sleep 0.01; done; sleep 0.02; echo - >>"$LOG"'
    about = {"environment": {"LOG": str(log)}}
    await asyncio.gather(*(command(text, task_description=about) for _ in range(12)))
    running, most = 0, 0
    for line in log.read_text().splitlines():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2 and running == 0


async def test_gpus_by_their_numbers(flow: WorkflowEngine) -> None:
    wide = {"ranks": 2, "gpus_per_rank": 1}
    seen = await shell(flow)("echo $ASYNCFLOW_RANK gpu $CUDA_VISIBLE_DEVICES", task_description=wide)
    assert sorted(seen.splitlines()) == ["0 gpu 0", "1 gpu 1"]


async def test_services_that_leave_no_room_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=1), work_dir=root) as flow:
        service = shell(flow, service=True)("sleep 600")
        waiting = shell(flow)("true", service)
        await until(lambda: "services hold" in caplog.text)
        assert not waiting.done()


async def test_service_whose_port_is_taken(flow: WorkflowEngine) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with taken:
        with pytest.raises(ConfigurationError, match="answered by another"):
            await shell(flow, service=True)("sleep 600", task_description={"ready_port": port})


async def test_output_over_the_limit(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow_hpc.backends.output.LIMIT", 2 * 1024 * 1024)
    future = shell(flow)(f"head -c {3 * 1024 * 1024} /dev/zero | tr '\\0' x")
    output = await future
    head, _, notice = output.partition("\n")
    same = head == "x" * 2 * 1024 * 1024
    assert same, f"{len(head)} characters"
    assert str(3 * 1024 * 1024) in notice and str(sandbox_of(future)) in notice


async def test_few_descriptors(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, hard))
    try:
        async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=500), work_dir=root) as flow:
            command = shell(flow)
            assert await asyncio.gather(*(command("echo x") for _ in range(300))) == ["x\n"] * 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", ["command", "function"])
async def test_without_pidfd(local: WorkflowEngine, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "pidfd_open")

    @local.function_task
    async def crashes() -> None:
        os._exit(3)

    with pytest.raises(TaskFailedError) as caught:
        await (shell(local)("exit 3") if kind == "command" else crashes())
    assert caught.value.exit_code == 3
    endless = shell(local)("sleep 600 & wait")
    await until(lambda: endless.state == "RUNNING")
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless


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


async def test_kill_for_want_of_memory(local: WorkflowEngine, small_cgroup: Path) -> None:
    @local.function_task
    async def greedy() -> int:
        (small_cgroup / "cgroup.procs").write_text(str(os.getpid()))
        return len(bytearray(b"x") * (512 * 1024 * 1024))

    with pytest.raises(TaskFailedError) as caught:
        await greedy()
    assert (caught.value.cause, caught.value.signal) == (FailureCause.MEMORY, signal.SIGKILL)


async def test_functions_take_no_ranks(local: WorkflowEngine) -> None:
    @local.function_task
    async def nothing() -> None: ...

    with pytest.raises(UnsupportedTaskError, match="ranks"):
        await nothing(task_description={"ranks": 2})


@pytest.mark.parametrize("functions", ["process", "thread"])
async def test_a_thousand_functions(root: Path, functions: Any) -> None:
    backend = LocalExecutionBackend(functions=functions, cores=2)
    async with WorkflowEngine.create(backend=backend, work_dir=root) as flow:

        @flow.function_task
        def square(x: int) -> int:
            return x * x

        assert await asyncio.gather(*(square(i) for i in range(1000))) == [i * i for i in range(1000)]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
async def test_permissions(local: WorkflowEngine, mask: int) -> None:
    """The task has the umask of the driver; the session and its bookkeeping are private."""
    before = os.umask(mask)
    try:
        first = shell(local)("umask; mkdir made; echo >made/file; umask 0")
        second = shell(local)("echo >made/other; no-such-program", first)
        assert int(await first, 8) == mask
        with pytest.raises(TaskFailedError):
            await second
    finally:
        os.umask(before)
    directory, file = 0o777 & ~mask, 0o666 & ~mask
    for future in (first, second):
        assert (sandbox_of(future) / "made").stat().st_mode & 0o777 == directory
    assert (sandbox_of(first) / "made/file").stat().st_mode & 0o777 == file
    assert (sandbox_of(second) / "made/other").stat().st_mode & 0o777 == file
    session = sandbox_of(first).parent
    for private in (session, session / "journal.jsonl", *session.glob("task.*"), *session.glob("*/*.out")):
        assert not private.stat().st_mode & 0o077, private


_ALLOCATE = "import sys; held = b'x' * (int(sys.argv[1]) << 20); print(len(held))"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process shared with its parent")
async def test_peak_memory(flow: WorkflowEngine) -> None:
    """It is that of the task, or unknown, but never that of the driver."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    large = 2 * (peak >> 20)
    futures = [shell(flow)([sys.executable, "-S", "-c", _ALLOCATE, str(size)]) for size in (1, large)]
    small = [shell(flow)("true") for _ in range(50)]
    await asyncio.gather(*futures, *small)
    assert large << 20 < futures[1].task["max_rss"] < (large + 100) << 20
    assert [future.task.get("max_rss") for future in (futures[0], *small)] == [None] * 51
