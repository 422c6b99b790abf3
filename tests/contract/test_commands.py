"""Executable tasks: what a command means, what it sees, and what is told of its end."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow_hpc import OutputFile, WorkflowEngine
from asyncflow_hpc.errors import CommandError, SessionError, TaskFailedError
from asyncflow_hpc.states import FailureCause
from tests.conftest import until


def shell(flow: WorkflowEngine) -> Any:
    @flow.executable_task
    async def command(text: Any, *_: Any) -> Any:
        return text

    return command


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo 'a; echo X'", "a; echo X\n"),
        ('echo "a; echo X"', "a; echo X\n"),
        ("printf 'b\\na\\n' | sort; echo $((1+1)) >&1", "a\nb\n2\n"),
        ("/bin/echo plain words", "plain words\n"),
        ("/bin/echo \"two  words\" '$HOME'", "two  words $HOME\n"),
        (["/bin/echo", "$HOME", "a;b", "*"], "$HOME a;b *\n"),
        ("printf ''", ""),
        ("printf '\\377\\376x'", "��x"),
    ],
)
async def test_meaning(flow: WorkflowEngine, command: Any, output: str) -> None:
    future = shell(flow)(command)
    assert await future == output
    assert (future.state, future.task["exit_code"], future.task["stderr"]) == ("DONE", 0, "")


@pytest.mark.parametrize(
    ("command", "code", "stderr"),
    [
        ('sh -c "exit 7"', 7, ""),
        ("echo why >&2; exit 3", 3, "why\n"),
        ("no-such-program-here", 127, "not found"),
        (["no such program here", "x"], 127, "not found"),
        (["/etc/passwd"], 126, "ermission denied"),
    ],
)
async def test_failure(flow: WorkflowEngine, command: Any, code: int, stderr: str) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)(command)
    error = caught.value
    assert isinstance(error, RuntimeError)
    assert (error.exit_code, error.cause, error.signal) == (code, FailureCause.EXIT_CODE, None)
    assert stderr in error.stderr and stderr in str(error)
    assert error.sandbox is not None and error.sandbox in str(error) and error.uid in str(error)


async def test_signal(flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("kill -SEGV $$")
    assert (caught.value.cause, caught.value.signal) == (FailureCause.SIGNAL, signal.SIGSEGV)


@pytest.mark.parametrize("nothing", ["", "  ", None, 5, [], ["", "x"], ["a", 1], "a\0b"])
async def test_no_command(flow: WorkflowEngine, nothing: Any) -> None:
    with pytest.raises(CommandError, match=r"'command' must return a non-empty command string"):
        await shell(flow)(nothing)


async def test_sandbox(flow: WorkflowEngine) -> None:
    future = shell(flow)('pwd; echo "$ASYNCFLOW_TASK_UID $ASYNCFLOW_ATTEMPT"; echo "$ASYNCFLOW_SANDBOX"; echo x >made')
    seen = (await future).splitlines()
    sandbox = flow.session_dir / future.task["uid"]
    assert seen == [str(sandbox), f"{future.task['uid']} 0", str(sandbox)]
    assert future.task["sandbox"] == str(sandbox)
    uid = future.task["uid"]
    made = set(os.listdir(sandbox)) - {".asyncflow"}
    assert made == {"made", f"{uid}.err", f"{uid}.out"}
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in (flow.session_dir, sandbox)}
    assert modes == {0o700}
    assert {stat.S_IMODE(os.stat(sandbox / name).st_mode) for name in made} == {0o600}


async def test_no_session_directory_before_the_first_task(flow: WorkflowEngine) -> None:
    assert not flow.session_dir.exists()
    await shell(flow)("true")
    assert flow.session_dir.is_dir()


async def test_environment(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_DRIVER", "there")
    values = {"A": "1  2 $HOME `x` \"'", "B": "", "C": 7}
    text = 'printf "%s|" "$A" "$B" "$C" "$OF_THE_DRIVER"'
    seen = await shell(flow)(text, task_description={"environment": values})
    assert seen == "1  2 $HOME `x` \"'||7|there|"


async def test_a_workflow_within_a_task(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCFLOW_BACKEND", raising=False)
    script = """
