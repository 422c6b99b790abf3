"""Blocks and blocks of blocks, `async with await`, and the package's logger."""

import asyncio
import logging
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.logging import init_default_logger

logger = logging.getLogger(__name__)


async def main(executor) -> None:
    init_default_logger(logging.INFO)
    backend = await LocalExecutionBackend(executor)
    async with await WorkflowEngine.create(backend=backend) as flow:

        @flow.function_task
        async def task1(*args):
            return "task1 result"

        @flow.function_task
        async def task2(*args, task_description={"ranks": 1}):
            return f"task2 after {args}"

        @flow.block
        async def block1(*args):
            return await task2(task1())

        @flow.block
        async def block_of_blocks(*args):
            first = block1()
            return await block1(first)

        @flow.executable_task
        async def command(text):
            return f"/bin/echo {text}"

        logger.info("running")
        assert await block_of_blocks() == "task2 after ('task1 result',)"
        assert await command("hello", task_description={"shell": True}) == "hello\n"
        results = await asyncio.gather(*[block_of_blocks() for _ in range(4)])
        assert len(set(results)) == 1


if __name__ == "__main__":
    asyncio.run(main(ThreadPoolExecutor()))
    asyncio.run(main(ProcessPoolExecutor(1)))
    print("ok")
