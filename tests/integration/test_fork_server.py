"""What the differential tests do not see of the process that forks the calls: its ends, and what it keeps for them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from tests.conftest import until

MODULES = {
    "quiet": "VALUE = 1",
    "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "talkative": "print('hello')",
    "seeded": "import random\nGENERATOR = random.Random()",
    "handling": "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)",
    "holding": "stream = open(__file__)",
}


@pytest.fixture
async def flow(root: Path) -> AsyncIterator[WorkflowEngine]:
    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=1), work_dir=root) as engine:
        yield engine


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_installed_modules_are_imported_once_where_no_call_can_tell(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "lib" / "site-packages"
    place.mkdir(parents=True)
    for name, text in MODULES.items():
        (place / f"{name}.py").write_text(text)
    (tmp_path / "own.py").write_text("")
    monkeypatch.syspath_prepend(place)
    monkeypatch.syspath_prepend(tmp_path)

    def imports(name: str) -> bool:
        there = name in sys.modules
        __import__(name)
        return there

    async with WorkflowEngine.create(backend=LocalExecutionBackend(cores=1), work_dir=root) as flow:
        call = flow.function_task(imports)
        for name in (*MODULES, "own"):
            assert [await call(name) for _ in range(4)] == [False, False, name == "quiet", name == "quiet"], name
        about = {"environment": {"OTHER": "1"}}
        assert [await call("quiet", task_description=about) for _ in range(3)] == [False, False, True]
        assert await call("quiet") is False


async def test_random_numbers_of_an_imported_numpy(flow: WorkflowEngine) -> None:
    pytest.importorskip("numpy")

    def draws() -> tuple[float, bool]:
        there = "numpy" in sys.modules
        import numpy

        return float(numpy.random.random()), there

    found = [await flow.function_task(draws)() for _ in range(6)]
    assert len({number for number, _ in found}) == 6
    assert [there for _, there in found] == [False, False, True, True, True, True]


async def test_variables_that_count_when_an_interpreter_starts(flow: WorkflowEngine) -> None:
    program = "sys.warnoptions, hash('text'), sys.stdout.encoding, sys.dont_write_bytecode"

    def looks() -> str:
        return repr(eval(program, {"sys": sys}))

    environment = {"PYTHONWARNINGS": "error", "PYTHONHASHSEED": "3", "PYTHONIOENCODING": "latin-1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    argv = [sys.executable, "-c", f"import sys; print(repr(({program})))"]
    fresh = subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True)
    found = await flow.function_task(looks)(task_description={"environment": environment})
    assert found == fresh.stdout.strip()


async def test_daemons_end_with_their_call(flow: WorkflowEngine) -> None:
    def leaves() -> int:
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.write(writing, str(os.getpid()).encode())
                time.sleep(600)
            os._exit(0)
        return int(os.read(reading, 20))

    assert gone(await flow.function_task(leaves)())


async def test_who_holds_the_pipe_of_a_call_that_has_ended(flow: WorkflowEngine) -> None:
    def leaves() -> None:
        if os.fork() == 0:
            time.sleep(600)
        os._exit(3)

    with pytest.raises(TaskFailedError) as caught:
        await flow.function_task(leaves)()
    assert caught.value.exit_code == 3


async def test_a_function_that_closes_all_descriptors(flow: WorkflowEngine) -> None:
    def closes() -> str:
        os.closerange(3, 1000)
        return "closed"

    assert await flow.function_task(closes)() == "closed"


async def test_a_worker_keeps_no_descriptors(flow: WorkflowEngine) -> None:
    def speaks(text: str) -> int:
        print(len(text))
        return os.getppid()

    def fails() -> None:
        os._exit(1)

    call, failing = flow.function_task(speaks), flow.function_task(fails)
    worker = psutil.Process(await call("once"))
    counts = []
    for _ in range(3):
        for text in ("small", "x" * 100_000):
            await call(text)
            with pytest.raises(TaskFailedError):
                await failing()
        assert await call("") == worker.pid
        # It forks the next process in its own time.
        await until(lambda: len(worker.children()) == 1)
        counts.append(worker.num_fds())
    assert len(set(counts)) == 1, counts


@pytest.mark.parametrize("leaves", [False, True], ids=["in its group", "with a session of its own"])
@pytest.mark.parametrize("way", ["kill", "cancel", "stubborn"])
async def test_a_call_ends_with_its_worker(flow: WorkflowEngine, tmp_path: Path, way: str, leaves: bool) -> None:
    def sleeps(path: str, leaves: bool, stubborn: bool) -> None:
        if leaves:
            os.setsid()
        if stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(path, "part").write_text(str(os.getpid()))
        Path(path, "part").rename(Path(path, "pid"))
        time.sleep(600)

    future = flow.function_task(sleeps)(str(tmp_path), leaves, way == "stubborn")
    await until((tmp_path / "pid").exists)
    if way == "kill":
        os.kill(int(future.task["native_id"]), signal.SIGKILL)
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert caught.value.cause is FailureCause.SIGNAL
    else:
        future.cancel()
        await asyncio.wait([future])
        assert future.cancelled()
    await until(lambda: gone(int((tmp_path / "pid").read_text())))
    assert await flow.function_task(os.getpid)() > 0


async def test_time_to_end(flow: WorkflowEngine, tmp_path: Path) -> None:
    def takes_its_time(path: str) -> None:
        def ends(*_: Any) -> None:
            time.sleep(0.2)
            Path(path, "ended").touch()
            sys.exit(1)

        signal.signal(signal.SIGTERM, ends)
        Path(path, "up").touch()
        time.sleep(600)

    future = flow.function_task(takes_its_time)(str(tmp_path))
    await until((tmp_path / "up").exists)
    future.cancel()
    await asyncio.wait([future])
    assert future.cancelled() and (tmp_path / "ended").exists()


async def test_what_a_call_has_used(flow: WorkflowEngine) -> None:
    def takes(size: int) -> int:
        data = bytearray(os.urandom(1)) * size
        until = time.process_time() + 0.2 * (size > 1)
        while time.process_time() < until:
            pass
        return len(data)

    large, small = flow.function_task(takes)(100_000_000), flow.function_task(takes)(1)
    await asyncio.gather(large, small)
    assert large.task["max_rss"] > 100_000_000 > small.task["max_rss"] > 0
    assert large.task["cpu_time"] > 0.2 and small.task["cpu_time"] > 0
