"""The same work without an engine: bare process creation, and the bare worker pools."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

from .local_probes import CORES, TRUE, workers_cpu
from .meter import Meter
from .model import Sample


def identity(value: int) -> int:
    return value


def step(value: int, seconds: float) -> int:
    time.sleep(seconds)
    return value + 1


def sleep_chain(n: int, seconds: float) -> Sample:
    """n calls one after the other on a warm pool of the standard library."""
    with ProcessPoolExecutor(CORES) as pool:
        pool.submit(identity, 0).result()
        meter = Meter()
        value = 0
        for _ in range(n):
            value = pool.submit(step, value, seconds).result()
        return meter.sample(n)


def cold_pool() -> Sample:
    """A new pool of the standard library to its first result."""
    meter = Meter()
    with ProcessPoolExecutor(CORES) as pool:
        pool.submit(identity, 0).result()
        return meter.sample(1)


def spawn_loop(n: int, in_flight: int) -> Sample:
    """os.posix_spawn with a window of processes in flight, each waited for."""
    meter = Meter()
    started = ended = 0
    while ended < n:
        while started < n and started - ended < in_flight:
            os.posix_spawn(TRUE, [TRUE], os.environ)
            started += 1
        os.waitpid(-1, 0)
        ended += 1
    return meter.sample(n)


def fork_loop(n: int) -> Sample:
    """os.fork of this process, as many in flight as there are cores, each waited for."""
    meter = Meter()
    started = ended = 0
    while ended < n:
        while started < n and started - ended < CORES:
            if os.fork() == 0:
                os._exit(0)
            started += 1
        os.waitpid(-1, 0)
        ended += 1
    return meter.sample(n) | workers_cpu(n)


def spawn_in_sandboxes(n: int, in_flight: int) -> Sample:
    """As `spawn_loop`, each process with its own directory and its output in two files there, as our tasks have."""
    meter = Meter()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    started = ended = 0
    while ended < n:
        while started < n and started - ended < in_flight:
            os.mkdir(f"{started}", 0o700)
            files = [
                (os.POSIX_SPAWN_OPEN, fd, f"{started}/{name}", flags, 0o600) for fd, name in ((1, "out"), (2, "err"))
            ]
            os.posix_spawn(TRUE, [TRUE], os.environ, file_actions=files)
            started += 1
        os.waitpid(-1, 0)
        ended += 1
    return meter.sample(n)


def sandboxes(n: int) -> Sample:
    """A directory and two empty files, as every one of our tasks has, and nothing else."""
    meter = Meter()
    for i in range(n):
        os.mkdir(f"{i}", 0o700)
        for name in ("out", "err"):
            os.close(os.open(f"{i}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    return meter.sample(n)


def xargs(n: int, in_flight: int) -> Sample:
    """xargs -P -n1: one process for each word of its input."""
    words = "".join(f"{i}\n" for i in range(n)).encode()
    meter = Meter()
    subprocess.run(["xargs", f"-P{in_flight}", "-n1", TRUE], input=words, check=True)
    return meter.sample(n)


def executor_calls(n: int) -> Sample:
    """concurrent.futures.ProcessPoolExecutor.submit."""
    with ProcessPoolExecutor(CORES) as pool:
        sample = _submit_all(pool, n)
    return sample | workers_cpu(n)


def _submit_all(pool: Executor, n: int) -> Sample:
    for future in [pool.submit(identity, i) for i in range(4 * CORES)]:
        future.result()
    meter = Meter()
    for future in [pool.submit(identity, i) for i in range(n)]:
        future.result()
    return meter.sample(n) | meter.memory(n)


def pebble_calls(n: int) -> Sample:
    """pebble.ProcessPool.schedule."""
    from pebble import ProcessPool

    pool: Any = ProcessPool(max_workers=CORES)
    with pool:
        for future in [pool.schedule(identity, args=[i]) for i in range(4 * CORES)]:
            future.result()
        meter = Meter()
        for future in [pool.schedule(identity, args=[i]) for i in range(n)]:
            future.result()
        sample = meter.sample(n) | meter.memory(n)
    return sample | workers_cpu(n)
