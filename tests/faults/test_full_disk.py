"""A full disk below the session: what happened is known all the same, and a resume does the rest when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow_hpc.events import TaskEnded
from asyncflow_hpc.journal import read_events

from .disks import Disk, mounted
from .on_slurm import Gate, needs_root
from .resuming import FIRST, PBS, WAVES, WAVES_NAMES, WAVES_RESULT, Script

pytestmark = needs_root

BACKENDS = {
    "local": "LocalExecutionBackend(cores=8)",
    "local-script": "LocalExecutionBackend(cores=8, scripted=True)",
    "pbs": PBS,
}


on_each = pytest.mark.parametrize("kind", BACKENDS, indirect=True)


@pytest.fixture
def disk(root: Path) -> Iterator[Disk]:
    place = root / "session"
    place.mkdir(0o700)
    with mounted(place) as made:
        yield made


def ended(disk: Disk) -> list[TaskEnded]:
    return [event for event in read_events(disk.place) if isinstance(event, TaskEnded)]


def refused(said: str) -> list[str]:
    """What the script has said of its tasks that failed: each of them in an error of ours that names the reason."""
    told = [line for line in said.splitlines() if line.startswith("REFUSED")]
    assert all(line.startswith("REFUSED asyncflow_hpc.errors ") for line in told), told
    return told


def script(root: Path, gate: Gate, kind: str, resume: bool = True) -> Script:
    if kind == "local":
        # So many that the room which is set apart in the journal does not do for them.
        (root / "many").touch()
    return Script(root, WAVES, gate, resume=resume, backend=BACKENDS[kind], options="retries=0")


def resumed_when_there_is_room(kind: str, root: Path, gate: Gate, disk: Disk) -> None:
    """Bring all to its end; what had ended is not run again, but for functions whose result there was no room for."""
    disk.make_room()
    (root / "hold").unlink(missing_ok=True)
    done = script(root, gate, kind).result()
    if kind == "pbs" and done.returncode:
        # The job of such a function ended when nobody was there, and it is now known to have failed.
        assert len(refused(done.stderr)) <= 2
        done = script(root, gate, kind).result()
    assert (done.returncode, done.stdout) == (0, WAVES_RESULT), done.stderr
    times = {name: gate.starts()[f"{name}-done"] for name in WAVES_NAMES}
    away = {"call0", "call1"} if kind != "local" else set()
    assert {name for name in times if times[name] != 1} <= away
    assert max(times.values()) <= 2
    assert all(times == 1 for name, times in gate.starts().items() if name.startswith("more"))


@on_each
def test_full_while_tasks_run_and_others_are_called(kind: str, root: Path, gate: Gate, disk: Disk) -> None:
    with script(root, gate, kind, resume=False) as driver:
        driver.until_running(4)
        disk.fill()
        gate.open()
        done = driver.result()
    told = refused(done.stderr)
    assert done.returncode == 1 and any("No space left on device" in line for line in told), done.stderr
    assert kind != "local" or any(line.startswith("REFUSED asyncflow_hpc.errors JournalError") for line in told)
    known, did = set(done.stdout.split()), {name for name in WAVES_NAMES if gate.starts()[f"{name}-done"]}
    # The results of functions that run away from the driver are files; the others of the second wave may fit in.
    assert did - known == (set() if kind == "local" else {"call0", "call1"}), done.stderr
    assert known <= did and known >= {"work0", "work1"} and did >= set(FIRST)
    assert [event.state for event in ended(disk)].count("DONE") == 1 + len(known)
    resumed_when_there_is_room(kind, root, gate, disk)


@on_each
def test_full_while_a_driver_dies(kind: str, root: Path, gate: Gate, disk: Disk) -> None:
    (root / "hold").touch()
    with script(root, gate, kind, resume=False) as driver:
        driver.until_running(4)
        disk.fill()
        gate.open()
        driver.until(lambda: {f"{name}-done" for name in FIRST} <= set(gate.starts()))
        # What a local driver has not recorded has not happened.
        driver.until(lambda: kind == "pbs" or len(ended(disk)) > len(FIRST))
        driver.kill()
    resumed_when_there_is_room(kind, root, gate, disk)


@on_each
def test_full_when_it_is_resumed(kind: str, root: Path, gate: Gate, disk: Disk) -> None:
    with script(root, gate, kind, resume=False) as driver:
        driver.until_running(4)
        driver.kill()
    disk.fill()
    (root / "begun").unlink()
    with script(root, gate, kind) as driver:
        # Local processes of the dead driver have been ended by now.
        driver.until((root / "begun").exists)
        gate.open()
        full = driver.result()
    assert full.returncode == 1
    assert any("No space left on device" in line for line in refused(full.stderr)), full.stderr
    known, did = set(full.stdout.split()), {name for name in WAVES_NAMES if gate.starts()[f"{name}-done"]}
    assert known <= did and did - known <= (set() if kind == "local" else {"call0", "call1"}), full.stderr
    assert [event.state for event in ended(disk)].count("DONE") == 1 + len(known)
    resumed_when_there_is_room(kind, root, gate, disk)
