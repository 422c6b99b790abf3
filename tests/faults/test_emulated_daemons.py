"""What tasks leave behind, and their own process group, on emulated PBS, Torque and LSF: the run script sees to it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing import Emulation
from asyncflow_hpc.testing.leftovers import processes_here
from tests.conftest import until

from .on_emulators import CANCEL, call
from .on_slurm import job_of, running, shell

# Out of the session of the job; it says when it is there.
DAEMON = "setsid sh -c 'echo >up; exec sleep 600' </dev/null >/dev/null 2>&1 & while [ ! -e up ]; do sleep 0.05; done"


async def test_daemon_of_a_finished_task_is_ended(emulated_flow: WorkflowEngine, root: Path) -> None:
    assert await shell(emulated_flow)(f"{DAEMON}; echo done") == "done\n"
    await until(lambda: not processes_here(root))


async def test_daemon_of_a_failed_task_is_ended(emulated_flow: WorkflowEngine, root: Path) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await shell(emulated_flow)(f"{DAEMON}; exit 7")
    assert caught.value.exit_code == 7
    await until(lambda: not processes_here(root))


@pytest.mark.parametrize("by_hand", [False, True], ids=["by us", "by hand"])
@pytest.mark.parametrize("trap", ["", "trap '' TERM INT; "], ids=["ended by a signal", "ignores signals"])
async def test_daemon_of_a_cancelled_task_is_ended(
    emulated_flow: WorkflowEngine, emulated: Emulation, root: Path, trap: str, by_hand: bool
) -> None:
    future = shell(emulated_flow)(f"{trap}{DAEMON}; echo >ready; sleep 600")
    await running(future)
    await until(lambda: list(root.glob("*/*/ready")))
    if by_hand:
        call(CANCEL[emulated.kind], job_of(future))
    else:
        future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    await until(lambda: not processes_here(root))


async def test_job_that_is_killed_takes_its_task_along(
    emulated_flow: WorkflowEngine, emulated: Emulation, root: Path
) -> None:
    # A task that had a session of its own would outlive this on PBS and Torque: nothing is left that could end it.
    future = shell(emulated_flow)("(sleep 600 & wait) & echo >ready; sleep 600")
    await running(future)
    await until(lambda: list(root.glob("*/*/ready")))
    emulated.kill(job_of(future), signal.SIGKILL)
    with pytest.raises(TaskFailedError):
        await future
    await until(lambda: not processes_here(root))


async def test_task_that_signals_its_own_group(emulated_flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await shell(emulated_flow)("kill -TERM 0; sleep 600")
    assert (caught.value.cause, caught.value.signal) == (FailureCause.SIGNAL, signal.SIGTERM)


async def test_task_that_spares_itself_the_signal_to_its_group(emulated_flow: WorkflowEngine) -> None:
    # Its group is not that of the login shell that leads its job.
    assert await shell(emulated_flow)("trap '' TERM; kill -TERM 0; sleep 0.2; echo alive") == "alive\n"
