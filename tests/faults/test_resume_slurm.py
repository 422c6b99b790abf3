"""A driver of Slurm jobs that is killed, and resumed: its jobs run on meanwhile, and none runs twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .on_slurm import on_slurm
from .resuming import RESULTS, TASKS, Driver

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
