"""Lines of shell text around a command, and variables that mean something to a shell."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.states import FailureCause

from .tasks import output_of, shell

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "executables")]


@pytest.mark.needs("sandbox")
async def test_lines_around(flow: WorkflowEngine) -> None:
    around = {"pre_exec": ["X=3", "export X"], "post_exec": ["echo after"]}
    assert await shell(flow)("echo $X", task_description=around) == "3\nafter\n"
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("exit 5", task_description=around)
    assert caught.value.exit_code == 5
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("echo never", task_description={"pre_exec": ["(exit 9)"]})
    assert caught.value.exit_code == 9 and output_of(caught.value) == ""


@pytest.mark.needs("sandbox")
async def test_a_command_that_never_began(flow: WorkflowEngine) -> None:
    lines = ["exec true", "exit 0", "set -n", "no-such-program", "trap 'exit 0' EXIT; false"]
    commands = [shell(flow)("echo >ran", task_description={"pre_exec": [line]}) for line in lines]
    for line, error in zip(lines, await asyncio.gather(*commands, return_exceptions=True), strict=True):
        assert isinstance(error, TaskFailedError) and error.cause == FailureCause.BOOTSTRAP, line
        assert "never began" in str(error) and len(error.attempts) == 1, line
    assert not list(flow.session_dir.glob("*/ran"))


@pytest.mark.needs("sandbox")
async def test_lines_that_the_record_survives(flow: WorkflowEngine) -> None:
    lines = [
        "# a comment",
        "trap 'rm -rf scratch' EXIT",
        "trap 'kill 0' EXIT",
        "PATH=/opt/app/bin; export PATH",
        "IFS=0123456789; export IFS",
        "CDPATH=/tmp:/; export CDPATH",
        "cd /",
        "umask 777",
        "set -eu",
        "exec 2>&- 3>&-",
        "printf() { :; }; mv() { :; }; kill() { :; }",
        "unset ASYNCFLOW_SANDBOX",
        "asyncflow_code=0; asyncflow_stage=run; export asyncflow_code asyncflow_stage",
    ]
    for code in (0, 3):
        commands = [shell(flow)(f"echo ran; exit {code}", task_description={"pre_exec": [line]}) for line in lines]
        for line, found in zip(lines, await asyncio.gather(*commands, return_exceptions=True), strict=True):
            if code == 0:
                assert found == "ran\n", line
            else:
                assert isinstance(found, TaskFailedError) and found.exit_code == 3, line
                assert found.cause == FailureCause.EXIT_CODE and output_of(found) == "ran\n", line


@pytest.mark.needs("sandbox")
@pytest.mark.parametrize("lines", [[], ["true"]])
async def test_variables_that_mean_something_to_a_shell(flow: WorkflowEngine, lines: list[str]) -> None:
    hostile = {
        "PATH": "/usr/bin:/bin:/opt/app/bin",
        "IFS": "3",
        "CDPATH": "/tmp:/",
        "UID": "5",
        "asyncflow_host": 'h","exit_code":0,"x":"',
        "asyncflow_record": "/tmp/asyncflow-hostile-record",
    }
    around = {"environment": hostile, "pre_exec": lines}
    # A shell would set IFS anew.
    seen = (await shell(flow)(["/usr/bin/env"], task_description=around)).splitlines()
    assert {f"{name}={value}" for name, value in hostile.items()} <= set(seen)
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)(["/bin/sh", "-c", "exit 3"], task_description=around)
    assert (caught.value.exit_code, caught.value.cause) == (3, FailureCause.EXIT_CODE)
    assert not Path("/tmp/asyncflow-hostile-record").exists()
