"""Services: tasks that are ready before they end."""

from __future__ import annotations

import asyncio
import socket

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.testing.waiting import until

from .tasks import shell

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
