"""A real Slurm that misbehaves: what became of a task is told truly, or not at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import SubmitError, TaskDescriptionError, TaskFailedError
from asyncflow_hpc.states import FailureCause
from tests.conftest import until

from .on_slurm import Gate, Wrappers, backend, cluster, job_of, newer_too, on_slurm, running, scontrol, shell

pytestmark = [*on_slurm, newer_too]


async def test_controller_down_in_the_middle(root: Path, gate: Gate, controller: None, wrappers: Wrappers) -> None:
    # Shorter than the outage, whatever the backend may change its mind after.
    impatient = backend(command_timeout=2.0, grace=1.0, patience=1)
    later = Gate(root, "later")
    async with WorkflowEngine.create(impatient, work_dir=root) as flow:
        early = [shell(flow)(gate.command(number, f"echo {number}")) for number in range(15)]
        late = [shell(flow)(later.command(number, f"echo {number}")) for number in range(15, 30)]
        await running(*early, *late)
        cluster("stop-controller")
        gate.open()
        # Their records tell, though the queue does not.
        assert await asyncio.gather(*early) == [f"{number}\n" for number in range(15)]
        asked = wrappers.called()["squeue"]
        await until(lambda: wrappers.called()["squeue"] >= asked + 4)
        assert all(future.state == "RUNNING" for future in late)
        cluster("start-controller")
        later.open()
        assert await asyncio.gather(*late) == [f"{number}\n" for number in range(15, 30)]
        assert gate.starts() | later.starts() == {str(number): 1 for number in range(30)}


async def test_a_job_submitted_while_the_controller_is_down(root: Path, controller: None) -> None:
    async with WorkflowEngine.create(backend(command_timeout=3.0), work_dir=root) as flow:
        cluster("stop-controller")
        future = shell(flow)("echo at last")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), 5)
        cluster("start-controller")
        assert await future == "at last\n"


async def test_own_record_forged_by_the_task(slurm_flow: WorkflowEngine) -> None:
    forged = '{"version":1,"session":"x","uid":"task.000001","attempt":0,"nonce":"0","exit_code":0}'
    future = shell(slurm_flow)(
        f"echo '{forged}' >.asyncflow/exit.json; : >../.spool/$ASYNCFLOW_TASK_UID; sleep 2; exit 5"
    )
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("instead", ["mkdir", "mkfifo"])
async def test_output_that_is_no_file_any_more(slurm_flow: WorkflowEngine, instead: str) -> None:
    with pytest.raises(TaskFailedError, match=r"no file|directory"):
        await shell(slurm_flow)(f"rm $ASYNCFLOW_TASK_UID.out; {instead} $ASYNCFLOW_TASK_UID.out")


async def test_refused_in_slurms_own_words(slurm_flow: WorkflowEngine) -> None:
    good = shell(slurm_flow)("echo good")
    with pytest.raises(SubmitError, match="nvalid partition"):
        await shell(slurm_flow)("true", task_description={"queue": "no-such-partition"})
    assert await good == "good\n"


async def test_job_that_can_never_run(root: Path) -> None:
    async with WorkflowEngine.create(backend(fail_unrunnable=True), work_dir=root) as flow:
        # Whether Slurm refuses it at once or lets it wait for ever is a setting of the site.
        with pytest.raises((SubmitError, TaskFailedError)) as caught:
            await shell(flow)("true", task_description={"queue": "short", "walltime": "01:00:00"})
        assert "limit" in str(caught.value).lower()


async def test_walltime(slurm_flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError, match="walltime") as caught:
        await shell(slurm_flow)("sleep 600", task_description={"walltime": 1})
    assert caught.value.cause is FailureCause.WALLTIME


async def test_suspended_task_does_not_use_up_its_walltime(
    root: Path, gate: Gate, wrappers: Wrappers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncflow_hpc.backends.psij.ending._LATE", 0.0)
    async with WorkflowEngine.create(backend(), work_dir=root) as flow:
        future = shell(flow)(gate.command("task", "echo done"), task_description={"walltime": 3})
        await running(future)
        scontrol("suspend", job_of(future))
        await until(lambda: future.task["native_state"] == "SUSPENDED")
        await wrappers.calls("squeue", 4)
        gate.open()
        scontrol("resume", job_of(future))
        assert await future == "done\n"


async def test_spool_that_cannot_be_used(root: Path, gate: Gate) -> None:
    async with WorkflowEngine.create(backend(), work_dir=root) as flow:
        future = shell(flow)(gate.command("task", "echo done"))
        await running(future)
        spool = flow.session_dir / ".spool"
        spool.rmdir()
        spool.write_text("in its place")
        gate.open()
        assert await future == "done\n"
        spool.unlink()


async def test_node_that_dies(root: Path) -> None:
    async with WorkflowEngine.create(backend(), work_dir=root) as flow:
        future = shell(flow)("sleep 600", task_description={"retries": 0, "slurm": {"nodelist": "n2"}})
        await running(future)
        cluster("kill-node", "n2")
        try:
            with pytest.raises(TaskFailedError) as caught:
                await future
            assert caught.value.cause is FailureCause.NODE_FAILURE
        finally:
            cluster("start-node", "n2")


async def test_other_jobs_of_the_user_do_not_matter(slurm_flow: WorkflowEngine) -> None:
    hold = ["sbatch", "--parsable", "--hold", "--job-name=two words\x1f", "--wrap", "true"]
    other = subprocess.run(hold, check=True, capture_output=True, text=True).stdout.strip()
    try:
        assert await shell(slurm_flow)("echo fine") == "fine\n"
    finally:
        subprocess.run(["scancel", other], check=False)


async def test_function_without_a_python_on_the_node(root: Path) -> None:
    async with WorkflowEngine.create(backend(python="/no/such/python3"), work_dir=root) as flow:

        @flow.function_task
        async def call() -> int:
            return 1

        with pytest.raises(TaskFailedError, match="/no/such/python3") as caught:
            await call()
        assert caught.value.cause is FailureCause.BOOTSTRAP


async def test_what_holds_a_job_is_told_once(slurm_flow: WorkflowEngine, caplog: pytest.LogCaptureFixture) -> None:
    future = shell(slurm_flow)("echo went", task_description={"slurm": {"hold": True}})
    await until(lambda: "it is held" in caplog.text)
    assert future.task["native_reason"] == "JobHeldUser"
    subprocess.run(["scontrol", "release", job_of(future)], check=True)
    assert await future == "went\n"
    assert caplog.text.count("it is held") == 1


async def test_nothing_of_psij_stays(root: Path) -> None:
    async with WorkflowEngine.create(backend(), work_dir=root) as flow:
        assert await shell(flow)("echo it") == "it\n"
    (session,) = (path for path in root.iterdir() if path.is_dir())
    assert sorted(path.name for path in session.iterdir()) == [".asyncflow", ".spool", "journal.jsonl", "task.000001"]


async def test_a_site_on_its_machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same script with a profile in the current directory: its backend, defaults, set-up, launcher and limits."""
    monkeypatch.chdir(root)
    monkeypatch.delenv("ASYNCFLOW_BACKEND", raising=False)
    Path("asyncflow.yaml").write_text(
        "extends: dev_cluster\nlauncher: srun --label\ndefaults: {queue: high, mem_per_rank: 50MB}\n"
        "environment: {setup: [export FROM_SITE=set-up]}\n"
    )
    Path("asyncflow.yaml").chmod(0o644)
    async with WorkflowEngine.create() as flow:

        @flow.executable_task
        async def ranks(**_: Any) -> str:
            return 'echo "$ASYNCFLOW_RANK of $ASYNCFLOW_SIZE $SLURM_JOB_PARTITION $FROM_SITE"'

        @flow.function_task
        async def function() -> str:
            return f"{os.environ['SLURM_JOB_PARTITION']} {os.environ['FROM_SITE']}"

        both = ranks(task_description={"ranks": 2, "nodes": 2})
        assert sorted((await both).splitlines()) == ["0: 0 of 2 high set-up", "1: 1 of 2 high set-up"]
        assert await function() == "high set-up"
        with pytest.raises(TaskDescriptionError, match="queue 'short' takes no more than 00:01:00"):
            ranks(task_description={"queue": "short", "walltime": 90})


async def test_work_directory_of_psij_elsewhere(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        async with WorkflowEngine.create(backend(work_dir=place), work_dir=root) as flow:
            future = shell(flow)("echo it")
            assert await future == "it\n"
            with pytest.raises(SubmitError):
                await shell(flow)("true", task_description={"queue": "no-such-partition"})
        assert not [path for path in Path(place).rglob("*") if path.is_file()]
        assert "#SBATCH --job-name" in Path(future.task["sandbox"], ".asyncflow", "job.sh").read_text()
