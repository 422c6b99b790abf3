"""A driver that has used up its file descriptors: it waits until it has some again, or is resumed."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from asyncflow_hpc.backends.local.processes import kill_marked
from asyncflow_hpc.backends.local.taking_over import end_earlier, leave_mark
from asyncflow_hpc.errors import SessionError

from .on_slurm import Gate
from .resuming import FIRST, PBS, SLURM, WAVES, WAVES_NAMES, WAVES_RESULT, Script

BACKENDS = {
    "local": "LocalExecutionBackend(cores=8)",
    "local-script": "LocalExecutionBackend(cores=8, scripted=True)",
    "pbs": PBS,
    "slurm": SLURM,
}

ONCE = {f"{name}{end}": 1 for name in WAVES_NAMES for end in ("", "-done")}


on_each = pytest.mark.parametrize("kind", BACKENDS, indirect=True)


def use_up(pid: int) -> tuple[int, int]:
    """Leave a process not one descriptor more; returns the limits that it had."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = next(number for number in range(len(used) + 1) if number not in used)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    return resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))


# What the log says of them, beside "Too many open files".
REACHED = {
    # An end gives descriptors back, so that what it left can be read, or not.
    "local": ("no room to start",),
    "local-script": ("no room to start",),
    "pbs": ("is not submitted yet", "the queue cannot be asked"),
    "slurm": ("is not submitted yet", "the queue cannot be asked"),
}


def run_out(kind: str, root: Path, gate: Gate, driver: Script) -> tuple[int, int]:
    """Let it run out while four tasks end and others are called; returns the limits that it had."""
    driver.until_running(4)
    limits = use_up(driver.pid)
    gate.open()
    driver.until(lambda: {f"{name}-done" for name in FIRST} <= set(gate.starts()))
    driver.until(lambda: all(f"{text}" in (root / "driver.log").read_text() for text in REACHED[kind]))
    lines = (root / "driver.log").read_text().splitlines()
    for text in REACHED[kind]:
        assert any(text in line and "Too many open files" in line for line in lines), lines
    return limits


@on_each
def test_it_goes_on_when_it_has_some_again(kind: str, root: Path, gate: Gate) -> None:
    with Script(root, WAVES, gate, resume=False, backend=BACKENDS[kind], options="retries=0") as driver:
        limits = run_out(kind, root, gate, driver)
        resource.prlimit(driver.pid, resource.RLIMIT_NOFILE, limits)
        done = driver.result()
    assert (done.returncode, done.stdout) == (0, WAVES_RESULT), done.stderr
    assert gate.starts() == ONCE


@on_each
def test_killed_without_any_and_resumed(kind: str, root: Path, gate: Gate) -> None:
    with Script(root, WAVES, gate, resume=False, backend=BACKENDS[kind], options="retries=0") as driver:
        run_out(kind, root, gate, driver)
        driver.kill()
    done = Script(root, WAVES, gate, backend=BACKENDS[kind], options="retries=0").result()
    assert (done.returncode, done.stdout) == (0, WAVES_RESULT), done.stderr
    started = gate.starts()
    if kind == "local":
        # A plain command leaves no evidence, and a function that ended may not have been recorded.
        assert set(started) == set(ONCE) and max(started.values()) <= 2
    else:
        assert started == ONCE


@on_each
def test_resumed_without_any(kind: str, root: Path, gate: Gate) -> None:
    gate.open()
    first = Script(root, WAVES, gate, resume=False, backend=BACKENDS[kind], options="retries=0").result()
    assert first.stdout == WAVES_RESULT, first.stderr
    (root / "begun").unlink()
    (root / "wait").touch()
    with Script(root, WAVES, gate, backend=BACKENDS[kind], options="retries=0") as driver:
        driver.until((root / "begun").exists)
        log = root / "driver.log"
        log.write_text("")
        limits = use_up(driver.pid)
        (root / "wait").unlink()
        driver.until(lambda: "Too many open files" in log.read_text())
        resource.prlimit(driver.pid, resource.RLIMIT_NOFILE, limits)
        done = driver.result()
    # What was done is not lost because it could not be read for a while.
    assert (done.returncode, done.stdout) == (0, WAVES_RESULT), done.stderr
    assert gate.starts() == ONCE


@on_each
def test_begun_without_any(kind: str, root: Path, gate: Gate) -> None:
    gate.open()
    for name in ("bare", "wait"):
        (root / name).touch()
    with Script(root, WAVES, gate, resume=False, backend=BACKENDS[kind]) as driver:
        driver.until((root / "begun").exists)
        use_up(driver.pid)
        (root / "wait").unlink()
        refused = driver.result()
    assert refused.returncode == 1
    told = [line for line in refused.stderr.splitlines() if line.startswith("REFUSED")]
    assert len(told) == len(WAVES_NAMES)
    assert all("REFUSED asyncflow_hpc.errors" in line and "Too many open files" in line for line in told), told
    assert not gate.starts()
    # Where it could not even be recorded, there is no session yet.
    recorded = (root / "session" / "journal.jsonl").exists()
    done = Script(root, WAVES, gate, resume=recorded, backend=BACKENDS[kind]).result()
    assert (done.returncode, done.stdout) == (0, WAVES_RESULT), done.stderr
    assert gate.starts() == ONCE


def test_processes_that_nobody_can_look_for_count_as_running(tmp_path: Path) -> None:
    leave_mark(tmp_path, "mark-of-nobody")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    held: list[int] = []
    try:
        with pytest.raises(OSError):
            while True:
                held.append(os.dup(0))
        with pytest.raises(SessionError, match="nobody can say whether processes of the last driver"):
            end_earlier(tmp_path)
        assert not kill_marked("ASYNCFLOW_MARK", "mark-of-nobody")
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    end_earlier(tmp_path)
    assert kill_marked("ASYNCFLOW_MARK", "mark-of-nobody")
