"""Who drives a session, between hosts: a lease counts however the clocks of the hosts differ."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flufl.lock import _lockfile

from asyncflow_hpc import lease
from asyncflow_hpc.errors import SessionError
from asyncflow_hpc.lease import Lease

DAY = 86400


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lease]:
    """The lease of a driver on another host, of whose kernel's lock this one knows nothing."""
    monkeypatch.setattr(lease, "LEASE", 1)
    monkeypatch.setattr(lease, "_SLOP", 0)
    monkeypatch.setattr(lease, "_LOOK", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        held = Lease(tmp_path / "journal.jsonl")
    fcntl.flock(held._guard, fcntl.LOCK_UN)
    yield held
    with suppress(OSError):
        held.close()


@pytest.fixture(params=[-DAY, 0, DAY])
def shifted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """By how many seconds the clock of this host differs from the file system's, and from the other host's."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Shifted:
            return cls.fromtimestamp(time.time()) + timedelta(seconds=request.param)

    monkeypatch.setattr(_lockfile, "datetime", Shifted)
    return float(request.param)


def test_a_driver_that_lives_keeps_its_session(held: Lease, tmp_path: Path, shifted: float) -> None:
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(Lease, tmp_path / "journal.jsonl")
        while not second.done():
            assert held.still_ours()
            time.sleep(0.02)
    with pytest.raises(SessionError, match=f"is driven by process {os.getpid()} on elsewhere"):
        second.result()
    assert held.still_ours()


@pytest.mark.parametrize("left", [-DAY, DAY])
def test_a_driver_that_died_loses_it(held: Lease, tmp_path: Path, shifted: float, left: int) -> None:
    # It was renewed by a clock that has been set since.
    when = time.time() + left
    os.utime(tmp_path / "journal.lock", (when, when))
    second = Lease(tmp_path / "journal.jsonl")
    assert not held.still_ours()
    assert second.still_ours()
    # Nor does it look old to a third host.
    assert abs((tmp_path / "journal.lock").stat().st_mtime - time.time()) < 60
    second.close()


def test_a_driver_that_lets_go(held: Lease, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(Lease, tmp_path / "journal.jsonl")
        held.close()
        second.result().close()
    assert not (tmp_path / "journal.lock").exists()
