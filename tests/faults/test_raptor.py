"""Functions in workers of a real RAPTOR: what comes back, what goes the other way, and what dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest

from asyncflow_hpc import InputFile, OutputFile, WorkflowEngine
from asyncflow_hpc.backends.radical_pilot import PilotPool, RadicalExecutionBackend
from asyncflow_hpc.backends.radical_pilot.environment import can_run
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing.leftovers import processes_here
from tests.conftest import until

from .on_slurm import hanging, running, shell
from .test_radical_pilot import place, processes_of

__all__ = ["place"]

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not can_run(), reason="RADICAL-Pilot is not installed, or in an environment whose path it cannot take"
    ),
]


def worker_of(future: Any) -> str:
    """Which worker of RAPTOR has run a task; "" where it was none."""
    return os.readlink(Path(future.task["sandbox"], ".asyncflow", "claim")).partition("#")[2]


def pid_of(future: Any) -> int:
    return int(os.readlink(Path(future.task["sandbox"], ".asyncflow", "claim")).partition("#")[0])


def part(place: Path, uid: str) -> psutil.Process:
    """The process of a master or a worker: the first below the shell that has started it."""
    found = {process.pid: process for process in processes_of(place) if process.environ().get("RP_TASK_ID") == uid}
    shells = [pid for pid, process in found.items() if process.cmdline()[0].endswith(("/sh", "/bash"))]
    (top,) = [process for process in found.values() if process.pid not in shells and process.ppid() in shells]
    return top


async def gone(*pids: int) -> None:
    await until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def identical(value: Any, other: Any) -> bool:
    if isinstance(value, numpy.ndarray):
        return value.dtype == other.dtype and value.shape == other.shape and bool((value == other).all())
    return type(value) is type(other) and value == other


async def test_what_goes_to_raptor_and_comes_back(root: Path, place: Path) -> None:
    backend = RadicalExecutionBackend({"cores": 4}, {"workers": 1, "cores_per_worker": 2}, directory=place)
    async with WorkflowEngine.create(backend, work_dir=root, retries=0) as flow:

        @flow.function_task
        def same(value: Any, **_: Any) -> tuple[Any, int]:
            return value, os.getpid()

        values = [
            b"\0\xff", (1, (2, b"3")), {1, 2}, frozenset({"a"}), {(1, 2): {3}}, 2**70, float("inf"), 1 + 2j, "\ud800",
            None, numpy.arange(6, dtype="float32").reshape(2, 3), numpy.array([True]), numpy.int16(3), Path("x"),
        ]  # fmt: skip
        futures = [same(value) for value in values]
        for value, (result, _) in zip(values, await asyncio.gather(*futures), strict=True):
            assert identical(value, result), value
        assert all(worker_of(future) for future in futures)
        # No call sees the process of another.
        assert len({pid for _, pid in await asyncio.gather(*futures)}) == len(values)
        await others_go_the_other_way(flow, same)
        await files_and_directories(flow, root)
        await calls_are_ended(flow)


async def others_go_the_other_way(flow: WorkflowEngine, same: Any) -> None:
    descriptions: list[dict[str, Any]] = [
        {"pre_exec": ["export X=1"]},
        {"environment": {"PYTHONOPTIMIZE": "1"}},
        {"radical_pilot": {"priority": 3}},
    ]
    futures = [same(1, task_description=description) for description in descriptions]
    futures.append(shell(flow)("true"))
    await asyncio.gather(*futures)
    assert [worker_of(future) for future in futures] == [""] * 4


async def files_and_directories(flow: WorkflowEngine, root: Path) -> None:
    @flow.function_task
    def writes(name: OutputFile, text: str) -> str:
        Path("left.dat").write_text(text)
        Path("made.dat").write_text(text)
        return os.getcwd()

    @flow.function_task
    def reads(*_: Any) -> dict[str, str]:
        return {path.name: path.read_text() for path in Path().glob("*.dat")}

    @flow.function_task
    def breaks_its_word(name: OutputFile) -> None: ...

    first = writes(OutputFile("made.dat", target=root / "kept.dat"), "text")
    second = reads(first, InputFile("made.dat"))
    assert await second == {"left.dat": "text", "made.dat": "text"}
    assert (root / "kept.dat").read_text() == "text"
    assert await first == first.task["sandbox"]
    (root / "elsewhere").mkdir()

    @flow.function_task
    def where() -> str:
        return os.getcwd()

    assert await where(task_description={"cwd": str(root / "elsewhere")}) == str(root / "elsewhere")
    failing = breaks_its_word(OutputFile("never.dat"))
    with pytest.raises(TaskFailedError, match=r"never\.dat") as caught:
        await failing
    assert caught.value.cause is FailureCause.MISSING_OUTPUT
    missing = reads(InputFile(str(root / "nowhere.dat")))
    with pytest.raises(TaskFailedError, match=r"nowhere\.dat") as caught:
        await missing
    assert caught.value.cause is FailureCause.STAGING
    assert all(worker_of(future) for future in (first, second, failing, missing))


async def calls_are_ended(flow: WorkflowEngine) -> None:
    hangs = hanging(flow)

    def up(future: Any) -> bool:
        return Path(future.task.get("sandbox") or "nowhere", "up").exists()

    calls = [hangs(), hangs(stubborn=True)]
    waiting = hangs()
    await until(lambda: all(map(up, calls)))
    await running(*calls)
    pids = [pid_of(call) for call in calls]
    for call in (waiting, *calls):
        call.cancel()
    await asyncio.wait([waiting, *calls])
    assert {call.state for call in (waiting, *calls)} == {"CANCELLED"} and not up(waiting)
    await gone(*pids)
    assert not processes_here(flow.session_dir)
    slow = hangs(task_description={"walltime": 0.5})
    with pytest.raises(TaskFailedError) as caught:
        await slow
    assert caught.value.cause is FailureCause.WALLTIME
    # What runs it is killed, and so cannot leave a record.
    killed = hangs()
    await until(lambda: up(killed))
    os.kill(pid_of(killed), signal.SIGKILL)
    with pytest.raises(TaskFailedError) as caught:
        await killed
    assert (caught.value.cause, caught.value.signal) == (FailureCause.SIGNAL, signal.SIGKILL)
    await gone(pid_of(slow), pid_of(killed))
    assert not processes_here(flow.session_dir)


async def test_workers_and_masters_that_are_killed(root: Path, place: Path) -> None:
    config = {"masters": [{"workers": [{}, {}, {}]}, {"workers": [{"ranks": 2, "cores_per_rank": 1}]}]}
    pool = PilotPool({"cores": 8}, config, directory=place)
    # As where a file system may lag.
    backend = RadicalExecutionBackend(pool=pool, patience=3.0)
    async with pool, WorkflowEngine.create(backend, work_dir=root, retries=0) as flow:
        (pilot,) = pool.states
        await one_of_many_workers_is_killed(flow, place, f"{pilot}.m0.w2")
        gate = root / "gate"

        @flow.function_task
        def waits(path: str) -> int:
            Path("up").touch()
            while not Path(path).exists():
                time.sleep(0.1)
            return os.getpid()

        def up(futures: list[Any]) -> list[Any]:
            return [future for future in futures if Path(future.task.get("sandbox") or "-", "up").exists()]

        calls = [waits(str(gate)) for _ in range(12)]
        await until(lambda: len(up(calls)) == 4)
        first = {worker_of(call): call for call in up(calls)}
        assert set(first) == {f"{pilot}.m{master}.w{worker}" for master in (0, 1) for worker in (0, 1)}

        part(place, f"{pilot}.m0.w0").kill()
        lost = first.pop(f"{pilot}.m0.w0")
        pids = [pid_of(lost)]
        with pytest.raises(TaskFailedError, match="RAPTOR worker has ended") as caught:
            await lost
        assert caught.value.cause is FailureCause.NODE_FAILURE
        assert not any(call.done() for call in calls if call is not lost)

        part(place, f"{pilot}.m1").kill()
        of_master = [first.pop(f"{pilot}.m1.w{worker}") for worker in (0, 1)]
        pids += map(pid_of, of_master)
        for call in of_master:
            with pytest.raises(TaskFailedError, match="RAPTOR master has ended") as caught:
                await call
            assert caught.value.cause is FailureCause.NODE_FAILURE
        await gone(*pids)

        # What none of them had begun goes to the one that is left, and what that one runs goes on.
        gate.touch()
        rest = [call for call in calls if call not in (lost, *of_master)]
        await asyncio.gather(*rest)
        assert {worker_of(call) for call in rest} == {f"{pilot}.m0.w1"}

        gate.unlink()
        last = waits(str(gate))
        await until(lambda: up([last]))
        # RADICAL-Pilot sees only the end of the shell that it has started the worker by.
        worker = part(place, f"{pilot}.m0.w1")
        pids = [worker.pid, pid_of(last)]
        psutil.Process(worker.ppid()).kill()
        with pytest.raises(TaskFailedError, match="RAPTOR worker has ended"):
            await last
        await gone(*pids)
        # RAPTOR is gone, and its cores are there for functions as executables.
        gate.touch()
        as_executables = [waits(str(gate)) for _ in range(3)]
        await asyncio.gather(*as_executables)
        assert {worker_of(call) for call in as_executables} == {""}
        assert not processes_here(flow.session_dir)


async def one_of_many_workers_is_killed(flow: WorkflowEngine, place: Path, victim: str) -> None:
    @flow.function_task
    def naps() -> int:
        time.sleep(0.3)
        return os.getpid()

    calls = [naps() for _ in range(40)]

    def had_by_victim() -> list[Any]:
        claims = [Path(call.task.get("sandbox") or "-", ".asyncflow", "claim") for call in calls]
        return [
            call for call, claim in zip(calls, claims, strict=True) if claim.is_symlink() and victim in worker_of(call)
        ]

    await until(had_by_victim)
    part(place, victim).kill()
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    # What it had begun may be lost, and nothing else is, though others get what it was sent.
    assert len(errors) <= 1, errors
    assert all(isinstance(error, TaskFailedError) and error.cause is FailureCause.NODE_FAILURE for error in errors)
    assert any(call.task["sandbox"].endswith(".1") for call in calls)


async def test_pilot_killed_under_calls(root: Path, place: Path) -> None:
    async with (
        PilotPool({"cores": 4}, {"cores_per_worker": 2}, directory=place) as pool,
        WorkflowEngine.create(RadicalExecutionBackend(pool=pool), work_dir=root, retries=0) as flow,
    ):

        @flow.function_task
        def hangs() -> None:
            Path("up").touch()
            time.sleep(600)

        calls = [hangs() for _ in range(60)]
        await until(lambda: sum(Path(call.task.get("sandbox") or "-", "up").exists() for call in calls) == 2)
        begun = [call for call in calls if Path(call.task["sandbox"], "up").exists()]
        pids = [pid_of(call) for call in begun]
        (agent,) = [pilot.agent for pilot in pool._pilots.values()]
        agent[0].kill()
        await asyncio.wait(calls)
        for call in calls:
            error = call.exception()
            assert isinstance(error, TaskFailedError) and error.cause is FailureCause.NODE_FAILURE, error
        await gone(*pids)
        assert not processes_here(flow.session_dir)
