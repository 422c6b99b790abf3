"""Calls that were sent to a busy worker before there was room for them: they run once, and wait for no long one."""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from tests.conftest import until


class Scene:
    """An engine whose workers have answered before, and functions that tell when they begin."""

    def __init__(self, flow: WorkflowEngine, cores: int) -> None:
        self.flow, self.cores = flow, cores
        self.backend = flow.backend
        self.files = flow.session_dir.parent
        files = self.files

        def begin(name: Any) -> None:
            # Fails where a call runs twice.
            os.close(os.open(files / f"began {name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))

        def hold(name: Any) -> Any:
            begin(name)
            while not (files / f"go {name}").exists():
                time.sleep(0.002)
            return name

        def quick(name: Any) -> Any:
            begin(name)
            with (files / "log").open("a") as stream:
                stream.write(f"{name}\n")
            return name

        def leave(name: Any) -> None:
            hold(name)
            os._exit(3)

        self.hold, self.quick, self.leave = (flow.function_task(function) for function in (hold, quick, leave))

    def began(self, name: Any) -> bool:
        return (self.files / f"began {name}").exists()

    def go(self, name: Any) -> None:
        (self.files / f"go {name}").touch()

    def log(self) -> list[str]:
        return (self.files / "log").read_text().splitlines()

    async def warm(self) -> None:
        futures = await self.held(*(f"warm {i}" for i in range(self.cores)))
        for i in range(self.cores):
            self.go(f"warm {i}")
        await asyncio.gather(*futures)
        self.pids = [int(future.task["native_id"]) for future in futures]

    async def held(self, *names: Any, function: Any = None, **options: Any) -> list[Any]:
        futures = [(function or self.hold)(name, **options) for name in names]
        await until(lambda: all(self.began(name) for name in names))
        return futures

    async def ahead(self, *names: Any) -> list[Any]:
        """Calls that have all left the queue, and do not run."""
        futures = [self.quick(name) for name in names]
        await until(lambda: all(future.task["state"] == "SUBMITTED" for future in futures))
        assert len(self.backend.slots) == 0 and not any(self.began(name) for name in names)
        return futures


@pytest.fixture(params=[(1, "process"), (2, "process"), (2, "shared")], ids=["1", "2", "2-shared"])
async def scene(request: pytest.FixtureRequest, root: Path) -> AsyncIterator[Scene]:
    cores, functions = request.param
    backend = LocalExecutionBackend(cores=cores, functions=functions)
    async with WorkflowEngine.create(backend=backend, work_dir=root) as flow:
        made = Scene(flow, cores)
        await made.warm()
        yield made
        assert flow.backend.slots.granted == len(flow.backend.slots) == 0


def on(cores: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scene", [(cores, "process"), (cores, "shared")], ids=str, indirect=True)


@on(2)
async def test_an_idle_worker_gets_what_waits_behind_a_long_call(scene: Scene) -> None:
    long, short = await scene.held("long", "short")
    futures = await scene.ahead(*range(6))
    scene.go("short")
    assert await asyncio.gather(*futures) == list(range(6))
    assert not long.done() and short.done()
    scene.go("long")
    await long


@on(2)
async def test_a_command_that_ends_makes_room_for_what_waits_behind_a_long_call(scene: Scene) -> None:
    @scene.flow.executable_task
    async def command() -> str:
        return "until [ -e ../go ]; do sleep 0.01; done"

    (long,) = await scene.held("long")
    other = command()
    await until(lambda: other.state == "RUNNING")
    futures = await scene.ahead(*range(3))
    (scene.flow.session_dir / "go").touch()
    await asyncio.gather(*futures)
    assert not long.done()
    scene.go("long")
    await asyncio.gather(long, other)


@on(2)
async def test_what_waits_behind_a_long_call_is_overtaken_only_so_often(scene: Scene) -> None:
    long, short = await scene.held("long", "short")
    early = await scene.ahead(*range(8))
    later = [scene.quick(i) for i in range(8, 1008)]
    await until(lambda: later[-1].task["state"] == "SUBMITTED")
    scene.go("short")
    await asyncio.gather(*early, *later)
    assert not long.done()
    assert max(scene.log().index(str(i)) for i in range(8)) < 150
    scene.go("long")
    await asyncio.gather(long, short)


@on(2)
async def test_a_task_of_another_shape_gets_its_turn(scene: Scene) -> None:
    held = await scene.held("one", "two")
    before = [scene.quick(i) for i in range(50)]
    big = scene.quick("big", task_description={"cores_per_rank": 2})
    after = [scene.quick(i) for i in range(50, 300)]
    await until(lambda: after[-1].task["state"] == "SUBMITTED")
    scene.go("one")
    scene.go("two")
    await asyncio.gather(*held, *before, big, *after)
    assert 50 <= scene.log().index("big") < 50 + 32 + 2


async def test_cancel_of_one_that_was_sent_ahead(scene: Scene) -> None:
    names = [f"hold {i}" for i in range(scene.cores)]
    held = await scene.held(*names)
    futures = await scene.ahead(*range(5))
    futures[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await futures[2]
    assert not any(future.done() for future in held)
    for name in names:
        scene.go(name)
    rest = futures[:2] + futures[3:]
    assert await asyncio.gather(*held, *rest) == [*names, 0, 1, 3, 4]
    assert not scene.began(2)


@on(1)
async def test_calls_run_in_the_order_of_their_arrival_also_after_a_cancel(scene: Scene) -> None:
    (held,) = await scene.held("hold")
    futures = [scene.quick(i) for i in range(30)]
    await until(lambda: futures[-1].task["state"] == "SUBMITTED")
    futures[5].cancel()
    await asyncio.wait([futures[5]])
    scene.go("hold")
    await asyncio.wait([held, *futures])
    assert scene.log() == [str(i) for i in range(30) if i != 5]


async def test_cancel_of_a_running_one_with_others_behind_it(scene: Scene) -> None:
    held = await scene.held(*(f"hold {i}" for i in range(scene.cores)))
    futures = await scene.ahead(*range(5))
    for future in held:
        future.cancel()
    assert await asyncio.gather(*futures) == list(range(5))
    assert all(future.cancelled() for future in held)


async def test_walltime_of_a_running_one_with_others_behind_it(scene: Scene) -> None:
    about = {"walltime": 1}
    held = await scene.held(*(f"hold {i}" for i in range(scene.cores)), task_description=about)
    futures = await scene.ahead(*range(5))
    for future in held:
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert caught.value.cause is FailureCause.WALLTIME
    assert await asyncio.gather(*futures) == list(range(5))


async def test_a_killed_worker_takes_only_the_call_that_it_runs(scene: Scene) -> None:
    held = await scene.held(*(f"hold {i}" for i in range(scene.cores)))
    futures = await scene.ahead(*range(6))
    os.kill(int(held[0].task["native_id"]), signal.SIGKILL)
    with pytest.raises(TaskFailedError) as caught:
        await held[0]
    assert (caught.value.cause, caught.value.signal) == (FailureCause.SIGNAL, signal.SIGKILL)
    assert await asyncio.gather(*futures) == list(range(6))
    for i in range(1, scene.cores):
        scene.go(f"hold {i}")
    await asyncio.gather(*held[1:])


async def test_a_function_that_leaves_with_twenty_behind_it(scene: Scene) -> None:
    names = [f"leaves {i}" for i in range(scene.cores)]
    leaving = await scene.held(*names, function=scene.leave)
    futures = [scene.quick(i) for i in range(20)]
    await until(lambda: futures[-1].task["state"] == "SUBMITTED")
    for name in names:
        scene.go(name)
    for future in leaving:
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert (caught.value.cause, caught.value.exit_code) == (FailureCause.EXIT_CODE, 3)
    assert await asyncio.gather(*futures) == list(range(20))


@on(1)
async def test_a_worker_killed_before_it_began_loses_nothing(scene: Scene) -> None:
    pid = scene.pids[0]
    os.kill(pid, signal.SIGSTOP)
    future = scene.quick("once")
    await until(lambda: future.state == "RUNNING")
    behind = await scene.ahead(*range(5))
    os.kill(pid, signal.SIGKILL)
    assert await asyncio.gather(future, *behind) == ["once", *range(5)]
    assert future.task["native_id"] != str(pid)


@on(1)
async def test_nothing_starts_once_the_backend_was_abandoned(scene: Scene) -> None:
    os.kill(scene.pids[0], signal.SIGSTOP)
    future = scene.quick("never")
    await until(lambda: future.state == "RUNNING")
    behind = await scene.ahead(*range(5))
    scene.backend.abandon()
    with pytest.raises(TaskFailedError):
        await future
    assert not any(scene.began(name) for name in ("never", *range(5)))
    await scene.flow.shutdown()
    assert all(other.cancelled() for other in behind)


@on(1)
async def test_a_call_that_no_worker_lives_to_begin_fails(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    os.kill(scene.pids[0], signal.SIGKILL)
    await until(lambda: len(scene.backend.workers) == 0)
    monkeypatch.setattr("sys.executable", "/bin/false")
    futures = [scene.quick(i) for i in range(3)]
    for future in futures:
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert (caught.value.cause, caught.value.exit_code) == (FailureCause.EXIT_CODE, 1)


async def test_shutdown_reports_what_was_sent_ahead_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: Counter[tuple[str, str]] = Counter()
    report = scene.backend.task_state_cb

    def counting(task: Any, state: str) -> None:
        reports[task["uid"], state] += 1
        report(task, state)

    monkeypatch.setattr(scene.backend, "task_state_cb", counting)
    held = await scene.held(*(f"hold {i}" for i in range(scene.cores)))
    futures = await scene.ahead(*range(5))
    await scene.flow.shutdown()
    assert all(future.cancelled() for future in [*held, *futures])
    assert [reports[future.uid, "CANCELED"] for future in [*held, *futures]] == [1] * (scene.cores + 5)
    assert not any(scene.began(i) for i in range(5))


@on(2)
async def test_never_more_at_once_than_cores(scene: Scene) -> None:
    log = scene.files / "at once"

    def busy() -> None:
        for sign in "+-":
            with log.open("a") as stream:
                stream.write(f"{sign}\n")

    @scene.flow.executable_task
    async def command() -> str:
        return f"echo + >>{shlex.quote(str(log))}; echo - >>{shlex.quote(str(log))}"

    call = scene.flow.function_task(busy)
    await asyncio.gather(*(command() if i % 11 == 0 else call() for i in range(300)))
    running = most = 0
    for line in log.read_text().splitlines():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert 0 < most <= scene.cores and running == 0


async def test_reports_and_the_worker_that_ran_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: dict[str, list[str]] = {}
    report = scene.backend.task_state_cb

    def keeping(task: Any, state: str) -> None:
        reports.setdefault(task["uid"], []).append(state)
        report(task, state)

    monkeypatch.setattr(scene.backend, "task_state_cb", keeping)
    futures = [scene.flow.function_task(lambda: (os.getpid(), os.getppid()))() for _ in range(200)]
    pids = await asyncio.gather(*futures)
    # The worker runs a call itself, or has forked the process that does.
    assert all(future.task["native_id"] in map(str, pair) for future, pair in zip(futures, pids, strict=True))
    assert all(reports[future.uid] == ["RUNNING", "DONE"] for future in futures)


async def test_many_large_arguments_among_small_ones(scene: Scene) -> None:
    length = scene.flow.function_task(len)
    sizes = [2**20 if i % 3 else i for i in range(60)]
    assert await asyncio.gather(*(length(bytes(size)) for size in sizes)) == sizes


async def test_what_cannot_be_pickled_fails_among_others(scene: Scene) -> None:
    double = scene.flow.function_task(lambda x: x * 2)
    futures = [double((i for i in ()) if i % 7 == 3 else i) for i in range(50)]
    found = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(value, TypeError) if i % 7 == 3 else value == i * 2 for i, value in enumerate(found))
    assert len(scene.backend.workers) == scene.cores


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_run_twice(root: Path, seed: int) -> None:
    """Calls that kill their worker, kills and cancels from outside, all at once."""
    chance = random.Random(seed)
    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=3), work_dir=root) as flow:
        scene = Scene(flow, 3)
        await scene.warm()
        scene.go("now")

        def dies(name: Any) -> None:
            (root / f"began {name}").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)

        fatal = flow.function_task(dies)
        deadly = {i for i in range(600) if chance.random() < 0.02}
        futures = [(fatal if i in deadly else scene.quick)(i) for i in range(600)]
        gone, killed = set(), set()
        for i in chance.sample(sorted(set(range(600)) - deadly), 60):
            await until(lambda i=i: any(f.done() for f in futures[max(0, i - 30) : i + 1]))
            if chance.random() < 0.5:
                futures[i].cancel()
                gone.add(i)
            elif futures[i].state == "RUNNING":
                try:
                    os.kill(int(futures[i].task["native_id"]), signal.SIGKILL)
                    killed.add(i)
                except ProcessLookupError:
                    pass
        found = await asyncio.gather(*futures, return_exceptions=True)
    failed = {i for i, value in enumerate(found) if isinstance(value, TaskFailedError)}
    cancelled = {i for i, value in enumerate(found) if isinstance(value, asyncio.CancelledError)}
    assert deadly <= failed and len(failed - deadly) <= len(killed)
    assert cancelled <= gone
    assert all(found[i] == i for i in set(range(600)) - failed - cancelled)
    # A second begin would have failed with FileExistsError.
    assert all(scene.began(i) for i in set(range(600)) - cancelled - failed)
