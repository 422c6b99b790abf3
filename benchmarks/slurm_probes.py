"""What a batch job costs beside bare sbatch: submission, the way from its end to its future, the driver's CPU time."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .flows import engine_on
from .meter import Meter
from .model import Sample

MEMORY = "16MB"
SCRIPT = """\
#!/bin/sh
#SBATCH --job-name=bare --output=/dev/null --begin=now+1hour --ntasks=1 --cpus-per-task=1 --mem-per-cpu=16M --no-requeue
exec /bin/true
"""


@asynccontextmanager
async def slurm_engine(**arguments: Any) -> AsyncIterator[Any]:
    """An engine on Slurm that submits as fast as it can."""
    from asyncflow_hpc.backends.psij import PsijExecutionBackend

    settings = {"submit_rate": 1e6, "max_queued": 100_000, "defaults": {"mem_per_rank": MEMORY}}
    async with engine_on("ours", PsijExecutionBackend("slurm", **settings | arguments)) as flow:
        yield flow


async def submission(n: int) -> Sample:
    """n jobs that may not start yet, so that nothing but their submission uses the machine; cancelled afterwards."""
    async with slurm_engine() as flow:

        async def command() -> str:
            return "/bin/true"

        await flow.executable_task(command)()
        later = flow.executable_task(command, task_description={"slurm": {"begin": "now+1hour"}})
        meter = Meter()
        futures = [later() for _ in range(n)]
        for future in futures:
            # Not all of them each time, which would be most of what is measured.
            while not future.task.get("native_id"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        sample = meter.sample(n)
        for future in futures:
            future.cancel()
        await asyncio.wait(futures)
        return sample


def bare_sbatch(n: int, at_once: int) -> Sample:
    """n times sbatch, in threads."""
    script = Path("job.sh")
    script.write_text(SCRIPT, encoding="ascii")

    def submit(_: int) -> str:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return _in_threads(submit, n, at_once)


def _in_threads(submit: Callable[[int], str], n: int, at_once: int) -> Sample:
    submit(0)
    with ThreadPoolExecutor(at_once) as pool:
        meter = Meter()
        ids = list(pool.map(submit, range(n)))
        sample = meter.sample(n)
    subprocess.run(["scancel", "--name=bare", f"--user={os.getuid()}"], check=True)
    if len(set(ids)) != n:
        raise RuntimeError("an id was given twice")
    return sample


def bare_psij(n: int, at_once: int) -> Sample:
    """n jobs of PSI/J's own, in threads: its job, its template, its executor, and nothing of ours."""
    from datetime import timedelta

    import psij
    from psij.executors.batch.slurm import SlurmExecutorConfig

    executor = psij.JobExecutor.get_instance("slurm", config=SlurmExecutorConfig(work_directory=Path("psij").resolve()))

    def submit(_: int) -> str:
        spec = psij.JobSpec(
            executable="/bin/true",
            name="bare",
            resources=psij.ResourceSpecV1(process_count=1, cpu_cores_per_process=1),
            attributes=psij.JobAttributes(duration=timedelta(minutes=10)),
            stdout_path=Path("/dev/null"),
            stderr_path=Path("/dev/null"),
            launcher="single",
        )
        spec.attributes.custom_attributes = {"slurm.begin": "now+1hour", "slurm.mem-per-cpu": "16M"}
        job = psij.Job(spec)
        executor.submit(job)
        return str(job.native_id)

    return _in_threads(submit, n, at_once)


async def latency(n: int, inotify: bool) -> Sample:
    """From the end of a job's command to its future, for n jobs; the run script's last steps and Slurm's are in it."""
    from asyncflow_hpc.backends.psij import backend

    if not inotify:
        # As on a network file system.
        backend.SpoolWatcher = partial(backend.SpoolWatcher, inotify=False)
    async with slurm_engine() as flow:

        async def command() -> str:
            return "date +%s.%N"

        stamp = flow.executable_task(command)
        await stamp()
        meter = Meter()
        took = await asyncio.gather(*[_since_its_end(stamp()) for _ in range(n)])
        figures = {"median_s": statistics.median(took), "slowest_s": max(took)}
        return meter.sample(n) | figures


async def _since_its_end(future: Any) -> float:
    ended = float(await future)
    return time.time() - ended


async def in_flight(n: int, of: int) -> Sample:
    """`of` jobs of a trivial command, in windows of n."""
    async with slurm_engine() as flow:

        async def command() -> str:
            return "/bin/true"

        task = flow.executable_task(command)
        await task()
        meter = Meter()
        for _ in range(0, of, n):
            await asyncio.gather(*[task() for _ in range(n)])
        return meter.sample(of) | meter.memory(of)
