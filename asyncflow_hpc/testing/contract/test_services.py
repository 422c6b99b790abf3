"""Services: tasks that are ready before they end."""

from __future__ import annotations

import asyncio
import shlex
import socket
from pathlib import Path

import pytest

from asyncflow_hpc import InputFile, WorkflowEngine
from asyncflow_hpc.errors import StagingConflictError, TaskFailedError
from asyncflow_hpc.testing import BackendUnderTest
from asyncflow_hpc.testing.waiting import until

from .tasks import shell
from .test_cancel import until_none_left

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "services")]


@pytest.mark.needs("executables", "sandbox", "cancel_running")
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


@pytest.mark.needs("executables", "sandbox", "staging", "cancel_running")
@pytest.mark.parametrize("where", ["absolute", "cwd", "dependency", "directory", "fifo"])
async def test_a_ready_file_of_another(
    flow: WorkflowEngine, backend_under_test: BackendUnderTest, root: Path, where: str
) -> None:
    """What was there before the service started does not make it ready, nor does what is no file."""
    serve, use = shell(flow, service=True), shell(flow)
    place = root / "place"
    place.mkdir()
    name, described, arguments = "address", {"ready_file": "address"}, []
    begin = {"directory": "mkdir address", "fifo": "mkfifo address"}.get(where, "true")
    if where == "dependency":
        arguments.append(use("echo stale >address"))
    elif where in ("absolute", "cwd"):
        name = str(place / "address")
        described = {"ready_file": name} if where == "absolute" else {"ready_file": "address", "cwd": str(place)}
        Path(name).write_text("stale\n")
    begun, go, ready = map(shlex.quote, (f"{place}/begun", f"{place}/go", name))
    command = f"{begin}; echo >{begun}; until [ -e {go} ]; do sleep 0.05; done"
    # The new content is no longer than the old one.
    command += f"; rm -rf {ready}; echo fresh >part; mv part {ready}"
    service = serve(f"{command}; exec sleep 600", *arguments, task_description=described)
    await until((place / "begun").exists)
    # Time enough to be ready too early.
    assert await use("sleep 1; echo used") == "used\n"
    assert not service.done()
    (place / "go").touch()
    assert await service == "fresh"
    assert service.cancel()
    await until(lambda: service.state == "CANCELLED")
    await until_none_left(backend_under_test, root)


@pytest.mark.needs("executables", "sandbox", "staging")
async def test_a_ready_file_that_is_an_input(flow: WorkflowEngine, root: Path) -> None:
    (root / "address").write_text("stale")
    with pytest.raises((StagingConflictError, TaskFailedError), match="ready_file"):
        await shell(flow, service=True)(
            "sleep 600", InputFile(root / "address"), task_description={"ready_file": "./address"}
        )


@pytest.mark.needs("functions", "processes")
async def test_service_with_a_port(flow: WorkflowEngine) -> None:
    async def serves(port: int) -> None:
        server = await asyncio.start_server(lambda *_: None, "0.0.0.0", port)
        await server.serve_forever()

    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    service = flow.function_task(serves, service=True)(port, task_description={"ready_port": port})
    host, _, told = (await service).rpartition(":")
    assert int(told) == port
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


@pytest.mark.needs("executables")
@pytest.mark.parametrize("command", ["true", "exit 3"])
async def test_service_that_never_gets_ready(flow: WorkflowEngine, command: str) -> None:
    with pytest.raises(TaskFailedError):
        await shell(flow, service=True)(command, task_description={"ready_file": "never"})


@pytest.mark.needs("executables")
async def test_service_runs_until_the_shutdown(flow: WorkflowEngine) -> None:
    service = shell(flow, service=True)("sleep 600")
    await service
    await flow.shutdown()
    assert service.state == "CANCELLED"
