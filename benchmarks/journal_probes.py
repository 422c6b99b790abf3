"""What recording costs on the local backend, and how fast a session is resumed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from .local_probes import TRUE
from .meter import Meter
from .model import Sample

CORES = 8


@asynccontextmanager
async def engine(recorded: bool, resume: str | None = None) -> AsyncIterator[Any]:
    """An engine on the local backend; where it is not recorded, the backend says that it could take over nothing."""
    from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine

    backend = LocalExecutionBackend(cores=os.cpu_count() or 1)
    if not recorded:
        backend.capabilities = replace(backend.capabilities, reattach=False)
    async with WorkflowEngine.create(
        backend, work_dir=os.getcwd(), uid=None if resume else "bench", resume=resume
    ) as flow:
        yield flow


async def calls(n: int, recorded: bool) -> Sample:
    """n calls of a trivial function."""
    async with engine(recorded) as flow:
        same = flow.function_task(_same)
        await asyncio.gather(*(same(-number) for number in range(1, 33)))
        meter = Meter()
        await asyncio.gather(*(same(number) for number in range(n)))
        return meter.sample(n)


async def executables(n: int, recorded: bool) -> Sample:
    """n times /bin/true."""
    async with engine(recorded) as flow:

        @flow.executable_task
        async def true(number: int) -> list[str]:
            return [TRUE, str(number)]

        await true(-1)
        meter = Meter()
        await asyncio.gather(*(true(number) for number in range(n)))
        return meter.sample(n)


async def resume(n: int) -> Sample:
    """Everything from opening a session of n finished function tasks to having all their results again."""
    async with engine(True) as flow:
        same = flow.function_task(_same)
        await asyncio.gather(*(same(number) for number in range(n)))
    meter = Meter()
    async with engine(True, resume="./bench") as flow:
        same = flow.function_task(_same)
        results = await asyncio.gather(*(same(number) for number in range(n)))
        sample = meter.sample(n)
    if results != list(range(n)):
        raise RuntimeError("the results of the session were not those of its tasks")
    return sample


def _same(number: int) -> int:
    return number
