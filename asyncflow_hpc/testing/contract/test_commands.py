"""Executable tasks: what a command means, what it sees, and what is told of its end."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import OutputFile, WorkflowEngine
from asyncflow_hpc.errors import CommandError, SessionError, TaskDescriptionError, TaskFailedError, TooLargeError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing import BackendUnderTest
from asyncflow_hpc.testing.waiting import until

from .tasks import output_of, sandbox_of, shell, umask_here

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "executables")]


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


@pytest.mark.parametrize("name", ["SEGV", "KILL", "TERM"])
async def test_signal(flow: WorkflowEngine, name: str) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)(f"kill -{name} $$")
    assert (caught.value.cause, caught.value.signal) == (FailureCause.SIGNAL, signal.Signals[f"SIG{name}"])


@pytest.mark.parametrize("nothing", ["", "  ", None, 5, [], ["", "x"], ["a", 1], "a\0b"])
async def test_no_command(flow: WorkflowEngine, nothing: Any) -> None:
    with pytest.raises(CommandError, match=r"'command' must return a non-empty command string"):
        await shell(flow)(nothing)


async def test_sync_body_and_values_of_futures(flow: WorkflowEngine) -> None:
    @flow.executable_task
    def command(text: str) -> str:
        return f"printf %s '{text}'"

    assert await command(command(command("deep"))) == "deep"


@pytest.mark.needs("sandbox")
async def test_sandbox(flow: WorkflowEngine) -> None:
    future = shell(flow)('pwd; echo "$ASYNCFLOW_TASK_UID $ASYNCFLOW_ATTEMPT"; echo "$ASYNCFLOW_SANDBOX"; echo x >made')
    seen = (await future).splitlines()
    sandbox = flow.session_dir / future.task["uid"]
    assert seen == [str(sandbox), f"{future.task['uid']} 0", str(sandbox)]
    assert future.task["sandbox"] == str(sandbox)
    uid = future.task["uid"]
    made = set(os.listdir(sandbox)) - {".asyncflow"}
    assert made == {"made", f"{uid}.err", f"{uid}.out"}
    # What the task makes has the driver's umask; the directories around it are private.
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in (flow.session_dir, sandbox)}
    assert modes == {0o700}
    assert stat.S_IMODE(os.stat(sandbox / "made").st_mode) == 0o666 & ~umask_here()
    assert {stat.S_IMODE(os.stat(sandbox / f"{uid}.{ending}").st_mode) for ending in ("out", "err")} == {0o600}


@pytest.mark.needs("sandbox")
@pytest.mark.parametrize("uid", ["back\\slash\\", "%j %s {x} #1"])
async def test_name_of_a_session(backend: Any, root: Path, uid: str) -> None:
    async with WorkflowEngine.create(backend=backend, work_dir=root, uid=uid) as flow:

        async def command() -> str:
            return "pwd"

        command.__name__ = "quoted ' and \\"
        assert await flow.executable_task(command)() == f"{root}/{uid}/task.000001\n"


@pytest.mark.needs("sandbox")
async def test_no_session_directory_before_the_first_task(flow: WorkflowEngine) -> None:
    assert not flow.session_dir.exists()
    await shell(flow)("true")
    assert flow.session_dir.is_dir()


@pytest.mark.needs("sandbox")
@pytest.mark.parametrize(("uid", "word"), [("taken", "no directory"), ("open", "written by others")])
async def test_session_that_cannot_be_used(backend: Any, root: Path, uid: str, word: str) -> None:
    (root / "taken").write_text("a file")
    (root / "open").mkdir()
    (root / "open").chmod(0o777)
    async with WorkflowEngine.create(backend=backend, work_dir=root, uid=uid) as flow:
        with pytest.raises(SessionError, match=word):
            await shell(flow)("true")


async def test_environment(flow: WorkflowEngine) -> None:
    values = {"A": "1  2 $HOME `x` \"'", "B": "", "C": 7, "D": "two\nlines", "E": "ü=x", "-f": "no option"}
    text = 'printf "%s|" "$A" "$B" "$C" "$D" "$E"'
    seen = await shell(flow)(text, task_description={"environment": values})
    assert seen == "1  2 $HOME `x` \"'||7|two\nlines|ü=x|"


@pytest.mark.needs("driver_environment")
async def test_threads_follow_the_cores(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    kin = ["OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR"]
    names = [*(f"{name}_NUM_THREADS" for name in kin), "VECLIB_MAXIMUM_THREADS"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    show = shell(flow)
    text = f"echo {' '.join(f'${{{name}-none}}' for name in names)}"
    assert (await show(text)).split() == ["1"] * 6
    cores = {"cores_per_rank": 2}
    assert (await show(text, task_description=cores)).split() == ["2"] * 6
    # What the user says holds; libraries without a word of their own go by OMP_NUM_THREADS.
    own = {**cores, "environment": {"MKL_NUM_THREADS": "7"}}
    assert (await show(text, task_description=own)).split() == ["2", "2", "7", "2", "2", "2"]
    own = {**cores, "environment": {"OMP_NUM_THREADS": "4,2"}}
    assert (await show(text, task_description=own)).split() == ["4,2", *["none"] * 5]
    monkeypatch.setenv("BLIS_NUM_THREADS", "5")
    assert (await show(text, task_description=cores)).split() == ["2", "2", "2", "5", "2", "2"]


@pytest.mark.needs("driver_environment")
async def test_environment_of_the_driver(flow: WorkflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_DRIVER", "there")
    monkeypatch.setenv("OF_BOTH", "of the driver")
    text = 'echo "$OF_THE_DRIVER, $OF_BOTH"'
    assert await shell(flow)(text, task_description={"environment": {"OF_BOTH": "own"}}) == "there, own\n"


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


async def test_a_relative_cwd_is_the_drivers_at_the_call(
    flow: WorkflowEngine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    (root / "here").mkdir()
    future = shell(flow)("pwd", task_description={"cwd": "here"})
    monkeypatch.chdir("/")
    assert await future == f"{root}/here\n"


@pytest.mark.parametrize("name", ["TASK_UID", "SESSION", "SANDBOX", "ATTEMPT", "RANK", "SIZE"])
async def test_names_that_a_task_is_given_are_refused(flow: WorkflowEngine, name: str) -> None:
    with pytest.raises(TaskDescriptionError, match=f"ASYNCFLOW_{name}"):
        shell(flow)("true", task_description={"environment": {f"ASYNCFLOW_{name}": "1"}})
    with pytest.raises(TaskDescriptionError, match=f"ASYNCFLOW_{name}"):
        flow.executable_task(lambda: "true", task_description={"environment": {f"ASYNCFLOW_{name}": "1"}})


LARGEST = 131_071
"""Bytes of the largest argument or variable of a process on Linux, without the NUL."""


async def test_the_largest_words_fit(flow: WorkflowEngine) -> None:
    name = "A_LONG_VARIABLE"
    around = {"environment": {name: "x" * (LARGEST - len(name) - 1)}}
    assert await shell(flow)(
        ["/bin/sh", "-c", "echo ${#A_LONG_VARIABLE} ${#1}", "sh", "x" * LARGEST], task_description=around
    ) == (f"{LARGEST - len(name) - 1} {LARGEST}\n")


@pytest.mark.parametrize(
    "description",
    [
        {"environment": {"A": "x" * (LARGEST - 1)}},
        {"environment": {"A": "ü" * (LARGEST // 2)}},
        {"environment": {f"A{number}": "x" * 1000 for number in range(600)}},
        {"pre_exec": ["true", "true " + "x" * LARGEST]},
        {"shell": "/" * (LARGEST + 1)},
    ],
)
async def test_what_no_process_takes_is_refused_at_the_call(flow: WorkflowEngine, description: dict[str, Any]) -> None:
    with pytest.raises(TooLargeError, match=r"a (process|task) takes at most"):
        shell(flow)("true", task_description=description)


@pytest.mark.parametrize(
    "command", [["/bin/echo", "x" * (LARGEST + 1)], "echo; " + "x" * LARGEST, ["/bin/echo", *["x" * 1000] * 1100]]
)
async def test_a_command_that_no_process_takes(flow: WorkflowEngine, command: Any) -> None:
    future = shell(flow)(command)
    with pytest.raises(TooLargeError, match=r"the command of .* takes at most"):
        await future
    assert "sandbox" not in future.task


@pytest.mark.needs("ranks")
async def test_ranks(flow: WorkflowEngine) -> None:
    seen = await shell(flow)("echo $ASYNCFLOW_RANK/$ASYNCFLOW_SIZE", task_description={"ranks": 2})
    assert sorted(seen.splitlines()) == ["0/2", "1/2"]


@pytest.mark.needs("ranks", "gpus")
async def test_each_rank_has_its_gpu(flow: WorkflowEngine) -> None:
    wide = {"ranks": 2, "gpus_per_rank": 1}
    first, second = (await shell(flow)("echo $CUDA_VISIBLE_DEVICES", task_description=wide)).splitlines()
    assert first != second and "" not in (first, second) and "," not in first + second


@pytest.mark.needs("gpus", "sandbox", "cores")
async def test_gpus_are_handed_out_once(flow: WorkflowEngine) -> None:
    command = shell(flow)
    text = 'echo "$CUDA_VISIBLE_DEVICES" >gpu; until [ -e go ]; do sleep 0.01; done; cat gpu'
    pair = [command(text, task_description={"gpus_per_rank": 1}) for _ in range(2)]
    await until(lambda: all(future.state == "RUNNING" and (sandbox_of(future) / "gpu").exists() for future in pair))
    for future in pair:
        (sandbox_of(future) / "go").touch()
    first, second = [await future for future in pair]
    assert first != second and "\n" not in (first, second)
    assert await command('echo "[$CUDA_VISIBLE_DEVICES]"') == "[]\n"


@pytest.mark.needs("ranks")
async def test_first_failing_rank_ends_the_others(flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("[ $ASYNCFLOW_RANK = 1 ] && exit 4; sleep 600", task_description={"ranks": 2})
    assert caught.value.exit_code == 4


@pytest.mark.needs("ranks")
async def test_launcher(flow: WorkflowEngine, root: Path) -> None:
    launcher = root / "launch"
    launcher.write_text('#!/bin/sh\necho "launch $1 $2"\nshift 2\nASYNCFLOW_RANK=1 exec "$@"\n')
    launcher.chmod(0o755)
    wide = {"ranks": 2, "launcher": shlex.quote(str(launcher))}
    said = await shell(flow)('echo "$ASYNCFLOW_RANK of $ASYNCFLOW_SIZE"', task_description=wide)
    assert said == "launch -n 2\n1 of 2\n"


@pytest.mark.needs("walltime", "sandbox")
async def test_walltime(flow: WorkflowEngine, backend_under_test: BackendUnderTest) -> None:
    limit = {"walltime": backend_under_test.walltime}
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)("trap '' TERM; echo begun; sleep 6000", task_description=limit)
    assert caught.value.cause is FailureCause.WALLTIME
    assert output_of(caught.value) == "begun\n"


@pytest.mark.needs("walltime", "sandbox")
@pytest.mark.parametrize("code", [0, 3])
async def test_walltime_of_a_command_that_handles_it(
    flow: WorkflowEngine, backend_under_test: BackendUnderTest, code: int
) -> None:
    limit = {"walltime": backend_under_test.walltime}
    with pytest.raises(TaskFailedError) as caught:
        await shell(flow)(
            f"trap 'echo partial; exit {code}' TERM; sleep 6000 & wait; echo full", task_description=limit
        )
    assert caught.value.cause is FailureCause.WALLTIME


@pytest.mark.needs("sandbox")
async def test_output_not_written(flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError, match=r"never\.dat") as caught:
        await shell(flow)("echo x >made.dat", OutputFile("made.dat"), OutputFile("never.dat"))
    assert caught.value.cause is FailureCause.MISSING_OUTPUT


async def test_output_that_cannot_be_read_is_no_empty_one(flow: WorkflowEngine) -> None:
    future = shell(flow)('echo out; rm "$ASYNCFLOW_TASK_UID.out"; mkdir "$ASYNCFLOW_TASK_UID.out"')
    with pytest.raises(TaskFailedError, match="is no file any more") as caught:
        await future
    assert isinstance(caught.value.__cause__, OSError) and caught.value.exit_code == 0
    assert (future.state, future.task["cause"], caught.value.cause) == ("FAILED", *[FailureCause.BACKEND] * 2)


async def test_output_that_was_removed_is_no_empty_one(flow: WorkflowEngine) -> None:
    with pytest.raises(TaskFailedError, match=r"\.out") as caught:
        await shell(flow)('echo out; rm "$ASYNCFLOW_TASK_UID.out"')
    assert caught.value.cause is FailureCause.BACKEND


async def test_large_output_is_exact(flow: WorkflowEngine) -> None:
    size = 20 * 1024 * 1024
    future = shell(flow)(f"yes 0123456789abcde | head -c {size}; yes fedcba9876543210 | head -c {size} >&2")
    output = await future
    # Compared as a truth value: pytest would take minutes to show the difference.
    same = output == "0123456789abcde\n" * (size // 16)
    assert same, f"{len(output)} characters, not {size}"
    errors = future.task["stderr"]
    same = errors == ("fedcba9876543210\n" * (size // 17 + 1))[:size]
    assert same, f"{len(errors)} characters, not {size}"


@pytest.mark.needs("sandbox")
async def test_leftovers_of_a_finished_task_are_ended(
    flow: WorkflowEngine, backend_under_test: BackendUnderTest
) -> None:
    future = shell(flow)("sleep 600 >/dev/null 2>&1 & echo begun")
    assert await future == "begun\n"
    await until(lambda: not backend_under_test.leftovers(sandbox_of(future)))
