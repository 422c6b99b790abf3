"""A Slurm that holds jobs and ends them by real cgroups: `scripts/slurm-cluster up --cgroups`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from tests.conftest import until

from .on_slurm import job_of, shell, told

pytestmark = [pytest.mark.usefixtures("cgroups"), pytest.mark.timeout(240)]

GREEDY = [sys.executable, "-c", "print(len(bytearray(400 << 20)))"]

LITTLE = {"mem_per_rank": "100MB"}


async def test_a_command_that_is_killed_for_want_of_memory(slurm_flow: WorkflowEngine) -> None:
    future = shell(slurm_flow)(f"exec {shlex.join(GREEDY)}", task_description=LITTLE)
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.cause is FailureCause.MEMORY
    await until(lambda: told(job_of(future), "State") == "OUT_OF_MEMORY")


async def test_a_command_whose_child_is_killed_for_want_of_memory(slurm_flow: WorkflowEngine) -> None:
    """It ends with 0 all the same, and Slurm says that its job did not end well."""
    future = shell(slurm_flow)(f"{shlex.join(GREEDY)}; echo $?; exit 0", task_description=LITTLE)
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.cause is FailureCause.MEMORY
    await until(lambda: told(job_of(future), "State") == "OUT_OF_MEMORY")


async def test_a_function_whose_child_is_killed_for_want_of_memory(slurm_flow: WorkflowEngine) -> None:
    @slurm_flow.function_task
    def starts(argv: list[str]) -> int:
        return subprocess.run(argv, check=False).returncode

    future = starts(GREEDY, task_description=LITTLE)
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.cause is FailureCause.MEMORY


async def test_enough_memory(slurm_flow: WorkflowEngine) -> None:
    future = shell(slurm_flow)(shlex.join(GREEDY), task_description={"mem_per_rank": "700MB"})
    assert await future == f"{400 << 20}\n"


async def test_what_a_task_leaves_ends_with_its_job(slurm_flow: WorkflowEngine, root: Path) -> None:
    """Neither its session, its parent, its environment nor its directory tells whose it is."""
    left = root / "left"
    path = shlex.quote(str(left))
    script = 'echo $$ >"$1".new; mv "$1".new "$1"; exec sleep 1007'
    daemon = f"cd / && exec env -i setsid sh -c {shlex.quote(script)} sh {path}"
    future = shell(slurm_flow)(
        f"({daemon}) </dev/null >/dev/null 2>&1 & until [ -e {path} ]; do sleep 0.1; done; echo done"
    )
    assert await future == "done\n"
    await until(lambda: not Path("/proc", left.read_text().strip()).exists())
