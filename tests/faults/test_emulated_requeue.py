"""Jobs of emulated PBS, Torque and LSF that are put back into the queue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import InputFile, OutputFile, WorkflowEngine
from asyncflow_hpc.testing import Emulation
from tests.conftest import until

from .on_emulators import call
from .on_slurm import Gate, job_of, running, shell

AGAIN: dict[str, dict[str, Any]] = {
    "pbs": {"pbs": {"r": "y"}},
    "pbs_classic": {"pbs": {"r": "y"}},
    "lsf": {"lsf": {"r": True}},
}


async def test_put_back_by_hand(emulated_flow: WorkflowEngine, emulated: Emulation, gate: Gate, root: Path) -> None:
    (root / "input").write_text("of the input\n")
    future = shell(emulated_flow)(
        gate.command("job", "cat input; echo out >out"),
        InputFile(root / "input"),
        OutputFile("out"),
        task_description=AGAIN[emulated.kind],
    )
    await running(future)
    await until(lambda: gate.starts() == {"job": 1})
    if emulated.kind == "lsf":
        call("brequeue", job_of(future))
    else:
        # Of PBS and Torque, an operator has to do it.
        emulated.requeue(job_of(future))
    await until(lambda: gate.starts() == {"job": 2})
    gate.open()
    assert await future == "of the input\n"
    assert gate.starts() == {"job": 2}


async def test_put_back_though_it_does_not_ask_for_it(
    emulated_flow: WorkflowEngine, emulated: Emulation, gate: Gate
) -> None:
    future = shell(emulated_flow)(gate.command("job", "echo done"))
    await running(future)
    await until(lambda: gate.starts() == {"job": 1})
    emulated.requeue(job_of(future))
    await until(lambda: gate.starts() == {"job": 2})
    gate.open()
    assert await future == "done\n"


async def test_put_back_and_cancelled(emulated_flow: WorkflowEngine, emulated: Emulation, gate: Gate) -> None:
    future = shell(emulated_flow)(gate.command("job"))
    await running(future)
    await until(lambda: gate.starts() == {"job": 1})
    emulated.requeue(job_of(future))
    await until(lambda: gate.starts() == {"job": 2})
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
