"""What running something on this machine costs: worker processes for functions, subprocesses for executables."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from .flows import local_engine
from .meter import Meter, children_cpu_seconds
from .model import Sample

TRUE = "/bin/true" if os.path.exists("/bin/true") else shutil.which("true") or "true"
CORES = os.cpu_count() or 1


@asynccontextmanager
async def process_engine(side: str) -> AsyncIterator[Any]:
    """Functions in worker processes, one a core: ours by default, the peer by the executor it is given."""
    arguments = () if side == "ours" else (ProcessPoolExecutor(CORES),)
    async with local_engine(side, *arguments) as flow:
        yield flow


async def chain(side: str, n: int, seconds: float) -> Sample:
    """n function tasks of `seconds` each, one after the other, on warm workers."""
    async with process_engine(side) as flow:

        async def sleep_once(value: int) -> int:
            time.sleep(seconds)  # noqa: ASYNC251 - it runs in a worker, alone on a loop of its own
            return value + 1

        step = flow.function_task(sleep_once)
        await step(0)
        meter = Meter()
        last = step(0)
        for _ in range(n - 1):
            last = step(last)
        if await last != n:
            raise RuntimeError("the chain lost a step")
        return meter.sample(n)


async def cold_start(side: str) -> Sample:
    """From the import of the package to the first function's result: workers are started on the way."""
    meter = Meter()
    async with process_engine(side) as flow:
        await flow.function_task(_async_identity())(1)
        return meter.sample(1)


async def executables(side: str, n: int, window: int, cores: int = 0) -> Sample:
    """n times /bin/true, gathered in windows; `cores` slots where the side has them (0: its default)."""
    arguments = {"cores": cores} if cores else {}
    async with local_engine(side, **arguments) as flow:

        async def command() -> str:
            return TRUE

        run_true = flow.executable_task(command)
        await run_true()
        meter = Meter()
        for _ in range(0, n, window):
            await asyncio.gather(*[run_true() for _ in range(window)])
        return meter.sample(n) | meter.memory(n)


async def calls(side: str, n: int, asynchronous: bool) -> Sample:
    """n calls of a trivial function with one integer; defined here as in a user's script, so pickled by value."""
    async with process_engine(side) as flow:
        call = flow.function_task(_async_identity() if asynchronous else _identity())
        await asyncio.gather(*[call(i) for i in range(4 * CORES)])
        meter = Meter()
        got = await asyncio.gather(*[call(i) for i in range(n)])
        sample = meter.sample(n) | meter.memory(n)
        if got != list(range(n)):
            raise RuntimeError("a call returned a wrong value")
    return sample | workers_cpu(n)


async def forked_calls(n: int, functions: str) -> Sample:
    """n calls of a function that names a module, so that only a process of its own, or a shared one, can run it."""
    async with local_engine("ours", functions=functions) as flow:
        call = flow.function_task(_asks_for_its_process())
        await asyncio.gather(*[call(i) for i in range(4 * CORES)])
        meter = Meter()
        if None in await asyncio.gather(*[call(i) for i in range(n)]):
            raise RuntimeError("a call returned a wrong value")
        sample = meter.sample(n)
    return sample | workers_cpu(n)


def workers_cpu(n: int) -> Sample:
    """The CPU time of all workers, their start included: known only once they have ended."""
    return {"children_cpu_us": children_cpu_seconds() / n * 1e6}


def _async_identity() -> Any:
    async def identity(value: int) -> int:
        return value

    return identity


def _identity() -> Any:
    def identity(value: int) -> int:
        return value

    return identity


def _asks_for_its_process() -> Any:
    def asks(value: int) -> tuple[int, int]:
        return value, os.getpid()

    return asks
