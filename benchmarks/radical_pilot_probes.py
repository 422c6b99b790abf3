"""What the engine and the run script cost over RADICAL-Pilot itself: both in one pilot, in turn."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from contextlib import nullcontext
from typing import Any

from asyncflow_hpc.testing.waiting import until

from .flows import engine_on
from .local_probes import TRUE
from .model import Sample

# Seconds between two looks of the loop at the clock.
TICK = 0.002


async def pilot(n: int, chain: int, rounds: int, waiting: int) -> Sample:
    """n times /bin/true, and chains of it: through the engine, and through RADICAL-Pilot's own TaskManager."""
    from asyncflow_hpc.backends.radical_pilot import PilotPool, RadicalExecutionBackend

    async with PilotPool(directory=os.getcwd()) as pool, engine_on("ours", RadicalExecutionBackend(pool=pool)) as flow:
        plain = Plain(pool)

        async def command(*_: Any) -> str:
            return TRUE

        run_true = flow.executable_task(command)

        async def ours(count: int) -> None:
            await asyncio.gather(*(run_true() for _ in range(count)))

        async def our_chain() -> None:
            last = None
            for _ in range(chain):
                last = run_true(last)
            assert last is not None
            await last

        async def plain_chain() -> None:
            for _ in range(chain):
                await plain.run(1)

        await ours(10)
        await plain.run(10)
        seconds: dict[str, list[float]] = {"ours": [], "plain": [], "our_chain": [], "plain_chain": []}
        blocked = Blocked()
        for turn in range(rounds):
            works = {"ours": ours(n), "plain": plain.run(n), "our_chain": our_chain(), "plain_chain": plain_chain()}
            for name in list(works)[:: 1 if turn % 2 == 0 else -1]:
                begin = time.perf_counter()
                async with blocked if name.startswith("our") else nullcontext():
                    await works[name]
                seconds[name].append(time.perf_counter() - begin)
        cancelled = await cancelled_seconds(flow, pool, waiting)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        return {
            "n": n,
            "rate": n / median["ours"],
            "plain_rate": n / median["plain"],
            "share": median["plain"] / median["ours"],
            "chain_ms": median["our_chain"] / chain * 1e3,
            "plain_chain_ms": median["plain_chain"] / chain * 1e3,
            "over_ms": (median["our_chain"] - median["plain_chain"]) / chain * 1e3,
            "blocked_ms": blocked.longest * 1e3,
            "held_ms": blocked.held * 1e3,
            "cancelled_seconds": cancelled,
        }


async def cancelled_seconds(flow: Any, pool: Any, n: int) -> float:
    """Cancel the pilot under n tasks, one of which runs at least; returns the seconds until all are settled."""

    @flow.executable_task
    async def run_long() -> str:
        return "sleep 3600"

    tasks = [run_long() for _ in range(n)]
    await until(lambda: any(task.task["state"] == "RUNNING" for task in tasks))
    begin = time.perf_counter()
    await asyncio.get_running_loop().run_in_executor(None, pool.cancel_pilots)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    seconds = time.perf_counter() - begin
    if not all(isinstance(result, BaseException) for result in results):
        raise RuntimeError("a task of a cancelled pilot is done")
    return seconds


class Plain:
    """Tasks that go straight to RADICAL-Pilot's TaskManager, all at once, with neither engine nor run script."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()

    async def run(self, n: int) -> None:
        """Run /bin/true n times, and wait until RADICAL-Pilot says that all are DONE."""
        from asyncflow_hpc.backends.radical_pilot.dispatching import Waiting

        (pilot,) = self._pool._pilots.values()
        done: asyncio.Queue[str] = asyncio.Queue()

        def hear(event: Any) -> None:
            if event.state != "AGENT_EXECUTING":
                self._loop.call_soon_threadsafe(done.put_nowait, event.state)

        tasks = [{"uid": f"plain.{next(self._numbers):06}", "executable": TRUE, "pilot": pilot.uid} for _ in range(n)]
        for task in tasks:
            self._pool._dispatch.given(Waiting(task, 0, hear), pilot)
        self._pool._connection.send("tasks", tasks=tasks)
        states = {await done.get() for _ in range(n)}
        if states != {"DONE"}:
            raise RuntimeError(f"RADICAL-Pilot says {states}")


class Blocked:
    """Measures for how long the loop did not turn.

    Attributes:
        longest: in seconds.
        held: the longest without the time in which its thread could have run, and others had the CPUs.
    """

    longest = held = 0.0

    async def __aenter__(self) -> None:
        self._watch = asyncio.create_task(self._look())

    async def __aexit__(self, *_: object) -> None:
        self._watch.cancel()

    async def _look(self) -> None:
        while True:
            before, waited = time.perf_counter(), waited_for_cpu()
            await asyncio.sleep(TICK)
            late = time.perf_counter() - before - TICK
            self.longest = max(self.longest, late)
            self.held = max(self.held, late - (waited_for_cpu() - waited))


def waited_for_cpu() -> float:
    """Seconds for which this thread was ready to run and had no CPU; 0 where the kernel does not say it.

    Source: Documentation/scheduler/sched-stats.rst of Linux, /proc/<pid>/schedstat.
    """
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as stream:
            return int(stream.read().split()[1]) / 1e9
    except OSError:
        return 0.0
