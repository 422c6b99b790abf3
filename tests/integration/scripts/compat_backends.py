"""Several named backends in one engine, tasks routed by the decorator, prompts answered by one of them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from asyncflow_hpc import LocalExecutionBackend, NoopExecutionBackend, WorkflowEngine
from asyncflow_hpc.errors import DependencyFailureError


async def main() -> None:
    compute = await LocalExecutionBackend(ThreadPoolExecutor(), name="compute")
    flow = await WorkflowEngine.create(backend=[compute, NoopExecutionBackend(name="ai")])
    assert flow.backend is compute

    @flow.function_task(backend="compute")
    async def preprocess(raw_text):
        return raw_text.strip().lower()

    @flow.prompt_task(backend="ai")
    async def summarize(text):
        return f"Summarize: {text}"

    @flow.function_task
    async def postprocess(summary):
        return f"[Result] {summary}"

    @flow.function_task
    async def fails():
        raise ValueError("a reason")

    async def pipeline(text):
        return await postprocess(summarize(preprocess(text)))

    results = await asyncio.gather(*[pipeline(f" Text {i} ") for i in range(5)])
    assert results == ["[Result] Dummy Prompt Output"] * 5
    try:
        await postprocess(fails())
    except DependencyFailureError as error:
        assert error.failed_dependencies == ["fails"] and isinstance(error.root_cause, ValueError)
    else:
        raise AssertionError("a dependency failed, and nobody was told")
    await flow.shutdown()
    print("ok")


asyncio.run(main())
