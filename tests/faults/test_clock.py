"""A wall clock that is set between two drivers of a session, or under one: nothing is lost, and nothing runs twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncflow_hpc.events import SessionOpened, TaskEnded, TaskReady
from asyncflow_hpc.journal import read_events

from .clock import DAY, HOUR, Clock
from .on_slurm import Gate
from .resuming import LOCAL, PBS, RESULTS, TASKS, Driver, Script

ONCE = {f"{name} {what}": 1 for name in TASKS for what in ("start", "done")}

# A line at which some tasks have ended, and others have been handed over.
POINT = {"local": "6 after", "local-script": "6 after", "pbs": "12 after", "slurm": "12 after"}


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("local", 0, -HOUR),
        ("local", 0, DAY),
        ("local-script", DAY, 0),
        ("local-script", -HOUR, 0),
        ("pbs", DAY, 0),
        ("slurm", DAY, 0),
    ],
    indirect=["kind"],
)
def test_resumed_by_another_clock(kind: str, root: Path, clock: Clock, first: float, second: float) -> None:
    driver = Driver(kind, root, clock.environment)
    clock.set(first)
    assert driver.run(POINT[kind]).returncode == -9, driver.said
    flying = driver.in_flight()
    assert flying
    clock.set(second)
    done = driver.run()
    assert (done.returncode, done.stdout) == (0, RESULTS), done.stderr
    opened = [event.time for event in driver.events() if isinstance(event, SessionOpened)]
    assert abs(opened[1] - opened[0] - (second - first)) < HOUR / 2
    log = driver.log()
    if kind in ("pbs", "slurm"):
        assert log == ONCE
    else:
        # What ran when its driver died is ended, and run again.
        assert set(log) == set(ONCE)
        assert sum(log[f"{name} done"] - 1 for name in TASKS) <= len(flying)
    clock.set(first)
    assert driver.run().stdout == RESULTS
    assert driver.log() == log


STEPS = """\
from asyncflow_hpc import RetryPolicy
from asyncflow_hpc.errors import TaskFailedError

@flow.executable_task
async def held():
    return GATE

@flow.executable_task
async def again():
    mark = shlex.quote(str(PLACE / "mark"))
    return f"echo again >>{shlex.quote(str(LOG))}; [ -e {mark} ] && echo again || {{ >{mark}; exit 1; }}"

@flow.executable_task
async def late():
    return f"echo late >>{shlex.quote(str(LOG))}; sleep 600"

print(await held(task_description={"walltime": 600}), end="")
print(await again(task_description={"retries": RetryPolicy(2, delay=0.5)}), end="")
if not RESUME:
    try:
        await late(task_description={"walltime": 1})
    except TaskFailedError as error:
        print(error.cause)
"""


@pytest.mark.parametrize(
    ("backend", "step"), [(LOCAL, -HOUR), (LOCAL, DAY), (PBS, -DAY)], ids=["local-back", "local-on", "pbs-back"]
)
def test_set_under_a_driver(
    request: pytest.FixtureRequest, root: Path, gate: Gate, clock: Clock, backend: str, step: float
) -> None:
    if backend == PBS:
        request.getfixturevalue("pbs")
    with Script(root, STEPS, gate, resume=False, backend=backend, environment=clock.environment) as driver:
        driver.until_running()
        clock.set(step)
        gate.open()
        done = driver.result()
    # The walltime that was not over is not, the one that is over is, and the delay of the retry has passed.
    assert done.stdout == "held\nagain\nWALLTIME\n", done.stderr
    events = list(read_events(root / "session"))
    assert isinstance(events[1], TaskReady)
    ended = next(event.time for event in events if isinstance(event, TaskEnded))
    assert abs(ended - events[1].time - step) < HOUR / 2
    clock.set(0)
    again = Script(root, STEPS, gate, backend=backend, environment=clock.environment).result()
    assert again.stdout == "held\nagain\n", again.stderr
    assert gate.starts() == {"held": 1, "again": 2, "late": 1}
