"""What a user reads when something went wrong: in a traceback, at the end of a run, and on a terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest


def start(root: Path, body: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a script of one engine in an interpreter of its own."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    script = root / "script.py"
    script.write_text(
        f"import asyncio, logging, os, sys\nfrom asyncflow_hpc import *\n\nasync def main():\n{lines}\n\n{END}"
    )
    words = [sys.executable, str(script), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=root, text=True)


def run(root: Path, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run such a script to its end."""
    process = start(root, body, *arguments)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


END = """\
if __name__ == "__main__":
    asyncio.run(main())
"""

FAILING = """\
async with WorkflowEngine.create("local", work_dir=".", uid="session") as flow:
    @flow.function_task
    def divide(number, by=1):
        return number // by

    @flow.executable_task
    async def show(number):
        return f"echo {number}"

    @flow.block
    async def group(number):
        return await divide(number, by=0)
"""


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python shows notes from 3.11 on")
def test_an_exception_of_a_function_names_its_task(root: Path) -> None:
    done = run(root, f"{FAILING}\n    await divide(17, by=0)")
    assert last_line(done) == f"raised by task.000001: divide(17, by=0), in {root}/session/task.000001"
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python shows notes from 3.11 on")
def test_an_exception_that_passes_through_a_block_names_both(root: Path) -> None:
    done = run(root, f"{FAILING}\n    await group(17)")
    inner, outer = done.stderr.strip().splitlines()[-2:]
    assert inner.startswith("raised by task.000002: divide(17, by=0)") and outer == "raised by block.000001: group(17)"


def test_the_last_line_of_a_dependency_failure_has_the_root_cause(root: Path) -> None:
    done = run(root, f"{FAILING}\n    await show(show(divide(17, by=0)))")
    assert last_line(done).endswith(
        "Cannot execute 'show' due to dependency failure: ZeroDivisionError: integer division or modulo by zero"
    )


def test_escapes_of_a_task_are_shown(root: Path) -> None:
    done = run(root, FAILING + ESCAPES)
    assert r"'a\x1b[2Jb' failed: exit code 3" in done.stderr
    assert r"\x1b[31mred\x1b[0m\r\x07" in done.stderr
    assert not set(done.stderr) & set("\x1b\r\x07")


ESCAPES = r"""
    async def odd():
        return r"printf '\033[31mred\033[0m\r\007' >&2; exit 3"

    odd.__name__ = "a\x1b[2Jb"
    await flow.executable_task(odd)()
"""


ENDING = """\
local = LocalExecutionBackend(cores=8)
async with WorkflowEngine.create(local, work_dir="work", uid="session", on_error=sys.argv[1]) as flow:
    @flow.executable_task
    async def once(name):
        return f"echo {name} >>../../../ran; echo {name}"

    @flow.executable_task
    async def wait(name, *_):
        return f": >../../../{name}-began; until [ -e ../../../go ]; do sleep 0.05; done; echo {name} >>../../../ran"

    @flow.executable_task(service=True)
    async def serve():
        return "sleep 600"

    @flow.block
    async def group(*names):
        return await asyncio.gather(*map(wait, names))

    async def began(name):
        while not os.path.exists(f"{name}-began"):
            await asyncio.sleep(0.01)

    class Lift(logging.Handler):
        def emit(self, record):
            open("go", "w").close()

"""


def warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("engine session ends")]


NOBODY_AWAITS = """\
    await once("a")
    await serve()
    late = [wait(name) for name in "bcde"]
    group("x")
    await began("b")
"""


def test_tasks_that_nobody_awaited(root: Path) -> None:
    done = run(root, ENDING + NOBODY_AWAITS, "cancel")
    assert done.returncode == 0
    (warning,) = warnings(done)
    names = "task.000003 'wait', task.000004 'wait', task.000005 'wait' and 3 more"
    assert warning.startswith(f"engine session ends with 5 tasks and 1 block unfinished: {names}; await the future")
    assert "never retrieved" not in done.stderr and "serve" not in done.stderr


