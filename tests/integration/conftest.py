"""Fixtures of the integration tier."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


@pytest.fixture(params=list(SHELLS))
def shell(request: pytest.FixtureRequest) -> list[str]:
    """Each shell that the run script promises to run under."""
    argv = SHELLS[request.param]
    if shutil.which(argv[0]) is None:
        reason = f"{argv[0]} is not installed; scripts/test installs it as root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return argv


@pytest.fixture
def small_cgroup() -> Iterator[Callable[[int], Path]]:
    """Make a cgroup named as that of job 4711, with room for so many bytes."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.split(":")[2] for line in lines if ":memory:" in line), None)
    if own is None or not os.access(f"/sys/fs/cgroup/memory{own}", os.W_OK):
        pytest.skip("no cgroup v1 for memory here that this user may divide")
    made = Path(f"/sys/fs/cgroup/memory{own}/job_4711_{os.getpid()}")

    def make(size: int) -> Path:
        made.mkdir()
        (made / "memory.limit_in_bytes").write_text(str(size))
        return made

    yield make
    if made.exists():
        made.rmdir()
