"""Ordinary users on a real Slurm: what they get, and that two drivers do not disturb each other."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import until

from .on_slurm import needs_root, on_slurm
from .users import User

pytestmark = [*on_slurm, needs_root]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from asyncflow_hpc import InputFile, OutputFile, WorkflowEngine

async def main():
    async with WorkflowEngine.create(work_dir=sys.argv[1]) as flow:
        @flow.executable_task
        async def make(name, *_):
            return f"echo {name} >out/{name}; mkdir sub; echo deep >sub/deep; echo told; echo said >&2"

        @flow.executable_task
        async def use(made, *_):
            return "cat 'in' sub/deep >both; cat both"

        @flow.function_task
        async def count(text):
            Path("counted").write_text(str(len(text)))
            print("printed")
            return len(text)

        @flow.executable_task
        async def fail():
            return "echo no >&2; exit 7"

        made = make("x", OutputFile("out/x"), task_description={"pre_exec": ["mkdir out"]})
        both = use(made, InputFile("out/x", name="in"))
        print(await both, await count(both), file=sys.stderr)
        try:
            await fail()
        except Exception as error:
            print(type(error).__name__, error.exit_code, error.cause, repr(error.stderr), file=sys.stderr)

asyncio.run(main())
"""


def tree(work_dir: Path) -> dict[str, str]:
    """All files of the sandboxes of a session, with their content.

    Bookkeeping aside, and empty files for the output of functions and sandboxes with nothing else, which local workers
    do not make.
    """
    (session,) = work_dir.iterdir()
    found = {}
    for path in sorted(session.rglob("*")):
        name = path.relative_to(session)
        text = path.read_text(errors="replace") if path.is_file() else ""
        quiet = path.parent.parent == session and path.suffix in (".out", ".err") and not text
        own = {".asyncflow", ".spool", "journal.jsonl"} & set(name.parts)
        if not own and (path.is_symlink() or (path.is_file() and not quiet)):
            found[str(name)] = ("link " if path.is_symlink() else "") + text.replace(session.name, "SESSION")
    return found


def test_own_script_does_the_same_as_on_the_local_backend(user: User) -> None:
    script = user.script(SCRIPT)
    said = {name: user.run(script, name, ASYNCFLOW_BACKEND=name) for name in ("local", "slurm")}
    assert said["slurm"] == said["local"] and "TaskFailedError 7" in said["slurm"]
    found = tree(user.place / "local")
    assert found and tree(user.place / "slurm") == found


@pytest.mark.slow
def test_digits_ensemble_does_the_same_as_on_the_local_backend(user: User) -> None:
    pytest.importorskip("sklearn")
    for name in ("local", "slurm"):
        user.run(EXAMPLES / "digits_ensemble.py", "--quick", "--backend", name, "--work-dir", name)
    found, expected = tree(user.place / "slurm"), tree(user.place / "local")
    assert expected and list(found) == list(expected)
    differing = [name for name in found if found[name] != expected[name]]
    assert not [name for name in differing if re.search(r"results/", name)], differing


@pytest.mark.parametrize("home", ["/nonexistent", "of root"])
def test_home_that_cannot_be_written(user: User, home: str) -> None:
    place = user.place.parent / "home"
    place.mkdir(0o755)
    script = user.script(SCRIPT)
    assert "TaskFailedError 7" in user.run(
        script, "slurm", ASYNCFLOW_BACKEND="slurm", home=str(place) if home == "of root" else home
    )
    assert not list(place.iterdir()) and not Path("/nonexistent").exists()


LONG = """
import asyncio, sys
from pathlib import Path
from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend

async def main():
    backend = PsijExecutionBackend(poll_interval=1, submit_rate=50, grace=5)
    async with WorkflowEngine.create(backend, work_dir="shared") as flow:
        @flow.executable_task
        async def wait(number):
            here = Path.cwd()
            waits = f"until [ -e {here}/go ]; do sleep 0.2; done"
            return f"echo {number} >>{here}/{sys.argv[1]}.log; {waits}; echo {number}"
        got = await asyncio.gather(*[wait(number) for number in range(6)])
        print(*[line.strip() for line in got], file=sys.stderr)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_two_drivers_and_one_is_killed(user: User, number: int) -> None:
    script = user.script(LONG)
    first, second = user.start(script, "first"), user.start(script, "second")
    try:
        logs = [user.place / "first.log", user.place / "second.log"]
        await until(lambda: all(log.exists() and len(log.read_text().split()) == 6 for log in logs))
        first.send_signal(number)
        first.communicate()
        (user.place / "go").touch()
        assert second.communicate()[1].split() == list("012345")
        assert second.returncode == 0
        assert [sorted(log.read_text().split()) for log in logs] == [list("012345")] * 2
        assert len(list((user.place / "shared").iterdir())) == 2
    finally:
        (user.place / "go").touch()
        for process in (first, second):
            if process.poll() is None:
                process.kill()
                process.communicate()
        queue = shlex.split("squeue --noheader --user=nobody --format=%i")
        await until(lambda: not subprocess.run(queue, check=True, capture_output=True).stdout)
