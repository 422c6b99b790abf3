"""Our backend under the engine of radical.asyncflow, and its backend under our engine."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import radical.asyncflow as theirs

import asyncflow_hpc as ours


async def use(engine, backend) -> None:
    flow = await engine.create(backend=await backend)

    @flow.function_task
    async def add(x, task_description={}):
        return x + 1

    @flow.executable_task
    async def command(text):
        return f"/bin/echo {text}"

    @flow.executable_task
    async def fails():
        return "/bin/ls /no/such/place"

    assert await add(add(1), task_description={"walltime": 60}) == 3
    assert await command("words") == "words\n"
    try:
        await fails()
    except RuntimeError as error:
        assert "/no/such/place" in str(error)
    else:
        raise AssertionError("a command failed, and nobody was told")
    await flow.shutdown()


async def main() -> None:
    await use(theirs.WorkflowEngine, ours.LocalExecutionBackend(cores=2))
    await use(ours.WorkflowEngine, theirs.LocalExecutionBackend(ThreadPoolExecutor()))
    print("ok")


asyncio.run(main())