import asyncio
from asyncflow_hpc import WorkflowEngine

async def main():
    async with WorkflowEngine.create() as flow:
        @flow.function_task
        async def square(x):
            return x * x
        print(flow.backend.name, await square(7))

asyncio.run(main())
"""
    assert await shell(flow)([sys.executable, "-c", script]) == "local 49\n"


async def test_cwd(flow: WorkflowEngine, root: Path) -> None:
    assert await shell(flow)("pwd", task_description={"cwd": root}) == f"{root}\n"
    with pytest.raises(SessionError, match="nowhere"):
        await shell(flow)("pwd", task_description={"cwd": root / "nowhere"})


async def test_lines_around(flow: WorkflowEngine) -> None:
    around = {"pre_exec": ["X=3", "export X"], "post_exec": ["echo after"]}
    assert await shell(flow)("echo $X", task_description=around) == "3\nafter\n"
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("exit 5", task_description=around)
    assert caught.value.exit_code == 5
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("echo never", task_description={"pre_exec": ["(exit 9)"]})
    assert caught.value.exit_code == 9 and await_output(caught.value) == ""


def await_output(error: TaskFailedError) -> str:
    assert error.sandbox is not None
    return Path(error.sandbox, f"{error.uid}.out").read_text()


async def test_ranks(flow: WorkflowEngine) -> None:
    wide = {"ranks": 2, "gpus_per_rank": 1}
    seen = await shell(flow)("echo $ASYNCFLOW_RANK/$ASYNCFLOW_SIZE gpu $CUDA_VISIBLE_DEVICES", task_description=wide)
    assert sorted(seen.splitlines()) == ["0/2 gpu 0", "1/2 gpu 1"]


async def test_first_failing_rank_ends_the_others(flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("[ $ASYNCFLOW_RANK = 1 ] && exit 4; sleep 600", task_description={"ranks": 2})
    assert caught.value.exit_code == 4


async def test_launcher(flow: WorkflowEngine, root: Path) -> None:
    launcher = root / "launch"
    launcher.write_text('#!/bin/sh\necho "launch $1 $2"\nshift 2\nexec "$@"\n')
    launcher.chmod(0o755)
    quoted = "'" + str(launcher).replace("'", "'\\''") + "'"
    seen = await shell(flow)("echo run", task_description={"ranks": 2, "launcher": quoted})
    assert seen == "launch -n 2\nrun\n"


async def test_walltime(flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("trap '' TERM; echo begun; sleep 600", task_description={"walltime": 0.5})
    assert caught.value.cause is FailureCause.WALLTIME
    assert await_output(caught.value) == "begun\n"


async def test_missing_output(flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError, match=r"never\.dat") as caught:
        await shell(flow)("echo x >made.dat", OutputFile("made.dat"), OutputFile("never.dat"))
    assert caught.value.cause is FailureCause.MISSING_OUTPUT


async def test_large_output(flow: WorkflowEngine) -> None:
    size = 20 * 1024 * 1024
    output = await shell(flow)(f"yes 0123456789abcde | head -c {size}")
    assert len(output) == size and output.endswith("0123456789abcde\n")


async def test_output_over_the_limit(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow_hpc.backends.local.output.LIMIT", 2 * 1024 * 1024)
    future = shell(flow)(f"head -c {3 * 1024 * 1024} /dev/zero | tr '\\0' x")
    output = await future
    head, _, notice = output.partition("\n")
    assert head == "x" * 2 * 1024 * 1024
    assert str(3 * 1024 * 1024) in notice and future.task["sandbox"] in notice


async def test_sync_body_and_values_of_futures(flow: WorkflowEngine) -> None:
    @flow.executable_task
    def command(text: str) -> str:
        return f"printf %s '{text}'"

    assert await command(command(command("deep"))) == "deep"


async def test_leftovers_of_a_finished_task_are_ended(flow: WorkflowEngine) -> None:
    pid = int(await shell(flow)("sleep 600 >/dev/null 2>&1 & echo $!"))
    await until(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
