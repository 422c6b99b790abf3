"""Sessions of ordinary users: their own they can resume, and nobody else can."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow_hpc.testing.leftovers import assert_none_left

from .on_slurm import CLUSTER, Gate, needs_root
from .resuming import HELD, LOCAL, SLURM, script_text
from .users import User

pytestmark = needs_root


@pytest.fixture
def gate(user: User) -> Iterator[Gate]:
    gate = Gate(user.place)
    user.own(user.place / "gate.log", gate.ended)
    yield gate
    assert_none_left(user.place)


def killed(user: User, gate: Gate, backend: str) -> Path:
    """Leave a session whose driver was killed in the middle; returns its script."""
    script = user.script(script_text(HELD, gate, backend))
    driver = user.start(script, user.place, "new")
    try:
        until_started(1, gate, driver)
    finally:
        driver.kill()
        driver.communicate()
    return script


def until_started(times: int, gate: Gate, driver: subprocess.Popen[str]) -> None:
    """Wait until the task has started so often."""
    while gate.starts().total() < times:
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.02)


def resumed(user: User, script: Path, gate: Gate, times: int = 2) -> tuple[int | None, str, str]:
    """Resume the session; what waits may go on once it has started so often."""
    driver = user.start(script, user.place, "resume")
    try:
        until_started(times, gate, driver)
        gate.open()
        out, err = driver.communicate(timeout=100)
    finally:
        driver.kill()
        driver.communicate()
    return driver.returncode, out, err


def tree(session: Path) -> list[tuple[str, int, float]]:
    return sorted((str(path), path.stat().st_uid, path.stat().st_mtime) for path in [session, *session.rglob("*")])


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_killed_and_resumed(user: User, gate: Gate, kind: str) -> None:
    if kind == "slurm" and not CLUSTER:
        pytest.skip("no Slurm here; scripts/test starts one as root")
    script = killed(user, gate, SLURM if kind == "slurm" else LOCAL)
    # A job goes on; what ran here is ended, and runs again.
    times = 1 if kind == "slurm" else 2
    for _ in range(2):
        code, out, err = resumed(user, script, gate, times)
        assert (code, out) == (0, "held\n"), err
    assert gate.starts() == {"held": times}
    assert gate.ends() == {"held": 1}


@pytest.mark.parametrize("shown", [False, True], ids=["hidden", "to be read by all"])
def test_not_by_another_user(user: User, gate: Gate, shown: bool) -> None:
    script = killed(user, gate, LOCAL)
    session = user.place / "session"
    if shown:
        session.chmod(0o755)
        (session / "journal.jsonl").chmod(0o644)
    before = tree(session)
    stranger = user.another("games").start(script, user.place, "resume")
    err = stranger.communicate(timeout=100)[1]
    expected = f"session directory {session} belongs to user 65534; only that user can resume it"
    if not shown:
        expected = f"the journal {session / 'journal.jsonl'} cannot be read: Permission denied"
    assert (
        stranger.returncode == 1
        and "asyncflow_hpc.errors." in err.splitlines()[-1]
        and expected in err.splitlines()[-1]
    )
    assert tree(session) == before
    assert resumed(user, script, gate)[:2] == (0, "held\n")


def test_not_by_root(user: User, gate: Gate) -> None:
    script = killed(user, gate, LOCAL)
    session = user.place / "session"
    before = tree(session)
    words = [sys.executable, str(script), str(user.place), "resume"]
    refused = subprocess.run(words, capture_output=True, text=True, check=False, cwd=user.place)
    assert refused.returncode == 1
    assert f"session directory {session} belongs to user 65534; only that user can resume it" in refused.stderr
    # No file of root's stands in the way of its owner.
    assert tree(session) == before
    code, out, err = resumed(user, script, gate)
    assert (code, out) == (0, "held\n"), err
