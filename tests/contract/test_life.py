"""Cancel, services, room on the machine, shutdown: what a backend does with tasks that do not just end."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow_hpc import LocalExecutionBackend, NoopExecutionBackend, WorkflowEngine
from asyncflow_hpc.errors import ConfigurationError, SessionError, TaskFailedError, UnsupportedTaskError
from tests.conftest import until


def shell(flow: WorkflowEngine, **options: Any) -> Any:
    @flow.executable_task(**options)
    async def command(text: Any, *_: Any) -> Any:
        return text

    return command


def sandbox(future: Any) -> Path:
    return Path(future.task["sandbox"])


async def test_states_in_order(flow: WorkflowEngine) -> None:
    command = shell(flow)
    future = command("until [ -e go ]; do sleep 0.01; done")
    assert future.state == "PENDING"
    await until(lambda: future.state == "RUNNING")
    assert flow.running == {future.task["uid"]} and future.task["state"] == "RUNNING"
    (sandbox(future) / "go").touch()
    await future
    assert (future.state, future.task["state"]) == ("DONE", "DONE")
    assert future.task["started"] <= future.task["ended"]


async def test_cancel_before_running(flow: WorkflowEngine) -> None:
    command = shell(flow)
    first = command("sleep 600", task_description={"cores_per_rank": 2})
    waiting = command("echo >ran")
    dependent = command("true", waiting)
    await until(lambda: first.state == "RUNNING")
    assert waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await dependent
    assert (waiting.state, dependent.state) == ("CANCELLED", "CANCELLED")
    assert not waiting.cancel()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await command("echo room again") == "room again\n"


async def test_cancel_running_takes_grandchildren_and_daemons(flow: WorkflowEngine) -> None:
    future = shell(flow)("trap '' TERM; setsid sleep 600 & (sleep 600 & echo up >up; wait) & wait; wait")
    await until(lambda: future.state == "RUNNING" and (sandbox(future) / "up").exists())
    assert future.cancel() and future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert future.state == "CANCELLED"
    assert not [p for p in psutil.process_iter() if _in_sandbox(p, sandbox(future))]


def _in_sandbox(process: psutil.Process, path: Path) -> bool:
    try:
        return process.environ().get("ASYNCFLOW_SANDBOX") == str(path) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


async def test_cancel_running_function(processes: WorkflowEngine) -> None:
    @processes.function_task
    async def waits() -> None:
        Path("up").touch()
        await asyncio.sleep(600)

    @processes.function_task
    async def after() -> int:
        return 1

    future = waits()
    await until(lambda: future.state == "RUNNING" and (sandbox(future) / "up").exists())
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert await after() == 1


async def test_wait_for_ends_the_task(flow: WorkflowEngine) -> None:
    future = shell(flow)("sleep 600")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(future, 0.2)
    assert future.cancelled()


async def test_gather_cancels_its_members(flow: WorkflowEngine) -> None:
    command = shell(flow)
    futures = [command("sleep 600") for _ in range(4)]
    together = asyncio.gather(*futures)
    await until(lambda: any(future.state == "RUNNING" for future in futures))
    together.cancel()
    with pytest.raises(asyncio.CancelledError):
        await together
    await until(lambda: all(future.state == "CANCELLED" for future in futures))


async def test_service(flow: WorkflowEngine) -> None:
    serve, use = shell(flow, service=True), shell(flow)
    ready = {"ready_file": "address"}
    service = serve("echo 127.0.0.1:5 >part; mv part address; sleep 600", task_description=ready)
    dependent = use("echo used", service)
    assert await service == "127.0.0.1:5"
    assert service.state == "RUNNING"
    assert await dependent == "used\n"
    assert service.cancel()
    await until(lambda: service.state == "CANCELLED")


async def test_service_with_a_port(processes: WorkflowEngine) -> None:
    @processes.function_task(service=True)
    async def serves(port: int) -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
        await server.serve_forever()

    free = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = free.sockets[0].getsockname()[1]
    free.close()
    await free.wait_closed()
    service = serves(port, task_description={"ready_port": port})
    assert await service == f"127.0.0.1:{port}"
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def test_service_whose_port_is_taken(flow: WorkflowEngine) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with taken:
        with pytest.raises(ConfigurationError, match="answered by another"):
            await shell(flow, service=True)("sleep 600", task_description={"ready_port": port})


async def test_services_that_leave_no_room_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=1), work_dir=root) as flow:
        service = shell(flow, service=True)("sleep 600")
        waiting = shell(flow)("true", service)
        await until(lambda: "services hold" in caplog.text)
        assert not waiting.done()


async def test_service_that_never_gets_ready(flow: WorkflowEngine) -> None:
    serve = shell(flow, service=True)
    for command in ("true", "exit 3"):
        with pytest.raises(TaskFailedError):
            await serve(command, task_description={"ready_file": "never"})


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
    text = 'echo + >>"$LOG"; sleep 0.02; echo - >>"$LOG"'
    about = {"environment": {"LOG": str(log)}}
    await asyncio.gather(*(command(text, task_description=about) for _ in range(12)))
    running, most = 0, 0
    for line in log.read_text().splitlines():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2 and running == 0


async def test_gpus_are_handed_out_once(flow: WorkflowEngine) -> None:
    command = shell(flow)
    text = 'echo "$CUDA_VISIBLE_DEVICES" >gpu; until [ -e go ]; do sleep 0.01; done; cat gpu'
    pair = [command(text, task_description={"gpus_per_rank": 1}) for _ in range(2)]
    await until(lambda: all(future.state == "RUNNING" and (sandbox(future) / "gpu").exists() for future in pair))
    for future in pair:
        (sandbox(future) / "go").touch()
    assert sorted(await asyncio.gather(*pair)) == ["0\n", "1\n"]
    assert await command('echo "[$CUDA_VISIBLE_DEVICES]"') == "[]\n"


async def test_shutdown_with_work_under_way(backend: Any, root: Path) -> None:
    flow = await WorkflowEngine.create(backend=backend, work_dir=root)
    command = shell(flow)
    running = command("trap '' TERM; sleep 600 & wait; wait")
    waiting = [command("sleep 600") for _ in range(50)]
    dependent = command("true", running)
    await until(lambda: running.state == "RUNNING")
    await flow.shutdown()
    assert {future.state for future in (running, dependent, *waiting)} == {"CANCELLED"}
    assert not [p for p in psutil.process_iter() if _in_sandbox(p, sandbox(running))]
    await flow.shutdown()


async def test_shutdown_leaves_the_backend_open(root: Path) -> None:
    backend = await LocalExecutionBackend(cores=1)
    first = await WorkflowEngine.create(backend=backend, work_dir=root)
    future = shell(first)("sleep 600")
    await until(lambda: future.state == "RUNNING")
    await first.shutdown(skip_execution_backend=True)
    assert future.cancelled()
    async with WorkflowEngine.create(backend=backend, work_dir=root) as second:
        assert await shell(second)("echo again") == "again\n"


async def test_two_backends(root: Path) -> None:
    backends = [LocalExecutionBackend(cores=1, name="one"), NoopExecutionBackend(name="two")]
    async with WorkflowEngine.create(backend=backends, work_dir=root) as flow:
        one, two = shell(flow), shell(flow, backend="two")
        assert await one("echo real") == "real\n"
        assert await two("echo real") == "Dummy Output"
        assert await one("echo after", two("true", one("true"))) == "after\n"


async def test_session_that_cannot_be_used(root: Path) -> None:
    (root / "taken").write_text("a file")
    (root / "open").mkdir()
    (root / "open").chmod(0o777)
    for uid, word in (("taken", "no directory"), ("open", "written by others")):
        async with WorkflowEngine.create(backend="local", work_dir=root, uid=uid) as flow:
            with pytest.raises(SessionError, match=word):
                await shell(flow)("true")


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
async def test_without_pidfd(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "pidfd_open")
    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=2), work_dir=root) as flow:

        @flow.function_task
        async def crashes() -> None:
            os._exit(3)

        with pytest.raises(TaskFailedError) as caught:
            await (shell(flow)("exit 3") if kind == "command" else crashes())
        assert caught.value.exit_code == 3
        endless = shell(flow)("sleep 600 & wait")
        await until(lambda: endless.state == "RUNNING")
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
