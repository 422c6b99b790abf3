"""Processes that the kernel kills for want of memory, in real cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncflow_hpc.backends.cgroup import MemoryKills

DRIVER = """
import asyncio, logging, sys
from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine

async def main(scripted):
    logging.basicConfig(level=logging.WARNING)
    async with WorkflowEngine.create(LocalExecutionBackend(cores=1, scripted=scripted), work_dir=sys.argv[1]) as flow:
        @flow.executable_task
        async def hungry():
            return f"{sys.executable} -c 'x = bytearray(900_000_000)'; echo went on"
        print(await hungry(), end="")

asyncio.run(main(sys.argv[2] == "scripted"))
"""


@pytest.mark.parametrize("way", ["direct", "scripted"])
def test_a_kill_on_this_machine_is_a_warning(way: str, root: Path, small_cgroup: Callable[[int], Path]) -> None:
    inside = f'echo $$ >"{small_cgroup(400_000_000)}/cgroup.procs"; exec "$@"'
    argv = ["sh", "-c", inside, "sh", sys.executable, "-c", DRIVER, str(root), way]
    ended = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=root)
    assert (ended.returncode, ended.stdout) == (0, "went on\n"), ended.stderr
    assert ended.stderr.count("killed 1 processes for want of memory") == 1


def test_no_kill_is_no_news() -> None:
    kills = MemoryKills()
    assert kills.since_last() == 0 and kills.since_last() == 0
    kills.close()
    kills.close()
    assert kills.since_last() == 0


def test_descriptors_are_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    MemoryKills().close()
    assert len(os.listdir("/proc/self/fd")) == before
