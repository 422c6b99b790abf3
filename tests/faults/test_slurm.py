"""A real Slurm that misbehaves: what became of a task is told truly, or not at all."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import OutputFile, WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.errors import SubmitError, TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing.leftovers import processes_here
from tests.conftest import until

CLUSTER = os.environ.get("ASYNCFLOW_TEST_SLURM", "")

pytestmark = [
    pytest.mark.skipif(not CLUSTER, reason="no Slurm here; scripts/test starts one as root"),
    pytest.mark.timeout(240),
]


def cluster(*command: str) -> None:
    """Do something to the cluster."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "slurm-cluster"
    subprocess.run([sys.executable, str(script), *command, "--dir", CLUSTER], check=True, capture_output=True)


@pytest.fixture
def controller() -> Iterator[None]:
    """A controller that is there again at the end."""
    yield
    cluster("start-controller")


def backend(**more: Any) -> PsijExecutionBackend:
    settings = {"defaults": {"mem_per_rank": "50MB"}, "poll_interval": 1.0, "submit_rate": 100.0, "grace": 5.0}
    return PsijExecutionBackend(**{**settings, "patience": 2, **more})


@pytest.fixture
async def flow(root: Path) -> AsyncIterator[WorkflowEngine]:
    async with WorkflowEngine.create(backend(), work_dir=root) as engine:
        yield engine


def shell(flow: WorkflowEngine) -> Any:
    @flow.executable_task
    async def command(text: str, *_: Any) -> str:
        return text

    return command


def job_of(future: Any) -> str:
    return str(future.task["native_id"])


async def running(*futures: Any) -> None:
    await until(lambda: all(future.state == "RUNNING" for future in futures))


async def test_controller_down_in_the_middle(flow: WorkflowEngine, root: Path, controller: None) -> None:
    gate = root / "gate"
    waits = f"until [ -e {shlex.quote(str(gate))} ]; do sleep 0.2; done"
    futures = [shell(flow)(f"{waits}; echo {number}") for number in range(10)]
    await running(*futures)
    cluster("stop-controller")
    gate.touch()
    # Their records tell, though the queue does not.
    assert await asyncio.gather(*futures) == [f"{number}\n" for number in range(10)]


async def test_a_job_submitted_while_the_controller_is_down(root: Path, controller: None) -> None:
    async with WorkflowEngine.create(backend(command_timeout=3.0), work_dir=root) as flow:
        cluster("stop-controller")
        future = shell(flow)("echo at last")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), 5)
        cluster("start-controller")
        assert await future == "at last\n"


async def test_cancelled_from_outside(flow: WorkflowEngine) -> None:
    future = shell(flow)("sleep 600")
    await running(future)
    subprocess.run(["scancel", job_of(future)], check=True)
    with pytest.raises(asyncio.CancelledError):
        await future
    assert future.task["cause"] == FailureCause.CANCELLED and future.task["native_state"]


async def test_script_that_is_killed_is_never_done(flow: WorkflowEngine, root: Path) -> None:
    # Without cgroups Slurm loses sight of what the script has started.
    future = shell(flow)("sleep 5", OutputFile("never"))
    await running(future)
    subprocess.run(["scancel", "--batch", "--signal=KILL", job_of(future)], check=False)
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.cause in (FailureCause.SIGNAL, FailureCause.LOST, FailureCause.MEMORY)
    await until(lambda: not processes_here(root))


async def test_own_record_forged_by_the_task(flow: WorkflowEngine) -> None:
    forged = '{"version":1,"session":"x","uid":"task.000001","attempt":0,"nonce":"0","exit_code":0}'
    future = shell(flow)(f"echo '{forged}' >.asyncflow/exit.json; : >../.spool/$ASYNCFLOW_TASK_UID; sleep 2; exit 5")
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.exit_code == 5


async def test_refused_in_slurms_own_words(flow: WorkflowEngine) -> None:
    good = shell(flow)("echo good")
    with pytest.raises(SubmitError, match="nvalid partition"):
        await shell(flow)("true", task_description={"queue": "no-such-partition"})
    assert await good == "good\n"


async def test_job_that_can_never_run(root: Path) -> None:
    async with WorkflowEngine.create(backend(fail_unrunnable=True), work_dir=root) as flow:
        # Whether Slurm refuses it at once or lets it wait for ever is a setting of the site.
        with pytest.raises((SubmitError, TaskFailedError)) as caught:
            await shell(flow)("true", task_description={"queue": "short", "walltime": "01:00:00"})
        assert "limit" in str(caught.value).lower()


async def test_walltime(flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError, match="walltime") as caught:
        await shell(flow)("sleep 600", task_description={"walltime": 1})
    assert caught.value.cause is FailureCause.WALLTIME


async def test_node_that_dies(root: Path) -> None:
    async with WorkflowEngine.create(backend(), work_dir=root) as flow:
        future = shell(flow)("sleep 600", task_description={"slurm": {"nodelist": "n2"}})
        await running(future)
        cluster("kill-node", "n2")
        try:
            with pytest.raises(TaskFailedError) as caught:
                await future
            assert caught.value.cause is FailureCause.NODE_FAILURE
        finally:
            cluster("start-node", "n2")


async def test_other_jobs_of_the_user_do_not_matter(flow: WorkflowEngine) -> None:
    hold = ["sbatch", "--parsable", "--hold", "--job-name=two words\x1f", "--wrap", "true"]
    other = subprocess.run(hold, check=True, capture_output=True, text=True).stdout.strip()
    try:
        assert await shell(flow)("echo fine") == "fine\n"
    finally:
        subprocess.run(["scancel", other], check=False)
