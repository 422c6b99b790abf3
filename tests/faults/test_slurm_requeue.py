"""Jobs that Slurm preempts, puts back into the queue, or forgets."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import InputFile, OutputFile, WorkflowEngine
from asyncflow_hpc.backends.run_script import claimed_by, script_path
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from tests.conftest import until

from .on_slurm import Gate, job_of, newer_too, on_slurm, running, scontrol, shell

pytestmark = [*on_slurm, newer_too, pytest.mark.timeout(60)]

FIRST_NODE: dict[str, Any] = {"nodelist": "n1"}


async def put_back(future: Any) -> None:
    """Wait until the backend has told so."""
    await until(lambda: future.task["state"] == "SUBMITTED")


async def start_now(future: Any) -> None:
    """Let a job that was put back into the queue not wait until the credentials of its first run are over."""
    await until(lambda: future.task["native_reason"] == "BeginTime")
    scontrol("update", f"JobId={job_of(future)}", "StartTime=now")


def whole_node(**more: Any) -> dict[str, Any]:
    return {"cores_per_rank": 16, "mem_per_rank": "100MB", **more}


@pytest.mark.parametrize("stubborn", [False, True], ids=["ended by SIGTERM", "ignores SIGTERM"])
async def test_preempted_and_cancelled(slurm_flow: WorkflowEngine, gate: Gate, stubborn: bool) -> None:
    command = gate.command("low")
    low = shell(slurm_flow)(
        f"trap '' TERM; {command}" if stubborn else command,
        task_description=whole_node(queue="low", slurm=FIRST_NODE, retries=0),
    )
    await running(low)
    assert await shell(slurm_flow)("echo in", task_description=whole_node(slurm=FIRST_NODE)) == "in\n"
    with pytest.raises(TaskFailedError) as caught:
        await low
    assert caught.value.cause is FailureCause.PREEMPTED
    assert low.task["native_state"] == "PREEMPTED"


async def test_preempted_and_tried_again(slurm_flow: WorkflowEngine, gate: Gate) -> None:
    """Nobody asked for it: what the machine did to a task is made good."""
    low = shell(slurm_flow)(gate.command("low"), task_description=whole_node(queue="low", slurm=FIRST_NODE))
    await running(low)
    first = job_of(low)
    assert await shell(slurm_flow)("echo in", task_description=whole_node(slurm=FIRST_NODE)) == "in\n"
    await until(lambda: low.task["attempt"] == 1)
    await running(low)
    gate.open()
    await low
    (failed,) = low.task["attempts"]
    assert (failed.cause, failed.native_id) == (FailureCause.PREEMPTED, first) and job_of(low) != first


async def test_lost_and_tried_again(slurm_flow: WorkflowEngine) -> None:
    """A job that leaves no record is run again, under another name, and should it turn up later it runs nothing."""

    def queued() -> bool:
        return future.task.get("native_id") is not None

    future = shell(slurm_flow)("echo $ASYNCFLOW_ATTEMPT; pwd", task_description={"slurm": {"hold": True}})
    await until(queued)
    first, sandbox = job_of(future), slurm_flow.session_dir / future.uid
    Path(script_path(str(sandbox))).unlink()
    scontrol("release", first)
    await until(lambda: future.task["attempt"] == 1 and queued())
    assert f"JobName={slurm_flow.uid}.{future.uid}.1 " in scontrol("show", "--oneliner", "job", job_of(future))
    scontrol("release", job_of(future))
    assert (await future).split("\n") == ["1", f"{sandbox}.1", ""]
    (failed,) = future.task["attempts"]
    assert (failed.cause, failed.native_id) == (FailureCause.LOST, first) and job_of(future) != first
    assert claimed_by(str(sandbox)) == "none"


async def test_preempted_and_put_back(slurm_flow: WorkflowEngine, gate: Gate, root: Path) -> None:
    (root / "input").write_text("of the input\n")
    low = shell(slurm_flow)(
        gate.command("low", "cat input; echo out >out"),
        InputFile(root / "input"),
        OutputFile("out"),
        task_description=whole_node(queue="lowrq", slurm={"requeue": True, **FIRST_NODE}),
    )
    await running(low)
    high = shell(slurm_flow)("echo in", task_description=whole_node(slurm=FIRST_NODE))
    assert await high == "in\n"
    await put_back(low)
    gate.open()
    await start_now(low)
    assert await low == "of the input\n"
    assert gate.starts() == {"low": 2}


async def test_put_back_by_hand(slurm_flow: WorkflowEngine, gate: Gate) -> None:
    allowed = shell(slurm_flow)(gate.command("allowed", "echo done"), task_description={"slurm": {"requeue": True}})
    await running(allowed)
    scontrol("requeue", job_of(allowed))
    await put_back(allowed)
    await start_now(allowed)
    await running(allowed)
    gate.open()
    assert await allowed == "done\n"
    assert gate.starts() == {"allowed": 2}


async def test_put_back_though_requeue_is_off(slurm_flow: WorkflowEngine, gate: Gate) -> None:
    future = shell(slurm_flow)(gate.command("off", "echo done"))
    await running(future)
    with pytest.raises(subprocess.CalledProcessError):
        scontrol("requeue", job_of(future))
    # An administrator can do it all the same.
    scontrol("update", f"JobId={job_of(future)}", "Requeue=1")
    scontrol("requeue", job_of(future))
    await put_back(future)
    await start_now(future)
    await running(future)
    gate.open()
    assert await future == "done\n"
    assert gate.starts() == {"off": 2}


async def test_put_back_and_held_can_be_cancelled(slurm_flow: WorkflowEngine, gate: Gate) -> None:
    future = shell(slurm_flow)(gate.command("held"), task_description={"slurm": {"requeue": True}})
    await running(future)
    scontrol("requeuehold", job_of(future))
    await put_back(future)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert gate.starts() == {"held": 1}


async def test_submitted_twice_runs_once(slurm_flow: WorkflowEngine, gate: Gate) -> None:
    future = shell(slurm_flow)(gate.command("task", "echo done"))
    await running(future)
    script = subprocess.run(["scontrol", "write", "batch_script", job_of(future), "-"], capture_output=True, text=True)
    again = ["sbatch", "--parsable", "--wait"]
    second = subprocess.run(again, input=script.stdout, capture_output=True, text=True, cwd="/")
    assert second.returncode == 75 and gate.starts() == {"task": 1}
    gate.open()
    assert await future == "done\n"
    assert gate.starts() == {"task": 1}
    log = Path(future.task["sandbox"], ".asyncflow", "job.log").read_text()
    assert f"belongs to job {job_of(future)}, not to {second.stdout.split()[0]}" in log


async def test_the_job_that_runs_a_task_counts(slurm_flow: WorkflowEngine, gate: Gate) -> None:
    # The one that the driver knows comes second.
    future = shell(slurm_flow)(gate.command("task", "echo done"), task_description={"slurm": {"hold": True}})
    await until(lambda: future.task.get("native_id"))
    known = job_of(future)
    script = subprocess.run(["scontrol", "write", "batch_script", known, "-"], capture_output=True, text=True)
    text = script.stdout.replace("#SBATCH --hold\n", "")
    again = subprocess.run(["sbatch", "--parsable"], input=text, check=True, capture_output=True, text=True, cwd="/")
    await until(lambda: gate.starts() == {"task": 1})
    scontrol("release", known)
    await until(lambda: job_of(future) == again.stdout.strip())
    await running(future)
    gate.open()
    assert await future == "done\n"
    assert gate.starts() == {"task": 1}
