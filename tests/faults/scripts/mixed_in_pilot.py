"""Runs 300 tasks of mixed kinds in a pilot, with a service and staged files; says when many have run and others run."""

import asyncio
import sys

from asyncflow_hpc import InputFile, OutputFile, WorkflowEngine
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

        @flow.executable_task(service=True)
        async def service(text: str) -> str:
            return text

        served = service("echo up >part; mv part up; sleep 600", task_description={"ready_file": "up"})
        made = [command("echo x >made", OutputFile("made")) if number % 3 else square(number) for number in range(7)]
        copied = [command("cat made", task, InputFile("made", action="copy"), served) for task in made[1:3]]
        assert await asyncio.gather(*copied) == ["x\n", "x\n"]
        await square(0, *made)
        kinds = [command("trap '' TERM; sleep 600 & wait; wait"), command("sleep 600", task_description={"ranks": 2})]
        while not all(future.state == "RUNNING" for future in kinds):
            await asyncio.sleep(0.01)
        waiting = [command("sleep 600") if number % 2 else square(number) for number in range(287)]
        print("running", flush=True)
        await asyncio.gather(*kinds, *waiting)


asyncio.run(main())
