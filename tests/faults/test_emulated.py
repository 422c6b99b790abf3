"""Emulated PBS, Torque and LSF that misbehave: what became of a task is told truly, or not at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import OutputFile, WorkflowEngine
from asyncflow_hpc.errors import SubmitError, TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing import Emulation, emulate
from asyncflow_hpc.testing.leftovers import processes_here
from tests.conftest import until

from .on_emulators import CANCEL, HELD, HISTORY, LIST, QUICK, RELEASE, SUBMIT, backend, call
from .on_slurm import Gate, job_of, running, shell


async def test_server_down_in_the_middle(root: Path, gate: Gate, emulated: Emulation) -> None:
    # Shorter than the outage, whatever the backend may change its mind after.
    impatient = backend(emulated, command_timeout=2.0, grace=1.0, patience=1)
    later = Gate(root, "later")
    async with WorkflowEngine.create(impatient, work_dir=root, retries=0) as flow:
        early = [shell(flow)(gate.command(number, f"echo {number}")) for number in range(8)]
        late = [shell(flow)(later.command(number, f"echo {number}")) for number in range(8, 16)]
        await running(*early, *late)
        emulated.down()
        gate.open()
        # Their records tell, though the queue does not.
        assert await asyncio.gather(*early) == [f"{number}\n" for number in range(8)]
        asked = emulated.called()[LIST[emulated.kind]]
        await until(lambda: emulated.called()[LIST[emulated.kind]] >= asked + 3)
        assert all(future.state == "RUNNING" for future in late)
        emulated.up()
        later.open()
        assert await asyncio.gather(*late) == [f"{number}\n" for number in range(8, 16)]
        assert gate.starts() | later.starts() == {str(number): 1 for number in range(16)}


async def test_killed_while_the_server_is_down(root: Path, gate: Gate, emulated: Emulation) -> None:
    async with WorkflowEngine.create(
        backend(emulated, command_timeout=2.0, grace=1.0), work_dir=root, retries=0
    ) as flow:
        future = shell(flow)(gate.command("job"))
        await running(future)
        emulated.down()
        emulated.kill(job_of(future))
        asked = emulated.called()[LIST[emulated.kind]]
        await until(lambda: emulated.called()[LIST[emulated.kind]] >= asked + 3)
        assert not future.done()
        emulated.up()
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert caught.value.cause in (FailureCause.SIGNAL, FailureCause.LOST)


async def test_a_job_submitted_while_the_server_is_down(root: Path, gate: Gate, emulated: Emulation) -> None:
    gate.open()
    async with WorkflowEngine.create(backend(emulated, command_timeout=2.0), work_dir=root, retries=0) as flow:
        emulated.down()
        future = shell(flow)(gate.command("late", "echo at last"))
        await until(lambda: emulated.called()[SUBMIT[emulated.kind]] >= 1)
        assert not future.done()
        emulated.up()
        assert await future == "at last\n"
        assert gate.starts() == {"late": 1}


async def test_cancelled_from_outside(emulated_flow: WorkflowEngine, emulated: Emulation) -> None:
    future = shell(emulated_flow)("sleep 600")
    await running(future)
    call(CANCEL[emulated.kind], job_of(future))
    with pytest.raises(asyncio.CancelledError):
        await future
    assert future.task["cause"] == FailureCause.CANCELLED


async def test_cancelled_from_outside_before_it_ran(emulated_flow: WorkflowEngine, emulated: Emulation) -> None:
    future = shell(emulated_flow)("echo ran", task_description=HELD[emulated.kind])
    await until(lambda: future.task.get("native_id"))
    call(CANCEL[emulated.kind], job_of(future))
    with pytest.raises(asyncio.CancelledError):
        await future
    assert future.task["cause"] == FailureCause.CANCELLED


@pytest.mark.parametrize("script_only", [False, True], ids=["all of it", "script alone"])
async def test_script_that_is_killed_is_never_done(
    emulated_flow: WorkflowEngine, emulated: Emulation, root: Path, script_only: bool
) -> None:
    future = shell(emulated_flow)("sleep 3", OutputFile("never"))
    await running(future)
    emulated.kill(job_of(future), signal.SIGKILL, script_only=script_only)
    with pytest.raises(TaskFailedError) as caught:
        await future
    assert caught.value.cause is FailureCause.SIGNAL
    await until(lambda: not processes_here(root))


async def test_walltime(emulated_flow: WorkflowEngine) -> None:
    # LSF counts in minutes, so that the backend ends it there.
    with pytest.raises(TaskFailedError, match="walltime") as caught:
        await shell(emulated_flow)("trap '' TERM; sleep 600", task_description={"walltime": 1})
    assert caught.value.cause is FailureCause.WALLTIME


@pytest.mark.parametrize("stubborn", [False, True], ids=["ended by a signal", "ignores signals"])
@pytest.mark.parametrize("kind", ["pbs", "pbs_classic", "lsf"])
async def test_walltime_of_the_scheduler(root: Path, kind: str, stubborn: bool) -> None:
    with emulate(kind, speed=120.0, **QUICK) as fast:
        async with WorkflowEngine.create(backend(fast), work_dir=root, retries=0) as flow:
            trap = "trap '' INT TERM USR2; " if stubborn else ""
            with pytest.raises(TaskFailedError) as caught:
                await shell(flow)(f"{trap}sleep 600; sleep 600", task_description={"walltime": 120})
            assert caught.value.cause is FailureCause.WALLTIME


async def test_memory(emulated_flow: WorkflowEngine) -> None:
    program = "x = bytearray(300_000_000); import time; time.sleep(600)"
    with pytest.raises(TaskFailedError) as caught:
        await shell(emulated_flow)([sys.executable, "-c", program], task_description={"mem_per_rank": "100MB"})
    assert caught.value.cause is FailureCause.MEMORY


async def test_a_job_that_vanishes_is_lost(root: Path, emulated: Emulation) -> None:
    async with WorkflowEngine.create(backend(emulated, grace=1.0), work_dir=root, retries=0) as flow:
        future, other = shell(flow)("sleep 600"), shell(flow)("sleep 3; echo other")
        await running(future, other)
        emulated.lose(job_of(future))
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert caught.value.cause is FailureCause.LOST
        assert await other == "other\n"


async def test_a_queued_job_that_vanishes_is_lost(root: Path, emulated: Emulation) -> None:
    async with WorkflowEngine.create(backend(emulated, grace=1.0), work_dir=root, retries=0) as flow:
        future = shell(flow)("echo ran", task_description=HELD[emulated.kind])
        await until(lambda: future.task.get("native_state"))
        emulated.lose(job_of(future))
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert caught.value.cause is FailureCause.LOST


async def test_done_by_the_schedulers_records_alone_is_not_run_again(root: Path, emulated: Emulation) -> None:
    async def script(flow: WorkflowEngine) -> tuple[str, str]:
        # Its record cannot be written; the marks of its command are there.
        spoil = "rm .asyncflow/exit.json.part; mkdir .asyncflow/exit.json.part"
        future = shell(flow)(f"echo out; echo ran >>../../ran; echo made >made; {spoil}", OutputFile("made"))
        return await future, Path(future.task["sandbox"], "made").read_text()

    async with WorkflowEngine.create(backend(emulated, patience=1), work_dir=root, uid="s", retries=0) as flow:
        if HISTORY[emulated.kind] is None:
            with pytest.raises(TaskFailedError, match="LOST"):
                await script(flow)
            return
        assert await script(flow) == ("out\n", "made\n")
    for gone in (False, True):
        if gone:
            (root / "s" / "task.000001" / "made").unlink()
        async with WorkflowEngine.create(backend(emulated, patience=1), resume=root / "s", retries=0) as flow:
            assert await script(flow) == ("out\n", "made\n")
        assert (root / "ran").read_text() == "ran\n" * (1 + gone)


async def test_purged_before_anybody_looked(root: Path, gate: Gate, emulated: Emulation) -> None:
    emulated.purge(history=0.0)
    async with WorkflowEngine.create(backend(emulated, grace=1.0, poll_interval=3.0), work_dir=root, retries=0) as flow:
        good, bad = shell(flow)(gate.command("good", "echo good")), shell(flow)("sleep 600")
        await running(good, bad)
        gate.open()
        assert await good == "good\n"
        emulated.kill(job_of(bad))
        with pytest.raises(TaskFailedError) as caught:
            await bad
        # The events of LSF outlive its memory.
        assert caught.value.cause is (FailureCause.SIGNAL if emulated.kind == "lsf" else FailureCause.LOST)


async def test_refused_in_the_schedulers_own_words(emulated_flow: WorkflowEngine, emulated: Emulation) -> None:
    good = shell(emulated_flow)("echo good")
    limits = {"queue": "short", "walltime": "10:00:00"}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"queue": "no-such-queue"}, "nknown queue|No such queue"),
        ({"queue": "off"}, "not enabled|has been closed"),
        ({"queue": "acl"}, "Unauthorized|cannot use the queue"),
        (limits, "violates queue|exceeds queue|Cannot exceed queue"),
    ]
    before = emulated.called()[SUBMIT[emulated.kind]]
    for description, words in refused:
        with pytest.raises(SubmitError, match=words):
            await shell(emulated_flow)("true", task_description=description)
    assert await good == "good\n"
    assert emulated.called()[SUBMIT[emulated.kind]] - before <= len(refused) + 1


async def test_job_that_can_never_run(root: Path, emulated: Emulation, caplog: pytest.LogCaptureFixture) -> None:
    async with WorkflowEngine.create(backend(emulated, fail_unrunnable=True), work_dir=root, retries=0) as flow:
        future = shell(flow)("true", task_description={"cores_per_rank": 1000})
        if emulated.kind == "lsf":
            # Its words are those of hosts that are down for a while, too.
            await until(lambda: "no host has what it asks for now" in caplog.text)
            assert not future.done()
            future.cancel()
            return
        with pytest.raises(TaskFailedError, match="Can Never Run"):
            await future


async def test_what_holds_a_job_is_told_once(
    emulated_flow: WorkflowEngine, emulated: Emulation, caplog: pytest.LogCaptureFixture
) -> None:
    future = shell(emulated_flow)("echo went", task_description=HELD[emulated.kind])
    await until(lambda: "it is held" in caplog.text)
    call(RELEASE[emulated.kind], job_of(future))
    assert await future == "went\n"
    assert caplog.text.count("it is held") == 1


async def test_queue_that_does_not_start_jobs(
    emulated_flow: WorkflowEngine, emulated: Emulation, caplog: pytest.LogCaptureFixture
) -> None:
    future = shell(emulated_flow)("true", task_description={"queue": "stopped"})
    await until(lambda: "queue" in caplog.text and "waits" in caplog.text)
    assert future.state in ("PENDING", "SUBMITTED")
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future


async def test_other_jobs_of_the_user_do_not_matter(
    emulated_flow: WorkflowEngine, emulated: Emulation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Of another environment, which is not UTF-8 and looks like an answer.
    monkeypatch.setenv("ODD", os.fsdecode(b"\377\n    job_state = F\n    Exit_status = 0\nJob Id: 1.x\n"))
    if emulated.kind == "lsf":
        said = call("bsub", "-J", "two words", "-H", "true").split("<")[1].split(">")[0]
    else:
        (tmp_path / "script").touch()
        said = call("qsub", "-h", "-V", "-N", "x;y", str(tmp_path / "script")).strip()
    try:
        assert await shell(emulated_flow)("echo fine") == "fine\n"
        with pytest.raises(TaskFailedError):
            await shell(emulated_flow)("kill -9 $PPID $$; sleep 600")
    finally:
        call(CANCEL[emulated.kind], said)


async def test_function_without_a_python_on_the_node(root: Path, emulated: Emulation) -> None:
    async with WorkflowEngine.create(backend(emulated, python="/no/such/python3"), work_dir=root, retries=0) as flow:

        @flow.function_task
        async def call_it() -> int:
            return 1

        with pytest.raises(TaskFailedError, match="/no/such/python3") as caught:
            await call_it()
        assert caught.value.cause is FailureCause.BOOTSTRAP


async def test_nothing_of_psij_stays(root: Path, emulated: Emulation) -> None:
    async with WorkflowEngine.create(backend(emulated), work_dir=root, retries=0) as flow:
        assert await shell(flow)("echo it") == "it\n"
    (session,) = (path for path in root.iterdir() if path.is_dir())
    assert sorted(path.name for path in session.iterdir()) == [".asyncflow", ".spool", "journal.jsonl", "task.000001"]


@pytest.mark.parametrize("kind", ["pbs", "pbs_classic", "lsf"])
@pytest.mark.parametrize("there", [False, True], ids=["no home", "not writable"])
async def test_home_that_cannot_be_written(
    root: Path, kind: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    if there:
        home.mkdir(0o555)
    monkeypatch.setenv("HOME", str(home))
    with emulate(kind, home=home, **QUICK) as emulated:
        async with WorkflowEngine.create(backend(emulated), work_dir=root, retries=0) as flow:
            assert await shell(flow)("echo out; pwd >here", OutputFile("here")) == "out\n"
            with pytest.raises(TaskFailedError) as caught:
                await shell(flow)("exit 7")
            assert caught.value.exit_code == 7
    assert home.exists() == there and not (there and list(home.iterdir()))
    shutil.rmtree(home, ignore_errors=True)
