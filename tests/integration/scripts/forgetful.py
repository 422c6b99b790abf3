"""Ends without a shutdown while tasks run."""

import asyncio
import sys

from asyncflow_hpc import WorkflowEngine


async def main() -> None:
    flow = await WorkflowEngine.create(backend="local", work_dir=sys.argv[1])

    @flow.executable_task
    async def command() -> str:
        return "sleep 600 & wait"

    @flow.function_task
    async def function() -> None:
        await asyncio.sleep(600)

    futures = [command(), function()]
    while len(flow.running) < len(futures):
        await asyncio.sleep(0.01)


asyncio.run(main())
