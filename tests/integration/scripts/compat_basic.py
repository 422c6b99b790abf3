"""A single workflow with dependencies, in the style of the published guide; a thread pool runs the functions."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine


async def main() -> None:
    backend = await LocalExecutionBackend(ThreadPoolExecutor())
    flow = await WorkflowEngine.create(backend=backend)

    @flow.function_task
    async def produce(*args):
        await asyncio.sleep(0.01)
        return time.time()

    @flow.function_task
    async def combine(one, two):
        return [one, two]

    result = await combine(produce(), produce())
    assert len(result) == 2 and all(isinstance(moment, float) for moment in result)

    async def run_workflow(number):
        first = produce()
        second = produce(first)
        return await combine(first, second)

    assert len(await asyncio.gather(*[run_workflow(i) for i in range(50)])) == 50
    await flow.shutdown()
    print("ok")


asyncio.run(main())
