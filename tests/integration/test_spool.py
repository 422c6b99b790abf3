"""Markers in a spool: each is told once, by the kernel or by a listing, whatever happens to the directory."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc.backends import spool
from asyncflow_hpc.backends.spool import SpoolWatcher, file_system_of
from asyncflow_hpc.errors import SessionError
from tests.conftest import until

FOREVER = 3600.0


class Told(Counter[tuple[str, int]]):
    """What a watcher told, and how often."""

    def __call__(self, uid: str, attempt: int) -> None:
        self[uid, attempt] += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def directory(root: Path) -> Path:
    return root / ".spool"


@pytest.fixture(params=[True, False], ids=["inotify", "listing"])
def watcher(request: pytest.FixtureRequest, directory: Path, told: Told) -> SpoolWatcher:
    """One that learns of new markers from the kernel alone, or from listings alone."""
    return SpoolWatcher(directory, told, interval=0.01, idle_interval=FOREVER, inotify=request.param)


def uid(number: int) -> str:
    return f"task.{number:06d}"


def drop(directory: Path, *names: str) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    for name in names:
        (directory / name).touch()


def drop_many(directory: Path, number: int) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    there = os.open(directory, os.O_RDONLY)
    for counted in range(number):
        os.mknod(uid(counted), dir_fd=there)
    os.close(there)


def drop_elsewhere(directory: Path, *names: str) -> None:
    """Make markers as a task's script does."""
    subprocess.run(["sh", "-c", 'cd "$0" && for name; do : > "$name"; done', directory, *names], check=True)


