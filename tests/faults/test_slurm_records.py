"""What becomes of tasks that leave no record, on a Slurm that keeps accounting records and on one that does not."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import DependencyFailureError, TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing.leftovers import processes_here
from tests.conftest import until

from .on_slurm import (
    Gate,
    Wrappers,
    backend,
    cluster,
    directory,
    either_way,
    has_accounting,
    is_known,
    job_of,
    needs_root,
    on_slurm,
    running,
    scontrol,
    shell,
    told,
)

pytestmark = [*on_slurm, either_way]


def kill_script(future: object) -> None:
    subprocess.run(["scancel", "--batch", "--signal=KILL", job_of(future)], check=True)


async def test_slurms_own_record_shows_the_exit_code(slurm_flow: WorkflowEngine, accounting: bool) -> None:
    assert has_accounting() == accounting
    future = shell(slurm_flow)("exit 7")
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.exit_code == 7
    job = job_of(future)
    await until(lambda: "ExitCode=7:0" in scontrol("show", "job", job))
    if accounting:
        sacct = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode", f"--jobs={job}"]
        await until(lambda: subprocess.run(sacct, check=True, capture_output=True).stdout == b"FAILED|7:0\n")
    # What others have made dependent on it never runs.
    after = ["sbatch", "--parsable", f"--dependency=afterok:{job}", "--output=/dev/null", "--wrap=true"]
    dependent = subprocess.run(after, check=True, capture_output=True, text=True).stdout.strip()
    await until(lambda: told(dependent, "Reason") == "DependencyNeverSatisfied")
    subprocess.run(["scancel", dependent], check=True)


async def test_memory_overrun(slurm_flow: WorkflowEngine, root: Path) -> None:
    future = shell(slurm_flow)("(head -c 200M /dev/zero; sleep 60) | tail", task_description={"mem_per_rank": "30MB"})
    with pytest.raises(TaskFailedError, match="memory") as caught:
        await future
    # Without cgroups Slurm says no more than that a SIGKILL ended it.
    assert caught.value.cause in (FailureCause.MEMORY, FailureCause.SIGNAL)
    await until(lambda: not processes_here(root))


async def test_purged_before_the_queue_is_asked(
    root: Path, gate: Gate, forgetful: None, wrappers: Wrappers, accounting: bool
) -> None:
    async with WorkflowEngine.create(backend(command_timeout=1.0, grace=2.0), work_dir=root, retries=0) as flow:
        recorded, unmarked, killed = (shell(flow)(gate.command(name, f"echo {name}")) for name in "abc")
        await running(recorded, unmarked, killed)
        wrappers.hang("squeue")
        kill_script(killed)
        # The marker of the second one cannot be dropped.
        spool = next(root.glob("*/.spool"))
        marker = spool / unmarked.task["uid"]
        marker.mkdir()
        gate.open()
        assert await recorded == "a\n"
        await until(lambda: not any(is_known(job_of(future)) for future in (recorded, unmarked, killed)))
        wrappers.release("squeue")
        assert await unmarked == "b\n"
        with pytest.raises(TaskFailedError) as caught:
            await killed
        assert caught.value.cause is (FailureCause.SIGNAL if accounting else FailureCause.LOST)
        assert gate.starts() == {"a": 1, "b": 1, "c": 1}
        marker.rmdir()
    await until(lambda: not processes_here(root))


async def test_killed_script_is_never_done(slurm_flow: WorkflowEngine, root: Path) -> None:
    future = shell(slurm_flow)("sleep 5")
    await running(future)
    kill_script(future)
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.cause is FailureCause.SIGNAL
    await until(lambda: not processes_here(root))


async def test_cancelled_from_outside(slurm_flow: WorkflowEngine) -> None:
    pending = shell(slurm_flow)("true", task_description={"slurm": {"begin": "now+1hour"}})
    future = shell(slurm_flow)("sleep 600")
    await running(future)
    await until(lambda: pending.task.get("native_id"))
    subprocess.run(["scancel", job_of(future), job_of(pending)], check=True)
    for cancelled in (future, pending):
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert cancelled.task["cause"] == FailureCause.CANCELLED


async def test_controller_that_lost_its_state_gives_an_id_again(
    root: Path, gate: Gate, controller: None, wrappers: Wrappers, tmp_path: Path
) -> None:
    state, saved = directory() / "state", tmp_path / "state"
    cluster("stop-controller")
    shutil.copytree(state, saved)
    cluster("start-controller")
    states: list[str] = []
    async with WorkflowEngine.create(backend(grace=3.0, patience=1), work_dir=root, retries=0) as flow:
        lost = shell(flow)("echo never", task_description={"slurm": {"begin": "now+1hour"}})
        lost.add_done_callback(lambda _: states.append("ended"))
        await until(lambda: lost.task.get("native_id"))
        cluster("stop-controller")
        shutil.rmtree(state)
        shutil.copytree(saved, state)
        cluster("start-controller")
        other = shell(flow)(gate.command("other", "echo other"))
        await running(other)
        assert job_of(other) == job_of(lost)
        with pytest.raises(TaskFailedError) as caught:
            await lost
        assert caught.value.cause is FailureCause.LOST and lost.task.get("started") is None
        # The one that has the id now is not cancelled.
        await wrappers.calls("squeue", 2)
        gate.open()
        assert await other == "other\n"


async def test_sandbox_removed_under_a_task(root: Path, gate: Gate) -> None:
    async with WorkflowEngine.create(backend(grace=2.0, patience=1), work_dir=root, retries=0) as flow:
        future = shell(flow)(gate.command("task", "echo lost"))
        after = shell(flow)("echo fine", future)
        await running(future)
        shutil.rmtree(flow.session_dir)
        gate.open()
        # Accounting has it as ended well, but its output is gone.
        with pytest.raises((TaskFailedError, FileNotFoundError)):
            await future
        assert future.task["cause"] in (FailureCause.LOST, FailureCause.BACKEND)
        with pytest.raises(DependencyFailureError):
            await after


@needs_root
async def test_file_system_that_is_full(root: Path, gate: Gate) -> None:
    small = root / "small"
    small.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(small)]
    if subprocess.run(argv, check=False, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        async with WorkflowEngine.create(backend(patience=1), work_dir=small, retries=0) as flow:
            future = shell(flow)(gate.command("task", "cat /dev/zero >full 2>/dev/null; exit 0"))
            await running(future)
            gate.open()
            # Room for its record was set apart before.
            assert await future == ""
            assert future.task["exit_code"] == 0
            with pytest.raises(Exception, match="space"):
                await shell(flow)("true")
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
