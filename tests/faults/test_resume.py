"""A driver that is killed at any point, and resumed: the same results, and nothing done twice."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from .on_slurm import Gate
from .resuming import (
    CHAIN,
    FAILS,
    FORKS,
    FULL,
    HELD,
    LARGE,
    MOVED,
    READS,
    RESULTS,
    STREAM,
    TASKS,
    TWO_BACKENDS,
    TWO_ENGINES,
    Driver,
    Script,
)

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


def test_killed_again_and_again_also_while_it_resumes(kind: str, root: Path) -> None:
    driver = Driver(kind, root)
    for number in (3, 4, 2, 5, 4):
        assert driver.run(f"{number} after").returncode == -9
    done = driver.run()
    assert (done.returncode, done.stdout) == (0, RESULTS), done.stderr
    before = driver.log()
    assert driver.run().stdout == RESULTS
    assert driver.log() == before


def test_two_drivers_at_once(root: Path, gate: Gate) -> None:
    with Script(root, HELD, gate) as first:
        first.until_running()
        second = Script(root, HELD, gate).result()
        assert second.returncode == 1
        assert f"is driven by process {first.pid} on" in second.stderr
        gate.open()
        assert first.result().stdout == "held\n"
    assert gate.starts() == {"held": 1}


def test_a_session_that_is_there_is_not_begun_anew(root: Path, gate: Gate) -> None:
    gate.open()
    assert Script(root, HELD, gate).result().stdout == "held\n"
    again = Script(root, HELD, gate, resume=False).result()
    assert again.returncode == 1
    assert "is there already: resume=" in again.stderr
    assert Script(root, HELD, gate).result().stdout == "held\n"
    assert gate.starts() == {"held": 1}


def test_what_runs_when_the_driver_dies_is_ended_before_it_runs_again(root: Path, gate: Gate) -> None:
    with Script(root, HELD, gate) as first:
        first.until_running()
        first.kill()
    second = Script(root, HELD, gate)
    with second:
        second.until_running(2)
        gate.open()
        assert second.result().stdout == "held\n"
    # The first one would have seen the gate open, too.
    assert gate.ends() == {"held": 1}


def test_a_child_that_outlives_the_driver_does_not_hold_the_session(root: Path, gate: Gate) -> None:
    with Script(root, FORKS, gate) as first:
        first.until_running()
        first.kill()
        child = int((root / "child").read_text())
        gate.open()
        try:
            second = Script(root, HELD, gate).result()
        finally:
            os.kill(child, signal.SIGKILL)
    assert second.stdout == "held\n", second.stderr


def test_the_environment_is_for_the_first_engine(root: Path, gate: Gate) -> None:
    gate.open()
    environment = ["env", f"ASYNCFLOW_RESUME={root / 'session'}"]
    for before in ([], environment, environment):
        done = Script(root, TWO_ENGINES, gate, resume=False, before=before).result()
        assert done.stdout == "held\nother\n", done.stderr
    assert "was for the first engine" in done.stderr
    assert gate.starts() == {"held": 1}


def test_a_task_that_is_called_for_another_backend(root: Path, gate: Gate) -> None:
    here, there = (MOVED.replace("LAST", name) for name in ('"local"', '"second"'))
    with Script(root, here, gate, backend=TWO_BACKENDS) as first:
        first.until_running()
        first.kill()
    gate.open()
    done = Script(root, there.replace("free", "other"), gate, backend=TWO_BACKENDS).result()
    # It is told, and what was handed over together with it runs.
    assert done.stdout == "other\n", done.stderr
    assert "may still run on backend 'local', and is called for 'second' now" in done.stderr
    again = Script(root, here, gate, backend=TWO_BACKENDS).result()
    assert again.stdout == "free\nheld\n", again.stderr


def test_a_copy_of_a_session_that_is_driven(root: Path, gate: Gate) -> None:
    (root / "copy").mkdir()
    with Script(root, HELD, gate) as first:
        first.until_running()
        shutil.copytree(root / "session", root / "copy" / "session")
        refused = Script(root / "copy", HELD, gate).result()
        assert refused.returncode == 1
        assert f"is a copy of {root / 'session'}, which is driven by process {first.pid} on" in refused.stderr
        gate.open()
        assert first.result().stdout == "held\n"
    assert gate.starts() == {"held": 1}
    # The copy knows it as unfinished.
    assert Script(root / "copy", HELD, gate).result().stdout == "held\n"


def test_a_session_that_was_moved(root: Path, gate: Gate) -> None:
    (root / "other").mkdir()
    with Script(root, HELD, gate) as first:
        first.until_running()
        first.kill()
    (root / "session").rename(root / "other" / "session")
    gate.open()
    for _ in range(2):
        done = Script(root / "other", HELD, gate).result()
        assert done.stdout == "held\n", done.stderr
    # What ran when its driver died is ended all the same.
    assert gate.starts() == {"held": 2}


def test_a_lock_that_lost_its_content(root: Path, gate: Gate) -> None:
    with Script(root, HELD, gate) as first:
        first.until_running()
        first.kill()
    (root / "session" / "journal.lock").write_text("")
    gate.open()
    done = Script(root, HELD, gate).result()
    assert done.stdout == "held\n", done.stderr
    assert "says nothing" in done.stderr


def end_lease(root: Path) -> None:
    """Let the time go by for which a driver has its session without renewing."""
    long_ago = time.time() - 3600
    os.utime(root / "session" / "journal.lock", (long_ago, long_ago))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give this process another host name")
def test_resumed_on_another_host(root: Path, gate: Gate) -> None:
    with Script(root, HELD, gate) as first:
        first.until_running()
        first.kill()
    end_lease(root)
    gate.open()
    second = Script(root, HELD, gate, before=["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"])
    done = second.result()
    assert done.stdout == "held\n", done.stderr
    assert "may still run on" in done.stderr


def test_frozen_for_longer_than_its_lease(root: Path, gate: Gate) -> None:
    with Script(root, HELD, gate) as first:
        first.until_running()
        first.signal(signal.SIGSTOP)
        end_lease(root)
        second = Script(root, HELD, gate).result()
        assert "is driven by process" in second.stderr
        first.signal(signal.SIGCONT)
        gate.open()
        assert first.result().stdout == "held\n"
    assert gate.starts() == {"held": 1}


def test_what_changed_is_run_again_and_what_depends_on_it(root: Path, gate: Gate) -> None:
    gate.open()
    assert Script(root, CHAIN, gate).result().stdout == "4\n"
    assert Script(root, CHAIN, gate).result().stdout == "4\n"
    assert gate.starts() == {"one": 1, "two": 1, "other": 1}
    changed = Script(root, CHAIN.replace("return 1", "return 11"), gate).result()
    assert changed.stdout == "14\n"
    assert gate.starts() == {"one": 2, "two": 2, "other": 1}
    assert "'one' is run: its code changed since task.000001" in changed.stderr
    assert "'two' is run: its dependencies changed" in changed.stderr


def test_an_input_that_changed(root: Path, gate: Gate) -> None:
    gate.open()
    (root / "input").write_text("first\n")
    assert Script(root, READS, gate).result().stdout == "first\n"
    (root / "input").write_text("second\n")
    done = Script(root, READS, gate).result()
    assert done.stdout == "second\n"
    assert "its files changed since task.000001" in done.stderr
    assert Script(root, READS, gate).result().stdout == "second\n"
    assert gate.starts() == {"read": 2}


def test_what_failed_is_run_again_in_a_sandbox_of_its_own(root: Path, gate: Gate) -> None:
    gate.open()
    assert Script(root, FAILS, gate).result().returncode == 1
    (root / "mended").touch()
    assert Script(root, FAILS, gate).result().stdout == "mended\n"
    assert (root / "session" / "task.000001.1" / "task.000001.out").read_text() == "mended\n"
    assert (root / "session" / "task.000001" / "task.000001.out").read_text() == ""
    assert Script(root, FAILS, gate).result().stdout == "mended\n"


def test_arguments_and_results_that_cannot_be_pickled_are_told(root: Path, gate: Gate) -> None:
    gate.open()
    for _ in range(2):
        done = Script(root, STREAM, gate).result()
        assert done.stdout == "3\n", done.stderr
    assert gate.starts() == {"stream": 2}
    assert "cannot be recognized by a resume" in done.stderr


def test_a_journal_without_room(root: Path, gate: Gate) -> None:
    gate.open()
    done = Script(root, FULL, gate).result()
    assert "JournalError" in done.stdout, done.stderr
    assert "make room" in done.stdout
    assert done.stdout.endswith("after\n"), done.stderr
    assert gate.starts() == {"before": 1, "after": 1}


def test_a_result_that_there_is_no_room_to_keep(root: Path, gate: Gate) -> None:
    gate.open()
    done = Script(root, LARGE, gate, resume=False).result()
    assert done.stdout == "100000\n", done.stderr
    assert "a resume will run task.000001 again" in done.stderr
    for _ in range(2):
        assert Script(root, LARGE, gate).result().stdout == "100000\n"
    assert gate.starts() == {"large": 2}


def test_a_damaged_journal_is_refused_and_says_where(root: Path, gate: Gate) -> None:
    gate.open()
    Script(root, CHAIN, gate).result()
    path = root / "session" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:20] + b"?" + lines[2][21:], *lines[3:]]))
    done = Script(root, CHAIN, gate).result()
    assert done.returncode == 1
    assert f"line 3 of {path}" in done.stderr
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    assert Script(root, CHAIN, gate).result().stdout == "4\n"