CANCELS = """\
    await once("a")
    await serve()
    late = wait("b")
    await began("b")
    late.cancel()
    once("c")
    while flow.dependencies.keys() - {"task.000002"}:
        await asyncio.sleep(0.01)
"""


def test_nothing_is_said_where_nothing_is_unfinished(root: Path) -> None:
    done = run(root, ENDING + CANCELS, "cancel")
    assert (done.returncode, done.stderr) == (0, "")


FAILS = """\
    members = [once("a"), wait("b"), group("c", "d"), flow.executable_task(lambda: "[ -e ../../../go ]")()]
    members.append(once(members[3]))
    await asyncio.gather(members[0], began("b"), began("c"))
    if sys.argv[1] == "finish":
        logging.basicConfig(format="%(message)s")
        logging.getLogger("asyncflow_hpc.closing").addHandler(Lift())
    await asyncio.gather(*members)
"""


def test_a_failure_takes_down_the_rest_and_a_resume_goes_on(root: Path) -> None:
    done = run(root, ENDING + FAILS, "cancel")
    (warning,) = warnings(done)
    assert "after TaskFailedError: task.000004 '<lambda>' failed: exit code 1 with 3 tasks and 1 block" in warning
    assert (root / "ran").read_text() == "a\n"
    # What is printed is typed.
    (root / "go").touch()
    session, line = done.stderr.partition("\nsession: ")[2].splitlines()[:2]
    assert session == str(root / "work" / "session")
    again = subprocess.run(["sh", "-c", line.removeprefix("to resume it: ")], cwd=root, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert sorted((root / "ran").read_text().split()) == ["a", "b", "c", "d"]


def test_a_failure_lets_the_rest_finish(root: Path) -> None:
    done = run(root, ENDING + FAILS, "finish")
    assert done.returncode == 1
    assert "failed: exit code 1: 3 tasks and 1 block run to their end first" in done.stderr
    (warning,) = warnings(done)
    assert warning.endswith("failed: exit code 1")
    assert sorted((root / "ran").read_text().split()) == ["a", "b", "c", "d"]


SIGNALLED = """\
    await once("a")
    late = wait("b")
    await began("b")
    print("began", flush=True)
    if sys.argv[1] == "finish":
        raise ValueError
    await late
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("on_error", ["cancel", "finish"])
def test_a_signal_ends_it_and_the_session_is_told(root: Path, number: signal.Signals, on_error: str) -> None:
    process = start(root, ENDING + SIGNALLED, on_error)
    assert process.stdout is not None and process.stdout.readline() == "began\n"
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == -number, err
    assert f"engine session ends after {number.name} with 1 task unfinished: task.000002 'wait'\nsession: " in err
    assert "to resume it: ASYNCFLOW_RESUME=" in err and (root / "ran").read_text() == "a\n"


FORGETS_THE_ENGINE = """\
flow = await WorkflowEngine.create("local", work_dir="work", uid="session")

@flow.function_task
def one():
    return 1

await one()
raise ValueError("after the first")
"""


def test_an_engine_that_is_not_shut_down_tells_its_session(root: Path) -> None:
    done = run(root, FORGETS_THE_ENGINE)
    assert last_line(done) == "ValueError: after the first"
    assert f"ending its tasks\nsession: {root}/work/session\nto resume it: ASYNCFLOW_RESUME=" in done.stderr


def test_a_session_without_a_script_is_resumed_by_an_argument(root: Path) -> None:
    run(root, FORGETS_THE_ENGINE)
    words = [sys.executable, "-c", (root / "script.py").read_text().replace("uid=", "uid='new' or ")]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert f"to resume it: WorkflowEngine.create(..., resume={str(root / 'work' / 'new')!r})" in done.stderr


def test_on_error_is_checked(root: Path) -> None:
    assert "argument 'on_error'" in last_line(run(root, ENDING, "go on"))