async def settle(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    """Wait until all that came before has been told: a marker that comes last, and one listing after it."""
    last = uid(999_999)
    drop(directory, last)
    await until(lambda: told[last, 0])
    watcher.forget(last, 0)
    await until(lambda: not (directory / last).exists())
    del told[last, 0]


async def test_the_directory_is_made_for_its_owner(watcher: SpoolWatcher, directory: Path) -> None:
    async with watcher:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("how", ["nowhere", "a file"])
async def test_a_directory_that_cannot_be_made_is_told(how: str, root: Path, told: Told) -> None:
    (root / "file").touch()
    watcher = SpoolWatcher(root / "nowhere" / ".spool" if how == "nowhere" else root / "file", told)
    threads = threading.active_count()
    with pytest.raises(SessionError, match="cannot be made"):
        await watcher.start()
    await watcher.close()
    assert threading.active_count() == threads


async def test_markers_that_were_there_are_told(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    drop(directory, uid(1), f"{uid(1)}.1", f"{uid(2)}.12")
    async with watcher:
        await until(lambda: len(told) == 3)
        await settle(watcher, directory, told)
    assert told == {(uid(1), 0): 1, (uid(1), 1): 1, (uid(2), 12): 1}


async def test_markers_of_other_processes_are_told(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    async with watcher:
        for number in range(3):
            drop_elsewhere(directory, uid(number))
            await until(lambda: told[uid(number), 0])  # noqa: B023
        await settle(watcher, directory, told)
    assert told == {(uid(number), 0): 1 for number in range(3)}


async def test_a_marker_that_is_moved_into_place_is_told(
    watcher: SpoolWatcher, directory: Path, root: Path, told: Told
) -> None:
    async with watcher:
        await settle(watcher, directory, told)
        (root / "new").touch()
        (root / "new").rename(directory / uid(1))
        await until(lambda: told)
    assert told == {(uid(1), 0): 1}


async def test_many_at_once_are_told_once_each(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    names = [uid(number) for number in range(2000)]
    async with watcher:
        writer = asyncio.create_task(asyncio.to_thread(drop_elsewhere, directory, *names))
        await until(lambda: len(told) == 2000)
        await writer
        await settle(watcher, directory, told)
    assert told == {(name, 0): 1 for name in names}


@pytest.mark.slow
async def test_a_hundred_thousand_old_ones_hold_up_nobody(
    watcher: SpoolWatcher, directory: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    def counted(names: Any) -> Any:
        nonlocal most
        most = max(most, len(names))
        return names

    list_some = spool._Directory.next_names
    monkeypatch.setattr(spool._Directory, "next_names", lambda self: counted(list_some(self)))
    drop_many(directory, 100_000)
    async with watcher:
        await until(lambda: len(told) == 100_000)
        drop_elsewhere(directory, uid(100_000))
        await until(lambda: told[uid(100_000), 0])
    assert set(told.values()) == {1}
    assert most <= 1000
    # pytest keeps the directories of its last runs.
    shutil.rmtree(directory)


async def test_odd_names_are_left_alone(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    odd = [".x", "tmp", "task.1.x", "task.000001.tmp", "task.000001~", "ü", ".nfs000000000001"]
    drop(directory, *odd)
    async with watcher:
        drop_elsewhere(directory, *[f"{name}2" for name in odd])
        os.mkdir(os.fsencode(directory) + b"/\xff")
        await settle(watcher, directory, told)
    assert told == {}
    assert len(list(directory.iterdir())) == 2 * len(odd) + 1


async def test_nothing_is_removed_unasked(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    drop(directory, uid(1))
    async with watcher:
        await settle(watcher, directory, told)
    assert [entry.name for entry in directory.iterdir()] == [uid(1)]


async def test_a_forgotten_marker_is_removed_and_told_again_if_it_comes_again(
    watcher: SpoolWatcher, directory: Path, told: Told
) -> None:
    async with watcher:
        for times in (1, 2):
            drop_elsewhere(directory, f"{uid(1)}.3", uid(2))
            await until(lambda: told[uid(1), 3] == times)  # noqa: B023
            watcher.forget(uid(1), 3)
            await until(lambda: not (directory / f"{uid(1)}.3").exists())
            await settle(watcher, directory, told)
    assert told == {(uid(1), 3): 2, (uid(2), 0): 1}
    assert [entry.name for entry in directory.iterdir()] == [uid(2)]


async def test_each_is_told_once_though_all_are_forgotten_when_told(
    watcher: SpoolWatcher, directory: Path, told: Told
) -> None:
    watcher._on_marker = lambda name, attempt: (told(name, attempt), watcher.forget(name, attempt))
    async with watcher:
        writer = asyncio.create_task(asyncio.to_thread(drop_elsewhere, directory, *[uid(n) for n in range(3000)]))
        await until(lambda: len(told) == 3000)
        await writer
        await until(lambda: not watcher._told)
        assert not list(directory.iterdir())
        assert watcher._forgotten == set()
    assert set(told.values()) == {1}


async def test_a_stale_event_tells_nothing(directory: Path, told: Told) -> None:
    """A marker that a listing told, and that was forgotten, before its event was read."""
    watcher = SpoolWatcher(directory, told, idle_interval=FOREVER, inotify=True)
    async with watcher:
        await settle(watcher, directory, told)
        drop(directory, uid(1))
        (directory / uid(1)).unlink()
        await settle(watcher, directory, told)
    assert told == {}


async def test_a_marker_that_comes_again_while_it_is_removed_is_told_again(
    watcher: SpoolWatcher, directory: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def and_make_again(path: Path) -> None:
        unlink(path)
        monkeypatch.undo()
        path.touch()
        if watcher._directory.inotify is not None:
            # The event is read before the loop knows that the marker was removed.
            read = threading.Event()
            watcher._loop.call_soon_threadsafe(watcher._loop.call_later, 0, read.set)
            read.wait()

    drop(directory, uid(1))
    async with watcher:
        await until(lambda: told)
        monkeypatch.setattr(spool.os, "unlink", and_make_again)
        watcher.forget(uid(1), 0)
        await until(lambda: told[uid(1), 0] == 2)


async def test_what_cannot_be_a_marker_cannot_be_forgotten(watcher: SpoolWatcher, root: Path) -> None:
    (root / uid(1)).touch()
    async with watcher:
        with pytest.raises(ValueError, match="marker"):
            watcher.forget(f"../{uid(1)}", 0)
        watcher.forget(uid(7), 0)
    assert (root / uid(1)).exists()


async def test_a_marker_that_cannot_be_removed_is_tried_again(
    watcher: SpoolWatcher,
    directory: Path,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries = 0

    def unlink(path: Path) -> None:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.rename(path, f"{path}.gone")

    monkeypatch.setattr(spool.os, "unlink", unlink)
    drop(directory, uid(1))
    async with watcher:
        await until(lambda: told)
        watcher.forget(uid(1), 0)
        await until(lambda: not (directory / uid(1)).exists())
    assert told == {(uid(1), 0): 1}
    assert len(warnings(caplog)) == 1


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]


@pytest.mark.parametrize("how", ["removed", "moved away"])
async def test_a_directory_that_vanishes_is_made_again(
    watcher: SpoolWatcher, directory: Path, told: Told, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async with watcher:
        drop_elsewhere(directory, uid(1))
        await until(lambda: told)
        if how == "removed":
            (directory / uid(1)).unlink()
            directory.rmdir()
        else:
            directory.rename(directory.with_name("old"))
        await until(directory.exists)
        drop_elsewhere(directory, uid(2))
        await until(lambda: told[uid(2), 0])
        await settle(watcher, directory, told)
    assert told == {(uid(1), 0): 1, (uid(2), 0): 1}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert "vanished" in "".join(warnings(caplog))


async def test_a_session_that_vanishes_and_comes_back_is_watched_again(
    watcher: SpoolWatcher, directory: Path, root: Path, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    async with watcher:
        await settle(watcher, directory, told)
        gone = root.with_name("gone")
        root.rename(gone)
        (gone / ".spool").rmdir()
        await until(lambda: warnings(caplog))
        root.mkdir()
        drop(directory, uid(1))
        await until(lambda: told)
        await settle(watcher, directory, told)
    assert told == {(uid(1), 0): 1}


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
async def test_an_error_of_the_file_system_passes(
    watcher: SpoolWatcher,
    directory: Path,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    tries = 0
    scandir = os.scandir

    def failing(path: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise OSError(number, os.strerror(number))
        return scandir(path)

    caplog.set_level(logging.INFO)
    drop(directory, uid(1))
    monkeypatch.setattr(spool.os, "scandir", failing)
    async with watcher:
        await until(lambda: told)
        await until(lambda: "can be listed again" in caplog.text)
        await settle(watcher, directory, told)
    assert told == {(uid(1), 0): 1}
    assert len(warnings(caplog)) == 1
    assert os.strerror(number) in warnings(caplog)[0]


async def test_an_error_of_the_one_who_is_told_stops_nothing(
    watcher: SpoolWatcher, directory: Path, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def raising(name: str, attempt: int) -> None:
        told(name, attempt)
        raise RuntimeError("no such task")

    watcher._on_marker = raising
    drop(directory, uid(1))
    async with watcher:
        await until(lambda: told)
        drop_elsewhere(directory, uid(2))
        await settle(watcher, directory, told)
    assert told == {(uid(1), 0): 1, (uid(2), 0): 1}
    assert "no such task" in caplog.text


def left_over() -> tuple[set[str], set[str], int]:
    descriptors = {os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if is_open(int(n))}
    return descriptors, {thread.name for thread in threading.enumerate()}, len(asyncio.all_tasks())


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def test_nothing_is_left_after_the_close(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    before = left_over()
    async with watcher:
        await settle(watcher, directory, told)
        assert left_over() != before
    assert left_over() == before
    await watcher.close()
    with pytest.raises(RuntimeError, match="once"):
        await watcher.start()


async def test_one_that_was_never_started_is_closed(watcher: SpoolWatcher, directory: Path) -> None:
    watcher.forget(uid(1), 0)
    await watcher.close()
    assert not directory.exists()


async def test_a_close_with_work_tells_nothing_more(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    before = left_over()
    drop_many(directory, 5000)
    closings = []

    def close(name: str, attempt: int) -> None:
        told(name, attempt)
        if len(told) == 1500:
            closings.append(asyncio.create_task(watcher.close()))

    watcher._on_marker = close
    async with watcher:
        watcher.forget(uid(1), 0)
        await until(lambda: closings)
        await asyncio.gather(*closings, watcher.close())
        number = len(told)
        drop(directory, uid(5000))
    assert 1500 <= len(told) == number <= 2000
    assert not (directory / uid(1)).exists()
    closings.clear()
    assert left_over() == before


async def test_what_is_forgotten_last_is_removed_by_the_close(
    watcher: SpoolWatcher, directory: Path, told: Told
) -> None:
    async with watcher:
        drop(directory, *[uid(number) for number in range(20)])
        await until(lambda: len(told) == 20)
        for number in range(20):
            watcher.forget(uid(number), 0)
            await asyncio.sleep(0)
    assert not list(directory.iterdir())


async def test_a_close_that_is_cancelled_closes(watcher: SpoolWatcher, directory: Path, told: Told) -> None:
    before = left_over()
    await watcher.start()
    closing = asyncio.create_task(watcher.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await until(lambda: left_over() == before)


@pytest.mark.parametrize("inotify", [True, False])
def test_the_end_of_the_loop_leaves_nothing(
    directory: Path, told: Told, inotify: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def careless() -> None:
        watcher = SpoolWatcher(directory, told, interval=0.01, inotify=inotify)
        await watcher.start()
        await until(lambda: told)

    drop(directory, uid(1))
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    asyncio.run(careless())
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, descriptors)
    assert caplog.records == []


def no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    import inotify_simple

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(inotify_simple, "INotify", refuse)


def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    import inotify_simple

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(inotify_simple.INotify, "add_watch", refuse)


def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)


@pytest.mark.parametrize("lack", [no_instance, no_watch, no_library])
async def test_where_the_kernel_tells_nothing_the_directory_is_listed(
    directory: Path,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lack: Callable[[pytest.MonkeyPatch], None],
) -> None:
    caplog.set_level(logging.INFO)
    lack(monkeypatch)
    watcher = SpoolWatcher(directory, told, interval=0.01, idle_interval=FOREVER, inotify=True)
    async with watcher:
        for number in range(3):
            drop_elsewhere(directory, uid(number))
            await until(lambda: told[uid(number), 0])  # noqa: B023
    assert caplog.text.count("listed often") == 1
    assert warnings(caplog) == []


async def test_nothing_is_listed_while_the_kernel_tells(
    directory: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SpoolWatcher(directory, told, interval=0, idle_interval=FOREVER, inotify=True) as watcher:
        await settle(watcher, directory, told)
        directory.rmdir()
        await until(directory.exists)
        await settle(watcher, directory, told)
        listings: list[int] = []
        monkeypatch.setattr(watcher._directory, "begin", lambda: listings.append(1))
        for number in range(20):
            drop(directory, uid(number))
            await until(lambda: told[uid(number), 0])  # noqa: B023
    # Of the end of a directory the kernel may tell in two parts.
    assert len(listings) <= 1


async def test_what_the_kernel_forgot_to_tell_is_listed(directory: Path, told: Told) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 50_000:
        pytest.skip(f"the kernel keeps {most} events before it forgets any")
    watcher = SpoolWatcher(directory, told, idle_interval=FOREVER, inotify=True)
    async with watcher:
        await settle(watcher, directory, told)
        # The loop stands still, so nobody reads the events.
        drop_many(directory, most + 2000)
        await until(lambda: len(told) == most + 2000)
        await settle(watcher, directory, told)
    assert set(told.values()) == {1}


async def test_a_rare_listing_finds_what_no_event_told(
    directory: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool._Inotify, "read", lambda self: (os.read(self.fileno(), 4096) and [], True))
    watcher = SpoolWatcher(directory, told, interval=FOREVER, idle_interval=0.01, inotify=True)
    async with watcher:
        drop_elsewhere(directory, uid(1))
        await until(lambda: told)


async def test_the_file_system_decides_who_tells(directory: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for file_system, is_asked in (("ext4", True), ("nfs4", False), (None, False)):
        monkeypatch.setattr(spool, "file_system_of", lambda *_: file_system)  # noqa: B023
        async with SpoolWatcher(directory, told, interval=0.01, idle_interval=FOREVER) as watcher:
            assert (watcher._directory.inotify is not None) is is_asked
            await settle(watcher, directory, told)


MOUNTINFO = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684096k
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard,resv_strict
30 25 0:27 / /dev/shm rw,relatime shared:3 master:1 - ramfs ramfs rw,size=24684096k
91 27 0:52 / /home rw,relatime shared:48 - autofs /etc/auto.home rw,fd=7,pgrp=1,timeout=300,indirect
92 91 0:53 / /home/ada rw,nosuid,relatime shared:49 - nfs4 filer.example.org:/export/home/ada rw,vers=4.2,rsize=1048576
120 27 0:60 / /scratch rw,relatime shared:70 - lustre 10.10.0.1@o2ib:10.10.0.2@o2ib:/scratch rw,flock,lazystatfs
121 120 0:61 / /scratch/fast\040place\134x rw,relatime shared:71 - xfs /dev/nvme0n1 rw
130 27 0:70 /sub\040volume /work rw,relatime - fuse.sshfs ada@login:/work rw,user_id=1000
131 27 0:71 / /gpfs rw,relatime shared:90 - gpfs gpfs0 rw

999 truncated
"""


@pytest.mark.parametrize(("path", "expected"), [
    ("/", "ext4"), ("/root/x", "ext4"), ("/process", "ext4"), ("/proc/self", "proc"), ("/dev/shm", "ramfs"),
    ("/home/ada/run", "nfs4"), ("/home/ada", "nfs4"), ("/home/adam", "autofs"), ("/scratch", "lustre"),
    ("/scratch/fast place\\x/run", "xfs"), ("/scratch/fast place", "lustre"), ("/work/a", "fuse.sshfs"),
    ("/gpfs/a", "gpfs"),
])  # fmt: skip
def test_the_mount_point_that_is_nearest_tells_the_file_system(path: str, expected: str) -> None:
    assert file_system_of(path, MOUNTINFO) == expected


def test_no_mount_point_tells_nothing() -> None:
    assert file_system_of("/home", "") is None
    assert file_system_of("/home", "27 1 254:0 / /other rw - ext4 /dev/vda rw") is None


def test_this_machine_tells() -> None:
    assert file_system_of("/proc/self", Path("/proc/self/mountinfo").read_text()) == "proc"
