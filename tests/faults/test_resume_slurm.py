"""A driver of Slurm jobs that is killed, and resumed: its jobs run on meanwhile, and none runs twice."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import until

from .on_slurm import Gate, cluster, on_slurm
from .resuming import HELD, RESULTS, SLURM, TASKS, Driver, Script

pytestmark = on_slurm

# Its own first and last line, and four for each task: handed over, submitted, running, ended.
LINES = 2 + 4 * len(TASKS)

ONCE = {f"{name} {what}": 1 for name in TASKS for what in ("start", "done")}

# Drivers at the same time; they mostly wait.
AT_ONCE = 6


def kill_and_resume(place: Path, point: str) -> str:
    """Say what is wrong after a driver was killed at a line of its journal and resumed; "" where nothing is."""
    place.mkdir()
    driver = Driver("slurm", place)
    killed, done = driver.run(point), driver.run()
    if killed.returncode != -9:
        return f"{point}: not killed, but {killed.returncode}: {killed.stderr}"
    if (done.returncode, done.stdout) != (0, RESULTS):
        return f"{point}: {done.returncode} {done.stdout} {done.stderr}"
    return "" if driver.log() == ONCE else f"{point}: {dict(driver.log())}\n{killed.stderr}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_line_of_the_journal(root: Path, when: str) -> None:
    points = [f"{number} {when}" for number in range(1, LINES + 1)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = list(pool.map(lambda point: kill_and_resume(root / point, point), points))
    assert not any(wrong), "\n".join(filter(None, wrong))


def queue() -> list[str]:
    """Ids of the jobs that have not ended."""
    return subprocess.run(
        ["squeue", "--me", "-h", "-o", "%i"], check=True, capture_output=True, text=True
    ).stdout.split()


MANY = """\
@flow.executable_task
async def work(number):
    log, gate = shlex.quote(str(LOG)), shlex.quote(str(PLACE / "gate.open"))
    wait = f"until [ -e {gate} ]; do sleep 0.5; done; " if number % 2 else ""
    return f"echo {number} >>{log}; {wait}echo {number}"

results = await asyncio.gather(*(work(number) for number in range(200)))
print(sum(map(int, results)))
"""


@pytest.mark.slow
def test_two_hundred_jobs_and_a_driver_that_is_killed(root: Path, gate: Gate) -> None:
    with Script(root, MANY, gate, backend=SLURM) as first:
        first.until_running(40)
        first.kill()
    gate.open()
    second = Script(root, MANY, gate, backend=SLURM)
    done = second.result()
    assert done.stdout == f"{sum(range(200))}\n", done.stderr
    assert gate.starts() == {str(number): 1 for number in range(200)}


def test_jobs_that_are_left_to_a_resume(root: Path, gate: Gate) -> None:
    with Script(root, HELD, gate, backend=SLURM, options='on_exit="detach"') as first:
        first.until_running()
        first.signal(signal.SIGTERM)
        assert first.result().returncode == -signal.SIGTERM
    assert len(queue()) == 1
    gate.open()
    assert Script(root, HELD, gate, backend=SLURM).result().stdout == "held\n"
    assert gate.starts() == {"held": 1}


async def test_resumed_while_the_controller_is_down(root: Path, gate: Gate, controller: None) -> None:
    with Script(root, HELD, gate, backend=SLURM) as first:
        first.until_running()
        first.kill()
    cluster("stop-controller")
    with Script(root, HELD, gate, backend=SLURM) as second:
        gate.open()
        # Its record is evidence enough.
        done = second.result()
    assert done.stdout == "held\n", done.stderr
    assert gate.starts() == {"held": 1}


async def test_jobs_that_nobody_calls_any_more_are_ended(root: Path, gate: Gate) -> None:
    with Script(root, HELD, gate, backend=SLURM) as first:
        first.until_running()
        first.kill()
    done = Script(root, "print('nothing to do')", gate, backend=SLURM).result()
    assert (done.returncode, done.stdout) == (0, "nothing to do\n"), done.stderr
    assert "not called any more, so ended: task.000001" in done.stderr
    await until(lambda: not queue())
