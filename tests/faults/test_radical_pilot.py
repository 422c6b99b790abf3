"""Pilots that end before their tasks, and drivers that end before their pilots: on the real RADICAL-Pilot."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.radical_pilot import PilotPool, RadicalExecutionBackend
from asyncflow_hpc.backends.radical_pilot.environment import can_run
from asyncflow_hpc.errors import (
    ConfigurationError,
    SubmitError,
    TaskDescriptionError,
    TaskFailedError,
    UnsupportedTaskError,
)
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing.leftovers import processes_here
from tests.conftest import until

from .on_slurm import Gate, running, shell
from .resuming import BEGUN, DONE_IN_PILOT, HELD, IN_PILOT, Script

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not can_run(), reason="RADICAL-Pilot is not installed, or in an environment whose path it cannot take"
    ),
]

SCRIPT = Path(__file__).parent / "scripts" / "mixed_in_pilot.py"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for RADICAL-Pilot; at the end nothing may run in it."""
    path = tmp_path / "pilots"
    path.mkdir()
    yield path
    left = processes_of(path)
    for process in left:
        process.kill()
    assert not left, f"processes left behind: {left}"


def processes_of(place: Path) -> list[psutil.Process]:
    """The processes of a session of RADICAL-Pilot, and what they have started: those that work below a directory."""

    def belongs(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and f"{process.cwd()}/".startswith(f"{place}/")
        except (psutil.Error, OSError):
            return False

    return [process for process in psutil.process_iter() if belongs(process)]


def agent_of(pool: PilotPool, number: int) -> list[psutil.Process]:
    """The agent of a pilot."""
    return list(pool._pilots.values())[number].agent


async def test_pilot_killed_and_pilot_cancelled(root: Path, place: Path) -> None:
    async with (
        PilotPool({"cores": 2}, pilots=2, directory=place) as pool,
        WorkflowEngine.create(RadicalExecutionBackend(pool=pool), work_dir=root, retries=0) as flow,
    ):
        await until(lambda: list(pool.states.values()) == ["PMGR_ACTIVE"] * 2)
        assert flow.backend.get_nodelist() == ["localhost"] * 2
        command = shell(flow)
        with pytest.raises(UnsupportedTaskError, match="3 cores"):
            await command("true", task_description={"ranks": 3})
        evidence = command("echo done >result; sleep 600 & exit 0")
        assert await evidence == ""
        # A type that is wrong would stop the agent for good.
        with pytest.raises(TaskDescriptionError, match="'priority' of RADICAL-Pilot must be int"):
            await command("true", task_description={"radical_pilot": {"priority": "high"}})
        assert await command("echo $X", task_description={"priority": 3, "pre_launch": ["export X=1"]}) == "1\n"
        tasks = [command("sleep 600 & touch up; wait") for _ in range(4)]
        await running(*tasks)
        await until(lambda: all((Path(task.task["sandbox"]) / "up").exists() for task in tasks))
        agent_of(pool, 0)[0].send_signal(signal.SIGKILL)
        await until(lambda: sum(task.done() for task in tasks) == 2)
        ended = [task for task in tasks if task.done()]
        for task in ended:
            error = task.exception()
            assert isinstance(error, TaskFailedError) and error.cause is FailureCause.NODE_FAILURE, error
            assert not processes_here(Path(task.task["sandbox"]))
        going_on = [task for task in tasks if not task.done()]
        waiting = [command("sleep 600") for _ in range(300)]
        await until(lambda: all(task.task.get("sandbox") for task in waiting))
        cancelling = asyncio.get_running_loop().run_in_executor(None, pool.cancel_pilots)
        await asyncio.wait([*going_on, *waiting])
        await cancelling
        assert {task.state for task in [*going_on, *waiting]} == {"CANCELLED"}
        assert not processes_here(flow.session_dir)
        with pytest.raises(SubmitError, match="no pilot is left"):
            await command("true")


async def test_walltime_of_a_pilot_and_another_pilot(root: Path, place: Path) -> None:
    gate = Gate(root)
    backend = RadicalExecutionBackend({"cores": 2, "runtime": 0.2}, on_pilot_end="resubmit", directory=place)
    async with WorkflowEngine.create(backend, work_dir=root, retries=0) as flow:
        command = shell(flow)
        early = command(gate.command("early"))
        gate.open()
        await early
        (root / "gate.open").unlink()

        @flow.function_task
        async def waits(path: str, given: list[int]) -> list[int]:
            while not Path(path).exists():
                await asyncio.sleep(0.1)
            return given

        given = [1]
        begun = [command(gate.command("begun")), waits(str(root / "gate.open"), given)]
        await running(*begun)
        given.append(2)
        waiting = [command(gate.command(f"waiting{number}")) for number in range(4)]
        await until(lambda: len(backend.pool.states) == 2)
        gate.open()
        assert await asyncio.gather(*begun, *waiting) == ["", [1], "", "", "", ""]
        assert gate.starts() == {"early": 1, "begun": 2} | {f"waiting{number}": 1 for number in range(4)}
        assert begun[0].task["sandbox"].endswith(".1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_driver_ended(root: Path, place: Path, number: signal.Signals) -> None:
    words = [sys.executable, str(SCRIPT), str(place)]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)
    assert driver.stdout is not None and driver.stderr is not None
    assert driver.stdout.readline() == "running\n", driver.stderr.read()
    assert processes_of(place)
    driver.send_signal(number)
    _, errors = driver.communicate()
    while processes_of(place) or processes_here(place):
        time.sleep(0.1)
    assert driver.returncode == -number, errors


def holder_of(place: Path) -> int:
    """The process that holds the session of RADICAL-Pilot, which leads the group of all that it needs on this side."""
    pids = []
    for process in processes_of(place):
        # Some live for a moment only.
        with suppress(psutil.Error):
            if "session_process" in "".join(process.cmdline()):
                pids.append(process.pid)
    [leader] = [pid for pid in pids if os.getpgid(pid) == pid]
    return leader


def kill_all_but_pilots(driver: Script, place: Path) -> None:
    """Let a driver die as if with its machine, from which its pilots are spared."""
    driver.signal(signal.SIGSTOP)
    os.killpg(holder_of(place), signal.SIGKILL)
    driver.kill()


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_resumed_while_the_old_pilot_runs(root: Path, place: Path) -> None:
    gate = Gate(root)
    backend = f"RadicalExecutionBackend({{'cores': 2}}, directory={str(place)!r})"
    with Script(root, IN_PILOT, gate, backend=backend) as first:
        await until(lambda: first.still_runs() and {"late", "held"} <= set(gate.starts()))
        await until(lambda: first.still_runs() and len(list((root / "session").glob("task.*/.asyncflow/run.sh"))) == 6)
        kill_all_but_pilots(first, place)
    (root / "late.open").touch()
    await until(lambda: gate.ends()["late"])
    # It goes on without a driver.
    await until(lambda: gate.starts()["wait0"] + gate.starts()["wait1"])
    [old] = place.iterdir()
    with Script(root, IN_PILOT, gate, backend=backend) as second:
        await until(lambda: second.still_runs() and gate.starts()["held"] == 2)
        assert not old.exists()
        second.kill()
    # Now the session of RADICAL-Pilot is about to close when the next driver comes.
    with Script(root, IN_PILOT, gate, backend=backend) as third:
        await until(lambda: third.still_runs() and gate.starts()["held"] == 3)
        gate.open()
        done = third.result()
    assert done.stdout == "done\n,49,late\n,held\n,wait0\n,wait1\n\n", done.stderr
    assert gate.ends() == dict.fromkeys(("done", "late", "held", "wait0", "wait1"), 1)
    starts = gate.starts()
    assert starts["done"] == starts["square"] == starts["late"] == 1, starts
    assert starts["held"] == 3
    assert list(place.iterdir()) == []
    # The runner alone stays.
    assert all(path.name.startswith("runner.") for path in (root / "session" / ".asyncflow").glob("*"))


def pilots_in(place: Path) -> list[list[psutil.Process]]:
    """The processes of each pilot of a driver, but for its tasks."""
    found = []
    for path in sorted(place.glob("*/*/*/*/asyncflow.job")):
        job = int(path.read_text())
        found.append([process for process in psutil.process_iter() if session_of(process) == job])
    return found


def session_of(process: psutil.Process) -> int | None:
    with suppress(psutil.Error, OSError):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return os.getsid(process.pid)
    return None


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_resumed_after_a_pilot_was_replaced(root: Path, place: Path) -> None:
    gate = Gate(root)
    # All run at once: which of them is first on another pilot, nobody says.
    late, others = "late", {"held", "wait0", "wait1"}
    backend = f"RadicalExecutionBackend({{'cores': 4}}, on_pilot_end='resubmit', directory={str(place)!r})"
    with Script(root, IN_PILOT, gate, backend=backend) as first:
        await until(lambda: first.still_runs() and {late, *others} <= set(gate.starts()))
        [pilot] = pilots_in(place)
        for process in pilot:
            process.kill()
        await until(lambda: first.still_runs() and all(gate.starts()[name] == 2 for name in (late, *others)))
        kill_all_but_pilots(first, place)
    (root / "late.open").touch()
    await until(lambda: gate.ends()[late])
    ended, other = pilots_in(place)
    assert other and not ended
    with Script(root, IN_PILOT, gate, backend=backend) as second:
        await until(lambda: second.still_runs() and all(gate.starts()[name] == 3 for name in others))
        assert not [process for process in other if session_of(process) is not None]
        assert len(pilots_in(place)) == 1
        gate.open()
        done = second.result()
    assert done.stdout == "done\n,49,late\n,held\n,wait0\n,wait1\n\n", done.stderr
    assert gate.ends() == dict.fromkeys(("done", "late", "held", "wait0", "wait1"), 1)
    assert gate.starts() == {"done": 1, "square": 1, late: 2, **dict.fromkeys(others, 3)}
    assert list(place.iterdir()) == []
    # The runner alone stays.
    assert all(path.name.startswith("runner.") for path in (root / "session" / ".asyncflow").glob("*"))


def path_with(directory: Path, starter: str) -> str:
    """A search path on which what starts a pilot does something else."""
    directory.mkdir()
    (directory / "setsid").write_text(f"#!/bin/sh\n{starter}\n")
    (directory / "setsid").chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


ON_FIRE = "echo 'ERROR: this node is on fire' >&2; exit 3"


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_resumed_when_all_is_done(root: Path, place: Path, tmp_path: Path) -> None:
    gate = Gate(root)
    backend = f"RadicalExecutionBackend({{'cores': 2}}, directory={str(place)!r})"
    no_pilots = {"PATH": path_with(tmp_path / "bin", ON_FIRE)}
    with Script(root, DONE_IN_PILOT, gate, backend=backend) as first:
        await until(lambda: first.still_runs() and (root / "done").exists())
        kill_all_but_pilots(first, place)
    assert processes_of(place)
    gate.open()
    second = Script(root, DONE_IN_PILOT, gate, backend=backend, environment=no_pilots).result()
    assert (second.returncode, second.stdout) == (0, "command\n,49\n"), second.stderr
    assert not processes_of(place)
    assert list(place.iterdir()) == []
    # The runner alone stays.
    assert all(path.name.startswith("runner.") for path in (root / "session" / ".asyncflow").glob("*"))
    # Tasks that are to run all need one.
    more = DONE_IN_PILOT + 'await asyncio.gather(command("more"), command("and more"))\n'
    third = Script(root, more, gate, backend=backend, environment=no_pilots).result()
    assert (third.returncode, third.stdout) == (1, "command\n,49\n")
    assert "ConfigurationError" in third.stderr and "this node is on fire" in third.stderr
    with Script(root, more, gate, backend=backend) as fourth:
        # Longer than a driver may take to end.
        await until(lambda: fourth.still_runs() and gate.starts()["more"])
        done = fourth.result()
    assert (done.returncode, done.stdout) == (0, "command\n,49\n"), done.stderr
    assert gate.starts() == dict.fromkeys(("command", "square", "more", "and-more"), 1)


HANGS = "exec sleep 600"


async def test_a_task_that_waited_for_a_pilot_and_is_not_called_any_more(
    root: Path, place: Path, tmp_path: Path
) -> None:
    gate = Gate(root)
    assert Script(root, BEGUN, gate).result().returncode == 0
    more = {
        "backend": f"RadicalExecutionBackend({{'cores': 1}}, directory={str(place)!r})",
        "environment": {"PATH": path_with(tmp_path / "bin", HANGS)},
    }
    with Script(root, HELD, gate, **more) as first:
        await until(lambda: first.still_runs() and list((root / "session").glob(".asyncflow/*.pilots")))
        first.kill()
    done = Script(root, "print('nothing to do')", gate, **more).result()
    assert (done.returncode, done.stdout) == (0, "nothing to do\n"), done.stderr
    assert "not called any more, so ended: task.000002" in done.stderr
    assert "starting RADICAL-Pilot" not in done.stderr
    assert list(place.iterdir()) == []


async def test_a_task_that_is_cancelled_while_the_pilot_of_a_resume_starts(
    root: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Script(root, BEGUN, Gate(root)).result().returncode == 0
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", HANGS))
    backend = RadicalExecutionBackend({"cores": 1}, directory=place)
    async with WorkflowEngine.create(backend, resume=root / "session") as flow:
        command = shell(flow)
        cancelled, waits = command("echo cancelled"), command("echo waits")
        await until(lambda: backend.pool.states)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled() and not waits.done()
    assert waits.cancelled()
    assert list(place.iterdir()) == []


async def test_bootstrapper_that_fails(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", ON_FIRE))
    with pytest.raises(ConfigurationError, match="this node is on fire"):
        await RadicalExecutionBackend({"cores": 1}, directory=place)


async def test_resource_that_nobody_knows(place: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere"):
        await RadicalExecutionBackend({"resource": "nowhere.at_all", "cores": 1}, directory=place)
