"""A driver that is killed at any point, and resumed: the same results, and nothing done twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .resuming import RESULTS, TASKS, Driver

# Lines that an undisturbed driver of the workflow writes on a backend whose tasks end with it: its own, two for each
# task, and its end.
LINES = 2 + 2 * len(TASKS)

POINTS = [f"{number} {when}" for number in range(1, LINES + 1) for when in ("before", "after")]


@pytest.fixture(scope="module", params=["local", "local-script"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_undisturbed(kind: str, root: Path) -> None:
    driver = Driver(kind, root)
    done = driver.run()
    assert (done.returncode, done.stdout) == (0, RESULTS), done.stderr
    assert set(driver.log().values()) == {1}
    assert len(driver.events()) == LINES
    shutil.rmtree(root / "session" / "task.000001")
    # What is missing is made again, and with it nothing else.
    again = driver.run()
    assert (again.returncode, again.stdout) == (0, RESULTS), again.stderr
    assert driver.log()["a done"] == 2
    assert sum(driver.log().values()) == 2 * len(TASKS) + 2


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_line_of_the_journal(kind: str, root: Path, point: str) -> None:
    driver = Driver(kind, root)
    killed = driver.run(point)
    assert killed.returncode == -9, killed.stderr
    flying = len(driver.in_flight()) if (root / "session" / "journal.jsonl").exists() else 0
    done = driver.run()
    assert (done.returncode, done.stdout) == (0, RESULTS), done.stderr
    log = driver.log()
    assert {f"{name} done" for name in TASKS} <= set(log)
    # What ran when the driver died, and had not yet left what says how it ended, is run again: a plain command leaves
    # nothing, a function its answer, a script its record.
    twice = [line for line, times in log.items() if line.endswith(" done") and times > 1]
    assert len(twice) <= flying, log
    assert all(times <= 2 for times in log.values())
    assert driver.run().stdout == RESULTS
    assert driver.log() == log
