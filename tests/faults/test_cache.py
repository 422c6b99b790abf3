"""A cache in trouble: it costs a task no more than that it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.cache import Cache
from asyncflow_hpc.errors import ConfigurationError
from asyncflow_hpc.events import TaskEnded
from asyncflow_hpc.journal import read_events
from tests.unit.test_cache import entry, key, task

from .disks import mounted
from .on_slurm import Gate, needs_root
from .resuming import HELD, LOCAL, Script

COMMAND = "echo out; echo ran >>../../ran.log"


async def ran(root: Path, uid: str, cache: Path) -> tuple[str, int]:
    """What `COMMAND` says in a session of its own, and how often it has run in all."""
    async with WorkflowEngine.create(LocalExecutionBackend(cores=1), work_dir=root, uid=uid, cache=cache) as flow:

        @flow.executable_task
        async def work() -> str:
            return COMMAND

        said = await work()
    return said, times(root)


def times(root: Path) -> int:
    """How often the command has run."""
    log = root / "ran.log"
    return len(log.read_text().split()) if log.exists() else 0


def test_two_drivers_that_end_the_same_task_at_once(root: Path, gate: Gate) -> None:
    places = [root / name for name in ("one", "two", "three")]
    for place in places:
        place.mkdir()
    options = f"cache={str(root / 'cache')!r}"
    drivers = [Script(place, HELD, gate, backend=LOCAL, options=options) for place in places[:2]]
    with drivers[0], drivers[1]:
        drivers[0].until_running(2)
        gate.open()
        assert [driver.result().stdout for driver in drivers] == ["held\n"] * 2
    assert len(list((root / "cache").iterdir())) == 1
    third = Script(places[2], HELD, gate, backend=LOCAL, options=options).result()
    assert third.stdout == "held\n", third.stderr
    assert "has the cached result of" in third.stderr
    assert gate.starts() == {"held": 2}


def test_an_entry_is_whole_however_many_write_it(tmp_path: Path) -> None:
    cache, written = Cache(tmp_path / "cache"), entry(tmp_path, stdout="x" * 200_000)
    cache.write(written)
    done = threading.Event()

    def write() -> int:
        times = 0
        while not done.is_set():
            cache.write(written)
            times += 1
        return times

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write) for _ in range(3)]
        try:
            for _ in range(200):
                assert cache.find(task()) == written
        finally:
            done.set()
    assert all(writer.result() > 0 for writer in writers)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [key(1)]


@needs_root
async def test_a_full_disk_below_the_cache(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = root / "small"
    place.mkdir()
    with mounted(place) as disk:
        cache = place / "cache"
        cache.mkdir(0o700)
        disk.fill()
        assert await ran(root, "one", cache) == ("out\n", 1)
        assert "the result of" in caplog.text and "No space left on device" in caplog.text
        assert not list(cache.iterdir())
        disk.make_room()
        assert await ran(root, "two", cache) == ("out\n", 2)
        assert await ran(root, "three", cache) == ("out\n", 2)


class Trap:
    """Shows when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@needs_root
@pytest.mark.parametrize("whose", ["entry", "session"])
def test_what_belongs_to_another_user_is_not_loaded(
    tmp_path: Path, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cache, asked = Cache(tmp_path / "cache"), {**task(), "function": print}
    cache.write(entry(tmp_path, value=pickle.dumps(Trap(str(tmp_path / "sprung")))))
    shutil.chown(tmp_path / ("cache" if whose == "entry" else whose), "nobody" if whose == "session" else "root")
    if whose == "entry":
        shutil.chown(tmp_path / "cache" / key(1), "nobody")
    assert cache.find(asked) is None
    assert "yours that only you can write" in caplog.text
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "cache" / key(1)).exists()


@needs_root
def test_a_cache_of_another_user_is_refused(tmp_path: Path) -> None:
    Cache(tmp_path / "cache").write(entry(tmp_path))
    shutil.chown(tmp_path / "cache", "nobody")
    with pytest.raises(ConfigurationError, match=r"belongs to user 65534.*choose one of your own"):
        Cache(tmp_path / "cache")


@pytest.mark.parametrize("known", [False, True], ids=["not in it", "in it"])
async def test_cancelled_while_it_is_looked_up(root: Path, known: bool) -> None:
    cache, loop, release = root / "cache", asyncio.get_running_loop(), threading.Event()
    if known:
        assert await ran(root, "one", cache) == ("out\n", 1)
    loop.set_default_executor(ThreadPoolExecutor(1))
    async with WorkflowEngine.create(LocalExecutionBackend(cores=1), work_dir=root, uid="two", cache=cache) as flow:

        @flow.executable_task
        async def work() -> str:
            return COMMAND

        @flow.executable_task
        async def other() -> str:
            return "echo other"

        assert await other() == "other\n"
        waits = loop.run_in_executor(None, release.wait)
        future = work()
        while future.task["state"] != "SUBMITTED":
            await asyncio.sleep(0.01)
        assert future.cancel()
        assert not future.done()
        release.set()
        await waits
        with pytest.raises(asyncio.CancelledError):
            await future
        assert await other() == "other\n"
    assert times(root) == known
    told = [event.state for event in read_events(root / "two") if isinstance(event, TaskEnded)]
    assert told == ["DONE", "DONE" if known else "CANCELED", "DONE"]
    # It is not taken for one that may still run.
    assert await ran(root, "three", cache) == ("out\n", 1)
