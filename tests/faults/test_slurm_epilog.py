"""Jobs that Slurm lists as COMPLETING for long, as while an epilog runs: their tasks have ended all the same."""

from __future__ import annotations

import asyncio
import logging
import shlex
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.psij import ending
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from tests.conftest import until

from .on_slurm import Wrappers, backend, directory, job_of, needs_root, on_slurm, running, scontrol, shell, told

pytestmark = on_slurm

SHORT = {"defaults": {"mem_per_rank": "50MB", "queue": "short"}}


@pytest.fixture
async def slow_epilog(tmp_path: Path) -> AsyncIterator[None]:
    """An epilog of the partition "short" that lasts until the test has ended."""
    conf, gate, script = directory() / "etc" / "slurm.conf", tmp_path / "gate", directory() / "etc" / "epilog"
    before = conf.read_text()
    waits = f"until [ -e {shlex.quote(str(gate))} ]; do sleep 0.1; done"
    script.write_text(f'#!/bin/sh\n[ "$SLURM_JOB_PARTITION" != short ] || {waits}\n')
    script.chmod(0o755)
    conf.write_text(f"{before}Epilog={script}\n")
    scontrol("reconfigure")
    yield
    gate.touch()
    listed = ["squeue", "--noheader", "--partition=short"]
    await until(lambda: not subprocess.run(listed, check=True, capture_output=True).stdout)
    # A node whose epilog is missing is drained, and nobody knows when it has read its configuration.
    script.write_text("#!/bin/sh\n")
    conf.write_text(before)
    scontrol("reconfigure")


@needs_root
async def test_a_signal_is_told_before_the_epilog_has_ended(
    root: Path, slow_epilog: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_LINGERING", 1.0)
    async with WorkflowEngine.create(backend(**SHORT), work_dir=root, retries=0) as flow:
        future = shell(flow)("kill -9 $$")
        with pytest.raises(TaskFailedError) as caught:
            await future
        assert (caught.value.cause, caught.value.signal) == (FailureCause.SIGNAL, 9)
        assert told(job_of(future), "State") == "COMPLETING"


@needs_root
async def test_a_cancelled_task_ends_before_its_epilog(root: Path, slow_epilog: None) -> None:
    async with WorkflowEngine.create(backend(**SHORT), work_dir=root, retries=0) as flow:
        future = shell(flow)("exec sleep 600")
        await running(future)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert told(job_of(future), "State") == "COMPLETING"


@needs_root
async def test_a_cancelled_task_that_left_no_record_ends_before_its_epilog(
    root: Path, slow_epilog: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_LINGERING", 1.0)
    async with WorkflowEngine.create(backend(**SHORT), work_dir=root, retries=0) as flow:
        future = shell(flow)("trap '' TERM; touch up; while :; do sleep 1; done")
        await running(future)
        await until(lambda: list(root.rglob("up")))
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert told(job_of(future), "State") == "COMPLETING"


async def test_a_job_that_is_still_there_after_several_requests(
    root: Path, wrappers: Wrappers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ending, "_AGAIN", 0.1)
    async with WorkflowEngine.create(backend(), work_dir=root, retries=0) as flow:
        future = shell(flow)("sleep 600")
        await running(future)
        wrappers.lie("scancel", "says-nothing")
        with caplog.at_level(logging.WARNING):
            future.cancel()
            await until(lambda: "is still there after 4 requests" in caplog.text)
            await wrappers.calls("scancel", 2)
        wrappers.release("scancel")
        with pytest.raises(asyncio.CancelledError):
            await future
        assert caplog.text.count("is still there") == 1 and job_of(future) in caplog.text
