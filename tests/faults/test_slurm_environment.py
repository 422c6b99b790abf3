"""What a user has set for Slurm's commands: it holds, but not against a task, and never against a cancellation."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine

from .on_slurm import Gate, backend, job_of, on_slurm, running, shell, told

pytestmark = on_slurm

# Each of them keeps scancel from ending a job that runs in the partition "normal", and lets it say nothing.
CANCELLING = {"SCANCEL_STATE": "PENDING", "SCANCEL_PARTITION": "short", "SCANCEL_NAME": "other", "SCANCEL_ACCOUNT": "x"}

# Each of them would make another job of it.
CHANGING = {
    "SBATCH_ARRAY_INX": "0-2",
    "SBATCH_OUTPUT": "elsewhere",
    "SBATCH_WAIT": "1",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_JOB_NAME": "other",
    "SBATCH_REQUEUE": "1",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_STDOUTMODE": "elsewhere",
    "SLURM_LABELIO": "1",
}


LAUNCHERS = ["srun", "mpiexec.hydra", "mpiexec.mpich", "mpiexec.openmpi --oversubscribe", "env -u X srun"]


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_ranks_know_their_numbers_whatever_starts_them(root: Path, launcher: str, nodes: int) -> None:
    if shutil.which(launcher.split(" ")[0]) is None:
        pytest.skip(f"no {launcher} here")
    asked = {"ranks": 4, "nodes": nodes, "launcher": launcher}
    # Open MPI asks root to be sure.
    sure = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    async with WorkflowEngine.create(backend(), work_dir=root, retries=0) as flow:
        ranks = shell(flow)(
            'echo "$ASYNCFLOW_RANK of $ASYNCFLOW_SIZE"', task_description={**asked, "environment": sure}
        )
        assert sorted((await ranks).splitlines()) == [f"{number} of 4" for number in range(4)]


@pytest.mark.parametrize("export", ["NONE", "NIL", "HOME,PATH"])
async def test_a_job_with_little_of_the_environment(root: Path, export: str) -> None:
    options = {"slurm": {"export": export}, "environment": {"MINE": "given"}}
    async with WorkflowEngine.create(backend(), work_dir=root, retries=0) as flow:
        one = shell(flow)('echo "$MINE"', task_description=options)
        two = shell(flow)('echo "$MINE $ASYNCFLOW_SIZE"', task_description={**options, "ranks": 2})
        assert (await one, await two) == ("given\n", "given 2\n" * 2)


@pytest.mark.parametrize("name", CANCELLING)
async def test_cancel_whatever_scancel_is_told(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, CANCELLING[name])
    async with WorkflowEngine.create(backend(), work_dir=root, retries=0) as flow:
        future = shell(flow)("sleep 600")
        await running(future)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert told(job_of(future), "State").startswith(("CANCELLED", "COMPLETING"))


async def test_variables_of_sbatch_hold_where_a_task_says_nothing(
    root: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    monkeypatch.setenv("SBATCH_MEM_PER_NODE", "3000")
    async with WorkflowEngine.create(backend(), work_dir=root, retries=0) as flow:
        default = shell(flow)(gate.command("a"))
        other = shell(flow)(gate.command("b"), task_description={"queue": "high"})
        await running(default, other)
        assert [told(job_of(future), "Partition") for future in (default, other)] == ["short", "high"]
        # The backend of these tests asks for memory by core.
        assert told(job_of(default), "MinMemory") == "50M"
        gate.open()
        await asyncio.gather(default, other)


async def test_variables_that_would_make_another_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CHANGING.items():
        monkeypatch.setenv(name, value)
    async with WorkflowEngine.create(backend(), work_dir=root, retries=0) as flow:
        future = shell(flow)("echo $ASYNCFLOW_RANK >>ranks; cat ranks", task_description={"ranks": 1})
        assert await future == "\n"
        ranks = shell(flow)("echo $ASYNCFLOW_SIZE", task_description={"ranks": 2})
        assert await ranks == "2\n2\n"
        listed = ["squeue", "--states=all", "--noheader", "--Format=Name:", f"--jobs={job_of(ranks)}"]
        names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
        assert len(names) == 1 and names[0].endswith(future.uid[:-1] + "2")
        assert not list(root.rglob("elsewhere*"))
