"""PBS as it is on a real node: a login shell, a session that mom kills, no job history, output of the task manager."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing import Emulation, emulate
from tests.conftest import until

from .on_emulators import HELD, QUICK, SUBMIT, backend, call
from .on_slurm import Gate, job_of, running, shell

# States of a job in which it is deleted: what puts it there.
DELETED = {"queued": {"queue": "stopped"}, "held": HELD["pbs"], "running": {}}


@pytest.fixture
def forgetful() -> Iterator[Emulation]:
    """A PBS without a job history, as it is installed."""
    with emulate("pbs", **QUICK) as emulated:
        call("qmgr", "-c", "set server job_history_enable=False")
        yield emulated


@pytest.mark.parametrize("by_hand", [False, True], ids=["by us", "by hand"])
@pytest.mark.parametrize("state", sorted(DELETED))
async def test_deleted_without_a_history(
    root: Path, forgetful: Emulation, gate: Gate, state: str, by_hand: bool
) -> None:
    async with WorkflowEngine.create(backend(forgetful, grace=1.0), work_dir=root, retries=3) as flow:
        future = shell(flow)(gate.command("job"), task_description=DELETED[state])
        await until(lambda: future.task.get("native_state") in ("Q", "H", "R"))
        if state == "running":
            await running(future)
            await until(lambda: gate.starts() == {"job": 1})
        if by_hand:
            call("qdel", job_of(future))
        else:
            assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.task["cause"] == FailureCause.CANCELLED
        gate.open()
        assert await shell(flow)("echo next") == "next\n"
    assert forgetful.called()[SUBMIT["pbs"]] == 2
    assert gate.starts() == ({"job": 1} if state == "running" else {})


async def test_deleted_on_a_torque_that_keeps_nothing(root: Path) -> None:
    with emulate("pbs_classic", **QUICK) as emulated:
        call("qmgr", "-c", "set server keep_completed=0")
        async with WorkflowEngine.create(backend(emulated, grace=1.0), work_dir=root, retries=3) as flow:
            future = shell(flow)("sleep 600")
            await running(future)
            await until(lambda: list(root.glob("*/*/.asyncflow/host")))
            call("qdel", job_of(future))
            with pytest.raises(asyncio.CancelledError):
                await future
        assert emulated.called()[SUBMIT["pbs_classic"]] == 1


async def test_ends_without_a_history(root: Path, forgetful: Emulation) -> None:
    async with WorkflowEngine.create(backend(forgetful, grace=1.0), work_dir=root, retries=0) as flow:
        assert await shell(flow)("echo out") == "out\n"
        with pytest.raises(TaskFailedError) as caught:
            await shell(flow)("exit 7")
        assert (caught.value.cause, caught.value.exit_code) == (FailureCause.EXIT_CODE, 7)
        with pytest.raises(TaskFailedError) as caught:
            await shell(flow)("sleep 600", task_description={"walltime": 1})
        assert caught.value.cause is FailureCause.WALLTIME
        future = shell(flow)("sleep 600")
        await running(future)
        call("qdel", "-W", "force", job_of(future))
        # Nothing is left that could tell a deletion from a node that has died.
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert caught.value.cause is FailureCause.LOST


async def test_a_short_job_without_a_history_is_no_deleted_one(root: Path, forgetful: Emulation) -> None:
    async with WorkflowEngine.create(backend(forgetful, poll_interval=60.0), work_dir=root, retries=0) as flow:
        results = await asyncio.gather(*[shell(flow)(f"echo {number}") for number in range(8)])
        assert results == [f"{number}\n" for number in range(8)]


async def test_path_of_the_driver(
    emulated_flow: WorkflowEngine, emulated: Emulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "mytool").write_text("#!/bin/sh\necho mine\n")
    (tools / "mytool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{tools}")
    assert await shell(emulated_flow)('mytool; printf %s "$PATH"') == f"mine\n{os.environ['PATH']}"


async def test_ranks_where_pbs_has_an_mpiexec_of_its_own(root: Path) -> None:
    with emulate("pbs", **QUICK) as emulated:
        async with WorkflowEngine.create(backend(emulated), work_dir=root, retries=0) as flow:
            started = shell(flow)("echo $ASYNCFLOW_RANK", task_description={"ranks": 3})
            assert sorted((await started).split()) == ["0", "1", "2"]


@pytest.mark.parametrize("launcher", ["pbsdsh", "pbs_tmrsh $(hostname)"])
async def test_output_of_the_task_manager(tmp_path: Path, launcher: str) -> None:
    with emulate("pbs", **QUICK) as emulated:
        async with WorkflowEngine.create(backend(emulated), work_dir=tmp_path, retries=0) as flow:
            future = shell(flow)(f"{launcher} echo of the task manager; echo mine")
            assert await future == "mine\n"
        kept = Path(future.task["sandbox"], ".asyncflow", "job.out")
        assert kept.read_text().splitlines()[-1] == "of the task manager"
