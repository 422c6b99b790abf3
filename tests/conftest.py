"""Fixtures for all tiers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory for sessions, with a hostile name; at the end no process may be left that ran in it."""
    path = tmp_path / "a place with spaces, 'quotes' and ü"
    path.mkdir()
    yield path
    left = [process for process in psutil.process_iter() if _ran_in(process, path)]
    for process in left:
        process.kill()
    assert not left, f"processes left behind: {left}"


def _ran_in(process: psutil.Process, path: Path) -> bool:
    try:
        session = process.environ().get("ASYNCFLOW_SESSION", "")
        return process.pid != os.getpid() and session.startswith(str(path)) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that only shows; the test's own time limit bounds it."""
    while not condition():
        await asyncio.sleep(0.01)
