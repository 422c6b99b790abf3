"""The commands of emulated PBS, Torque and LSF: few of them, and tasks that survive each when it hangs or lies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing import Emulation, emulate
from tests.conftest import until

from .on_emulators import CANCEL, HISTORY, KINDS, LIST, QUICK, STATUS, SUBMIT, backend
from .on_slurm import Gate, job_of, running, shell


async def test_status_command_that_hangs(root: Path, gate: Gate, emulated: Emulation) -> None:
    name = STATUS[emulated.kind]
    async with WorkflowEngine.create(
        backend(emulated, command_timeout=0.7, grace=0.5), work_dir=root, retries=0
    ) as flow:
        before = emulated.called()[name]
        waiting = shell(flow)(gate.command("waits", "exit 3"))
        await until(lambda: waiting.task.get("native_id"))
        emulated.hang(name)
        assert await shell(flow)("echo its record tells") == "its record tells\n"
        await until(lambda: emulated.called()[name] >= before + 3)
        assert not waiting.done()
        emulated.heal(name)
        await running(waiting)
        gate.open()
        with pytest.raises(TaskFailedError, match="exit code 3"):
            await waiting


async def test_submission_that_hangs_has_not_submitted(root: Path, emulated: Emulation) -> None:
    name = SUBMIT[emulated.kind]
    before = emulated.called()[name]
    emulated.hang(name)
    async with WorkflowEngine.create(backend(emulated, command_timeout=1.0), work_dir=root, retries=0) as flow:
        future = shell(flow)("echo once >>once; cat once")
        await until(lambda: emulated.called()[name] > before)
        emulated.heal(name)
        assert await future == "once\n"
        assert emulated.called()[name] - before == 2


async def test_submission_whose_answer_is_lost_is_not_repeated(root: Path, gate: Gate, emulated: Emulation) -> None:
    name = SUBMIT[emulated.kind]
    before = emulated.called()[name]
    emulated.hang(name, after=True)
    async with WorkflowEngine.create(backend(emulated, command_timeout=1.5), work_dir=root, retries=0) as flow:
        future = shell(flow)(gate.command("job", "echo done"))
        await running(future)
        gate.open()
        assert await future == "done\n"
        assert future.task["native_id"]
        # It was found by its name in the queue, and not submitted again.
        assert emulated.called()[name] - before == 1 and gate.starts() == {"job": 1}


async def test_job_that_ends_before_it_is_found(root: Path, gate: Gate, emulated: Emulation) -> None:
    name = SUBMIT[emulated.kind]
    before = emulated.called()[name]
    emulated.purge(history=0.0)
    emulated.hang(name, after=True)
    async with WorkflowEngine.create(backend(emulated, command_timeout=1.5), work_dir=root, retries=0) as flow:
        gate.open()
        assert await shell(flow)(gate.command("job", "echo done")) == "done\n"
        assert emulated.called()[name] - before == 1 and gate.starts() == {"job": 1}


async def test_cancellation_that_hangs(root: Path, emulated: Emulation) -> None:
    name = CANCEL[emulated.kind]
    before = emulated.called()[name]
    emulated.hang(name)
    async with WorkflowEngine.create(backend(emulated, command_timeout=1.0), work_dir=root, retries=0) as flow:
        futures = [shell(flow)("sleep 1000") for _ in range(3)]
        await running(*futures)
        for future in futures:
            future.cancel()
        await until(lambda: emulated.called()[name] > before)
        emulated.heal(name)
        for future in futures:
            with pytest.raises(asyncio.CancelledError):
                await future
        # One for all, which hung, and one again.
        assert emulated.called()[name] - before <= 4


# More of them are in tests/unit/test_batch_outputs.py.
LIES = {
    "nothing": b"",
    "not UTF-8": b"Job Id: 1.\xff\xfe\n    job_state = F\n    Exit_status = 0\n",
    "broken off": b'Job Id: 1.emulated\n    job_st {"COMMAND":"bjobs","JOBS":3,"RECORDS":[{"JOBID":"1","STAT":"DO',
}


@pytest.mark.parametrize("lie", sorted(LIES))
async def test_status_command_that_lies(root: Path, gate: Gate, emulated: Emulation, lie: str) -> None:
    names = {STATUS[emulated.kind], LIST[emulated.kind]}
    async with WorkflowEngine.create(backend(emulated, grace=30.0), work_dir=root, retries=0) as flow:
        future, bad = shell(flow)(gate.command("job", "echo done")), shell(flow)("sleep 600")
        await running(future, bad)
        for name in names - {"qselect"}:
            emulated.replace(name, LIES[lie])
        asked = emulated.called()[LIST[emulated.kind]]
        await until(lambda: emulated.called()[LIST[emulated.kind]] >= asked + 2)
        assert not future.done() and not bad.done()
        gate.open()
        assert await future == "done\n"
        emulated.kill(job_of(bad))
        emulated.heal()
        with pytest.raises(TaskFailedError) as caught:
            await bad
        assert caught.value.cause is FailureCause.SIGNAL


async def test_refusals_that_pass(root: Path, gate: Gate, emulated: Emulation) -> None:
    gate.open()
    name = SUBMIT[emulated.kind]
    text = {
        "pbs": b"qsub: Request rejected - server shutting down\n",
        "pbs_classic": b"qsub: submit error (Server shutting down)\n",
        "lsf": b"LSF is processing your request. Please wait ...\nBatch daemon not responding. Job not submitted.\n",
    }[emulated.kind]
    emulated.replace(name, err=text, code=212, times=1)
    async with WorkflowEngine.create(backend(emulated), work_dir=root, retries=0) as flow:
        assert await shell(flow)(gate.command("job", "echo in")) == "in\n"
        assert gate.starts() == {"job": 1}


async def test_limit_on_jobs_of_a_user(root: Path, gate: Gate, emulated: Emulation) -> None:
    async with WorkflowEngine.create(backend(emulated, command_timeout=1.5), work_dir=root, retries=0) as flow:
        command, lim = shell(flow), {"queue": "lim"}
        first = command(gate.command("first", "echo first"), task_description=lim)
        await running(first)
        second = command(gate.command("second", "echo second"), task_description=lim)
        asked = emulated.called()[SUBMIT[emulated.kind]]
        await until(lambda: emulated.called()[SUBMIT[emulated.kind]] > asked)
        assert not second.done()
        gate.open()
        assert await first == "first\n" and await second == "second\n"
        assert gate.starts() == {"first": 1, "second": 1}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
async def test_few_commands_for_many_tasks(root: Path, kind: str) -> None:
    number = 300
    with emulate(kind, nodes=4, cores=4, **QUICK) as emulated:
        async with WorkflowEngine.create(backend(emulated, poll_interval=5.0), work_dir=root, retries=0) as flow:
            futures = [shell(flow)(f"echo {index}") for index in range(number)]
            assert await asyncio.gather(*futures) == [f"{index}\n" for index in range(number)]
        called, times = emulated.called(), emulated.times(LIST[kind])
    assert called[SUBMIT[kind]] == number
    assert called[CANCEL[kind]] == 0
    # While jobs come and go, the queue is asked once a second; it does not matter how many they are.
    assert len(times) <= times[-1] - times[0] + 2
    if kind == "lsf":
        assert called[HISTORY[kind] or ""] == 0
    else:
        # Two hundred jobs to a command.
        assert called[STATUS[kind]] <= 3 * len(times)
