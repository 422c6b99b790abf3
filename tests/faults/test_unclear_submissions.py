"""Submit commands that fail after they have submitted: the job is found, or runs nothing, and never runs twice."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.backends.run_script import claimed_by
from asyncflow_hpc.errors import SubmitError
from asyncflow_hpc.testing import emulate

from .on_emulators import KINDS, QUICK, SUBMIT
from .on_slurm import CLUSTER, Gate, backend, running, shell

# What a submit command does after it has submitted.
AFTER = {
    "prints the id and fails": '"$real" "$@"; echo "the hook of the site failed" >&2; exit 3',
    "prints the id and fails in known words": '"$real" "$@"; echo "Unknown queue, invalid partition" >&2; exit 1',
    "fails in silence": '"$real" "$@" >/dev/null; exit 1',
    "is killed": '"$real" "$@" >/dev/null; kill -9 $$',
    "has a child that is killed": '"$real" "$@" >/dev/null; sh -c \'kill -9 $$\'; exit 137',
    "ends well and prints no id": '"$real" "$@" >/dev/null; echo "job accepted"',
}

Submit = Callable[[str], Callable[[], int]]


@pytest.fixture(params=["slurm", *KINDS])
def scheduler(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "slurm":
        if not CLUSTER:
            pytest.skip("no Slurm here; scripts/test starts one as root")
        yield "slurm"
        return
    with emulate(request.param, nodes=2, cores=8, **QUICK):
        yield request.param


@pytest.fixture
def submit(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Put another submit command before the real one; gives a function that tells how often it was called."""

    def replace(script: str) -> Callable[[], int]:
        name = {"slurm": "sbatch", **SUBMIT}[scheduler]
        real = shutil.which(name)
        assert real is not None
        log = tmp_path / "submissions"
        path = tmp_path / "bin" / name
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\nreal={shlex.quote(real)}\necho called >>{shlex.quote(str(log))}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=":")
        return lambda: len(log.read_text().splitlines())

    return replace


def made(scheduler: str) -> PsijExecutionBackend:
    defaults = {"mem_per_rank": "50MB"} if scheduler == "slurm" else {}
    return backend(scheduler=scheduler, defaults=defaults)


@pytest.mark.parametrize("what", AFTER)
async def test_a_job_that_was_submitted_is_found(
    root: Path, gate: Gate, scheduler: str, submit: Submit, what: str
) -> None:
    calls = submit(AFTER[what])
    async with WorkflowEngine.create(made(scheduler), work_dir=root, retries=0) as flow:
        future = shell(flow)(gate.command("job", "echo done"))
        await running(future)
        gate.open()
        assert await future == "done\n"
        assert future.task["native_id"] and calls() == 1 and gate.starts() == {"job": 1}


async def test_a_job_that_has_begun_is_found_whatever_was_said(
    root: Path, gate: Gate, scheduler: str, submit: Submit
) -> None:
    # Until the job has begun, so that nobody can keep it from running.
    begun = f"until grep -q . {shlex.quote(str(root / 'gate.log'))}; do sleep 0.1; done"
    calls = submit(f'"$real" "$@" >/dev/null; {begun}; echo "Unknown queue, invalid partition" >&2; exit 1')
    async with WorkflowEngine.create(made(scheduler), work_dir=root, retries=0) as flow:
        future = shell(flow)(gate.command("job", "echo done"))
        gate.open()
        assert await future == "done\n"
        assert calls() == 1 and gate.starts() == {"job": 1}


async def test_a_refusal_in_unknown_words_is_final(root: Path, scheduler: str, submit: Submit) -> None:
    calls = submit('echo "the moon is in the wrong quarter" >&2; exit 1')
    async with WorkflowEngine.create(made(scheduler), work_dir=root) as flow:
        future = shell(flow)("echo never")
        with pytest.raises(SubmitError, match="the moon is in the wrong quarter"):
            await future
        assert calls() == 1
        # Should it turn up in the queue all the same, it runs nothing.
        (sandbox,) = root.glob(f"*/{future.uid}")
        assert claimed_by(str(sandbox)) == "none"
