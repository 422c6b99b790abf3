"""Many tasks on an emulated batch system in trouble: all are settled, none wrongly, and memory stays flat."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.errors import AsyncFlowError, TaskFailedError
from asyncflow_hpc.retries import RetryPolicy
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing import Emulation, emulate

from .meter import resident_bytes

__all__ = ["Outcome", "main", "soak"]

# By which trouble and the backend's patience are shorter than at a real site.
FACTOR = 20.0

# Bytes a finished task may leave behind, once the first quarter is done.
GROWTH = 4096

IN_FLIGHT = 200
# As each says it when its server cannot be reached.
AWAY = {
    "pbs": "qsub: cannot connect to server",
    "pbs_classic": "qsub: cannot connect to server",
    "lsf": "Failed in an LSF library call: LIM is down; try later. Job not submitted.",
}
SUBMIT = {"pbs": "qsub", "pbs_classic": "qsub", "lsf": "bsub"}
STATUS = {"pbs": "qstat", "pbs_classic": "qstat", "lsf": "bjobs"}
EXPLAINED = frozenset(
    {FailureCause.LOST, FailureCause.SUBMIT, FailureCause.SIGNAL, FailureCause.NODE_FAILURE, FailureCause.BACKEND}
)


@dataclass(slots=True)
class Outcome:
    """What was seen: `wrong` holds a line for each thing that must not be."""

    settled: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    resident: list[tuple[int, int]] = field(default_factory=list)
    again: int = 0

    def growth(self) -> float | None:
        """Bytes for each task that finished after the first quarter; None where that was not sampled."""
        later = [one for one in self.resident if one[0] >= self.settled / 4]
        if len(later) < 2:
            return None
        return (later[-1][1] - later[0][1]) / (later[-1][0] - later[0][0])


def value(number: int) -> str:
    return f"value-{number * 7919}\n"


def exit_code(number: int) -> int:
    """Every 50th task is to fail."""
    return 3 + number % 5 if number % 50 == 7 else 0


def command(number: int, log: Path) -> str:
    start, end = (f'echo "{number} {what} $$ $(date +%s%N)" >> {shlex.quote(str(log))}' for what in ("start", "end"))
    return f"{start}; echo {value(number).strip()}; {end}; exit {exit_code(number)}"


def faults(emulated: Emulation, chance: random.Random) -> dict[str, Callable[[], None]]:
    submit, status = SUBMIT[emulated.kind], STATUS[emulated.kind]

    def one_job(act: Callable[[str], None]) -> None:
        known = [job for job in emulated.jobs() if job["state"] != "ENDED"]
        if known:
            with suppress(ValueError):  # it has ended since
                act(str(chance.choice(known)["id"]))

    return {
        "submit hangs": lambda: emulated.hang(submit),
        "submit hangs when done": lambda: emulated.hang(submit, after=True),
        "status hangs": lambda: emulated.hang(status),
        "submit fails": lambda: emulated.replace(submit, err=AWAY[emulated.kind] + "\n", code=1),
        "status is garbage": lambda: emulated.replace(status, out=b"\xff{garbage\n"),
        "server away": emulated.down,
        "purge": emulated.purge,
        "lost job": lambda: one_job(emulated.lose),
        "requeue": lambda: one_job(emulated.requeue),
    }


async def make_trouble(emulated: Emulation, seconds: float, chance: random.Random, seen: Counter[str]) -> None:
    """Turn faults on and off for so many simulated seconds; at the end everything works."""
    possible = faults(emulated, chance)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds / FACTOR
    while loop.time() < end:
        name = chance.choice(sorted(possible))
        await asyncio.to_thread(possible[name])
        seen[name] += 1
        await asyncio.sleep(chance.uniform(10, 60) / FACTOR)
        await asyncio.to_thread(emulated.heal)
        await asyncio.to_thread(emulated.up)
        await asyncio.sleep(chance.uniform(10, 60) / FACTOR)


def judge_log(log: Path, done: set[int], outcome: Outcome) -> None:
    """DONE tasks have run to their end, and no task ran twice at the same time."""
    starts: dict[int, list[tuple[str, int]]] = defaultdict(list)
    ends: dict[int, dict[str, int]] = defaultdict(dict)
    for line in log.read_text().splitlines() if log.exists() else ():
        number, what, process, at = line.split()
        if what == "start":
            starts[int(number)].append((process, int(at)))
        else:
            ends[int(number)][process] = int(at)
    outcome.wrong += [f"task {number} is DONE and never ended" for number in sorted(done - ends.keys())]
    outcome.again = sum(len(begun) > 1 for begun in starts.values())
    for number, begun in starts.items():
        whole = [(process, at, ends[number][process]) for process, at in begun if process in ends[number]]
        for process, first, last in whole:
            if any(other != process and first < at < last for other, at in begun):
                outcome.wrong.append(f"task {number} ran twice at the same time")


async def soak(kind: str, tasks: int, trouble: float, seed: int, root: Path) -> Outcome:
    """Run tasks on an emulated batch system in trouble.

    Args:
        kind: "pbs", "pbs_classic" or "lsf".
        tasks: how many.
        trouble: simulated seconds of it, at most; FACTOR of them pass in a second.
        seed: of the faults and their times.
        root: directory for the session and the log of what ran.
    """
    outcome, done, log = Outcome(), set[int](), root / "ran"
    every = max(1, min(1000, tasks // 8))
    policy = RetryPolicy(max_attempts=10, on=EXPLAINED, delay=0.2, backoff=1.5)
    room = asyncio.Semaphore(IN_FLIGHT)
    with emulate(kind, nodes=4, cores=16, speed=FACTOR, kill_delay=6.0, walltime_delay=20.0) as emulated:
        backend = PsijExecutionBackend(
            kind, poll_interval=0.5, submit_rate=200.0, command_timeout=60 / FACTOR, grace=60 / FACTOR, patience=2
        )
        async with WorkflowEngine.create(backend, work_dir=root, retries=policy) as flow:

            @flow.executable_task
            async def run(number: int) -> str:
                return command(number, log)

            async def one(number: int) -> None:
                try:
                    judge(number, await run(number))
                except TaskFailedError as error:
                    judge(number, error)
                except AsyncFlowError as error:  # all trouble passes: nothing may be refused for good
                    outcome.wrong.append(f"task {number} failed: {error!r}")
                finally:
                    room.release()
                outcome.settled += 1
                if outcome.settled % every == 0:
                    outcome.resident.append((outcome.settled, resident_bytes()))

            def judge(number: int, result: str | TaskFailedError) -> None:
                code = exit_code(number)
                if isinstance(result, str):
                    outcome.ends["DONE"] += 1
                    done.add(number)
                    if code or result != value(number):
                        outcome.wrong.append(f"task {number} is DONE with {result!r}")
                    return
                outcome.ends[f"FAILED {result.cause}"] += 1
                to_fail = bool(code) and result.cause == FailureCause.EXIT_CODE and result.exit_code == code
                if not to_fail and result.cause not in EXPLAINED:
                    outcome.wrong.append(f"task {number} failed: {result}")

            mischief = asyncio.create_task(make_trouble(emulated, trouble, random.Random(seed), outcome.faults))
            live: set[asyncio.Task[Any]] = set()
            for number in range(tasks):
                await room.acquire()
                task = asyncio.create_task(one(number))
                live.add(task)
                task.add_done_callback(live.discard)
            await asyncio.gather(*live)
            mischief.cancel()
            with suppress(asyncio.CancelledError):
                await mischief
    judge_log(log, done, outcome)
    if outcome.settled != tasks:
        outcome.wrong.append(f"{tasks - outcome.settled} tasks were never settled")
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--kind", choices=sorted(SUBMIT), default="pbs")
    parser.add_argument("--trouble", type=float, default=3600.0, help=f"simulated seconds, {FACTOR:g} to a second")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as root:
        outcome = asyncio.run(soak(given.kind, given.tasks, given.trouble, given.seed, Path(root)))
    growth = outcome.growth()
    if growth is not None and growth > GROWTH:
        outcome.wrong.append(f"memory grew by {growth:.0f} bytes a task")
    print(json.dumps({**{name: getattr(outcome, name) for name in Outcome.__slots__}, "growth": growth}, indent=1))
    return 1 if outcome.wrong else 0
