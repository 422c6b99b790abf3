"""The same work on bare asyncio futures: what no engine on this interpreter can beat."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from .engine_probes import settle
from .meter import Meter
from .model import Sample

Future = asyncio.Future[Any]


def _resolved_soon(loop: asyncio.AbstractEventLoop, value: int) -> Future:
    future: Future = loop.create_future()
    loop.call_soon(future.set_result, value)
    return future


def _resolve(target: Future, source: Future) -> None:
    target.set_result(source.result())


async def bag(n: int) -> Sample:
    loop = asyncio.get_running_loop()
    meter = Meter()
    await asyncio.gather(*[_resolved_soon(loop, i) for i in range(n)])
    return meter.sample(n)


async def chain(n: int) -> Sample:
    loop = asyncio.get_running_loop()
    meter = Meter()
    last = _resolved_soon(loop, 0)
    for _ in range(n - 1):
        following: Future = loop.create_future()
        last.add_done_callback(partial(_resolve, following))
        last = following
    await last
    return meter.sample(n)


async def held_finished(n: int) -> Sample:
    loop = asyncio.get_running_loop()
    meter = Meter()
    futures = [_resolved_soon(loop, i) for i in range(n)]
    for future in futures:
        await future
    return meter.sample(n) | meter.memory(n)


async def held_pending(n: int) -> Sample:
    loop = asyncio.get_running_loop()
    gate: Future = loop.create_future()
    meter = Meter()
    futures: list[Future] = []
    for _ in range(n):
        future: Future = loop.create_future()
        gate.add_done_callback(partial(_resolve, future))
        futures.append(future)
    await settle()
    growth = meter.growth()
    gate.set_result(None)
    for future in futures:
        await future
    return meter.sample(n) | meter.memory(n, growth)


async def dropped(n: int, window: int) -> Sample:
    loop = asyncio.get_running_loop()
    meter = Meter()
    for _ in range(0, n, window):
        await asyncio.gather(*[_resolved_soon(loop, i) for i in range(window)])
    return meter.sample(n) | meter.memory(n)


async def dropped_results(n: int, window: int, size: int) -> Sample:
    loop = asyncio.get_running_loop()

    def make(i: int) -> bytes:
        return b"x" * size

    with ThreadPoolExecutor(4) as pool:
        await loop.run_in_executor(pool, make, 0)
        meter = Meter()
        for _ in range(0, n, window):
            await asyncio.gather(*[loop.run_in_executor(pool, make, i) for i in range(window)])
        return meter.sample(n) | meter.memory(n)
