"""What the engine itself costs: no-op tasks, so that nothing but bookkeeping is measured."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .flows import local_engine, noop_engine
from .meter import Meter
from .model import Sample

WARM_UP = 100  # tasks run before a measurement, so that first-use costs (imports, caches) are not spread over few tasks


async def bag(side: str, n: int) -> Sample:
    """n independent tasks, called and gathered."""
    async with noop_engine(side) as flow:
        noop = await _warm_noop(flow)
        meter = Meter()
        await asyncio.gather(*[noop(i) for i in range(n)])
        return meter.sample(n)


async def chain(side: str, n: int) -> Sample:
    """n tasks, each with the previous one's future as its argument."""
    async with noop_engine(side) as flow:
        noop = await _warm_noop(flow)
        meter = Meter()
        last = noop(0)
        for _ in range(n - 1):
            last = noop(last)
        await last
        return meter.sample(n)


async def held_finished(side: str, n: int) -> Sample:
    """n tasks whose futures are all kept after they are done."""
    async with noop_engine(side) as flow:
        noop = await _warm_noop(flow)
        meter = Meter()
        futures = [noop(i) for i in range(n)]
        # One after the other: gather would add its own memory to each future.
        for future in futures:
            await future
        return meter.sample(n) | meter.memory(n)


async def held_pending(side: str, n: int) -> Sample:
    """n tasks held back by one gate they all depend on; memory is read while they wait, CPU over their whole life."""
    async with noop_engine(side) as flow:
        noop = await _warm_noop(flow)
        opened = asyncio.Event()

        async def wait() -> None:
            await opened.wait()

        closed = flow.block(wait)()
        meter = Meter()
        futures = [noop(closed) for _ in range(n)]
        await settle()
        growth = meter.growth()
        if any(future.done() for future in futures):
            raise RuntimeError("a task ended before its gate opened")
        opened.set()
        for future in futures:
            await future
        return meter.sample(n) | meter.memory(n, growth)


async def dropped(side: str, n: int, window: int) -> Sample:
    """n tasks in windows, each awaited and its futures dropped: memory should follow live tasks, not history."""
    async with noop_engine(side) as flow:
        noop = await _warm_noop(flow)
        meter = Meter()
        for _ in range(0, n, window):
            await asyncio.gather(*[noop(i) for i in range(window)])
        return meter.sample(n) | meter.memory(n)


async def dropped_results(side: str, n: int, window: int, size: int) -> Sample:
    """As `dropped`, each task returning `size` bytes through a thread pool given by the caller."""
    async with local_engine(side, ThreadPoolExecutor(4)) as flow:

        async def make_bytes(i: int) -> bytes:
            return b"x" * size

        make = flow.function_task(make_bytes)
        await make(0)
        meter = Meter()
        for _ in range(0, n, window):
            await asyncio.gather(*[make(i) for i in range(window)])
        return meter.sample(n) | meter.memory(n)


async def settle() -> None:
    """Let the loop take in all that was called; only CPU and memory are read where this is used, not time."""
    for _ in range(4):
        await asyncio.sleep(0.005)


async def _warm_noop(flow: Any) -> Any:
    async def body(value: Any) -> Any:
        return value

    noop = flow.function_task(body)
    await asyncio.gather(*[noop(i) for i in range(WARM_UP)])
    return noop
