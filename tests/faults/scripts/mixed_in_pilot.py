"""Runs 300 tasks of mixed kinds in a pilot; says when many have run and others run."""

import asyncio
import sys

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.radical_pilot import RadicalExecutionBackend


async def main() -> None:
    backend = RadicalExecutionBackend({"cores": 4}, directory=sys.argv[1])
    async with WorkflowEngine.create(backend=backend, work_dir=sys.argv[1]) as flow:

        @flow.executable_task
        async def command(text: str, *_: object) -> str:
            return text

        @flow.function_task
        async def square(x: int, *_: object) -> int:
            return x * x

        first = [command("echo x >made") if number % 3 else square(number) for number in range(9)]
        await asyncio.gather(*first)
        await square(0, *first)
        kinds = [command("trap '' TERM; sleep 600 & wait; wait"), command("sleep 600", task_description={"ranks": 2})]
        while not all(future.state == "RUNNING" for future in kinds):
            await asyncio.sleep(0.01)
        waiting = [command("sleep 600") if number % 2 else square(number) for number in range(289)]
        print("running", flush=True)
        await asyncio.gather(*kinds, *waiting)


asyncio.run(main())
