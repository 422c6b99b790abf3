"""Runs tasks of all kinds for ever; says so, and waits for a signal."""

import asyncio
import sys
from pathlib import Path

from asyncflow_hpc import LocalExecutionBackend, NoopExecutionBackend, WorkflowEngine


class Stuck(NoopExecutionBackend):
    async def shutdown(self) -> None:
        print("stuck", flush=True)
        await asyncio.sleep(600)


async def main() -> None:
    backends = [LocalExecutionBackend(cores=2), Stuck("stuck")] if "stuck" in sys.argv else "local"
    async with WorkflowEngine.create(backend=backends, work_dir=sys.argv[1]) as flow:

        @flow.executable_task
        async def command() -> str:
            return "sleep 600 & touch up; wait"

        @flow.function_task
        async def function() -> None:
            Path("up").touch()
            await asyncio.sleep(600)

        @flow.block
        async def block() -> None:
            await asyncio.gather(command(), function(), command())

        future = block()
        while len(list(Path(sys.argv[1]).glob("*/*/up"))) < 2:
            await asyncio.sleep(0.01)
        print("running", flush=True)
        await future


asyncio.run(main())
