"""Whatever the lines, the environment and the shell of a user do, the record says how the command itself has ended."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc.backends.evidence import Record, read_record, record_path
from asyncflow_hpc.backends.run_script import RunScript, group_of, write_script
from asyncflow_hpc.backends.task_script import TaskScript
from asyncflow_hpc.backends.verdict import verdict_on
from asyncflow_hpc.states import FailureCause, TaskState

# The command leaves a file by which plain sh tells that it has run.
COMMAND = 'echo run >>ran; echo out; exit "$0"'

# After these, the command cannot run.
NEVER = [
    "exec true",
    "exec false",
    "exec bash -l",
    "exec sh",
    "exit 0",
    "exit 3",
    "set -n",
    "return 0 2>/dev/null; exit 0",
    "kill -KILL $$",
    "trap '' EXIT; exit 0",
    "trap 'exit 0' EXIT; false",
    "no-such-program",
    "module load gcc",
    "if",
    "echo 'open",
    ")",
    "exec >/dev/full; echo x",
    "cd /no/such/place",
    ". /no/such/file",
    "set -u; echo $unset_variable",
    "set -e; false",
]

# These have nothing to do with it.
HARMLESS = [
    "# a comment",
    "trap 'rm -rf scratch' EXIT",
    "trap 'exit 0' EXIT",
    "trap 'exit 9' EXIT",
    "trap '' TERM INT HUP",
    "trap 'kill 0' EXIT",
    "export PATH=/opt/app/bin",
    "PATH=/nowhere",
    "unset PATH",
    "IFS=3",
    "export IFS=0123456789",
    "export CDPATH=/tmp:/",
    "export ENV=/no/such BASH_ENV=/no/such",
    "cd /",
    "cd ..",
    "umask 777",
    "umask 000",
    "set -e",
    "set -u",
    "set -f",
    "set -C",
    "set -a",
    "set -x",
    "set -- a b c",
    "shift 0",
    "ulimit -f 0 2>/dev/null || :",
    "ulimit -c 0",
    "ulimit -n 64",
    "exec 3>&- 4>&- 5>&- 9>&-",
    "exec 9</dev/null 3</dev/null",
    "exec 2>&-",
    "exec </dev/null",
    "printf() { :; }",
    "cat() { exit 0; }; mv() { :; }; rm() { :; }; date() { :; }",
    "sh() { :; }; env() { :; }; kill() { :; }; test() { false; }",
    "alias mv=false rm=false sh=false",
    "unset ASYNCFLOW_SANDBOX ASYNCFLOW_TASK_UID ASYNCFLOW_SESSION",
    "asyncflow_code=0 asyncflow_record=/tmp/x asyncflow_own=x; export asyncflow_code asyncflow_record asyncflow_own",
    "asyncflow_finish() { exit 0; }; asyncflow_judge() { :; }",
    "sleep 60 &",
    "(sleep 60 &) ; sleep 60 &",
    "trap : CHLD",
    "set +m",
    "echo words; echo more words >&2",
    "export LC_ALL=C LANG=C",
    "x=$(cat </dev/null)",
    "cat <<E\ntext\nE",
    "for i in 1 2; do :; done",
    "f() {\n:\n}\nf",
    "readonly asyncflow_stage=run",
]


class Place:
    def __init__(self, root: Path, shell: list[str], apart: str) -> None:
        self.sandbox = root / "a session" / "task.000001"
        self.sandbox.mkdir(parents=True)
        self.shell, self.apart = shell, apart

    def run(self, code: int, *, argv: list[str] | None = None, outer: dict[str, str] | None = None, **more: Any) -> int:
        task = TaskScript(
            uid="task.000001",
            name="n",
            attempt=0,
            session=str(self.sandbox.parent),
            sandbox=str(self.sandbox),
            argv=argv or ["/bin/sh", "-c", COMMAND, str(code)],
            **more,
        )
        path = write_script(RunScript(task=task, nonce="x", apart=self.apart))  # type: ignore[arg-type]
        environment = {**os.environ, **(outer or {})}
        shell = [str(shutil.which(self.shell[0])), *self.shell[1:]]
        done = subprocess.run([*shell, path], env=environment, stdin=subprocess.DEVNULL, timeout=60)
        return done.returncode

    @property
    def record(self) -> Record:
        session = self.sandbox.parent.name
        found = read_record(record_path(self.sandbox), session=session, uid="task.000001", attempt=0, nonce="x")
        assert found is not None
        return found

    @property
    def runs(self) -> int:
        ran = self.sandbox / "ran"
        # A line may have gone elsewhere before the command ran; then the command's file is there.
        return len(ran.read_text().split()) if ran.exists() else 0

    def out(self) -> str:
        return (self.sandbox / "task.000001.out").read_text()


# For a group of its own without a session, the runner goes on as bash, whatever it was started with.
@pytest.fixture(params=["dash", "bash --posix", "busybox sh", "dash in a group"])
def place(request: pytest.FixtureRequest, root: Path) -> Place:
    words, _, grouped = request.param.partition(" in a ")
    shell = words.split()
    if shutil.which(shell[0]) is None:
        pytest.skip(f"there is no {shell[0]} here")
    return Place(root, shell, "group" if grouped else "session")


@pytest.mark.parametrize("setup", ["/bin/sh", "/bin/bash"])
def test_lines_after_which_the_command_cannot_run(place: Place, setup: str, root: Path) -> None:
    for number, line in enumerate(NEVER):
        here = Place(root / str(number), place.shell, place.apart)
        returned = here.run(0, pre_exec=[line], shell=setup)
        verdict = verdict_on(here.record, (), "", "")
        assert (verdict.state, verdict.cause) == (TaskState.FAILED, FailureCause.BOOTSTRAP), line
        assert returned != 0 and here.runs == 0, line


@pytest.mark.parametrize("setup", ["/bin/sh", "/bin/bash"])
def test_lines_that_the_record_knows_nothing_of(place: Place, setup: str, root: Path) -> None:
    for number, (line, code) in enumerate(itertools.product(HARMLESS, (0, 3))):
        here = Place(root / str(number), place.shell, place.apart)
        # By its full path: the user's PATH may lead nowhere.
        marker = shlex.quote(str(here.sandbox / "ran"))
        argv = ["/bin/sh", "-c", f": >>{marker}; exit {code}"]
        returned = here.run(code, argv=argv, pre_exec=[line], shell=setup)
        assert (here.record.stage, here.record.exit_code, here.record.signal) == ("run", code, None), line
        assert returned == code and (here.sandbox / "ran").exists(), line


def test_lines_after_the_command(place: Place, root: Path) -> None:
    for number, (line, state) in enumerate(
        [
            ("exec true", "FAILED"),
            ("exit 0", "FAILED"),
            ("kill -KILL $$", "FAILED"),
            ("trap 'exit 4' EXIT", "DONE"),
            ("# x", "DONE"),
        ]
    ):
        for code in (0, 5):
            here = Place(root / f"{number}.{code}", place.shell, place.apart)
            here.run(code, post_exec=[line])
            verdict = verdict_on(here.record, (), "", "")
            assert verdict.state == (state if code == 0 else "FAILED"), line
            assert code == 0 or (verdict.cause, verdict.exit_code) == (FailureCause.EXIT_CODE, 5), line


HOSTILE_ENVIRONMENT = {
    "PATH": "/nowhere",
    "IFS": "3",
    "CDPATH": "/tmp:/",
    "ENV": "/no/such",
    "BASH_ENV": "/no/such",
    "BASH_VERSION": "x",
    "UID": "5",
    "PPID": "1",
    "OPTIND": "x",
    "PS4": "$(echo bad >bad)",
    "SHELLOPTS": "noexec",
    "POSIXLY_CORRECT": "1",
    "LD_BIND_NOW": "1",
    "asyncflow_host": 'h","exit_code":0,"x":"',
    "asyncflow_record": "/tmp/asyncflow-hostile-record",
    "asyncflow_code": "0",
    "asyncflow_stage": "run",
    "HOSTNAME": 'h","x":"',
    "A.B": "1",
    "BASH_FUNC_cat%%": "() { echo function; }",
}


@pytest.mark.parametrize("lines", [[], [":"]])
def test_variables_of_a_task_reach_it_and_nobody_else(place: Place, lines: list[str]) -> None:
    argv = ["/usr/bin/python3", "-c", "import os, sys; open('seen', 'w').write(repr(dict(os.environ))); sys.exit(3)"]
    assert place.run(3, argv=argv, environment=HOSTILE_ENVIRONMENT, pre_exec=lines) == 3
    assert (place.record.stage, place.record.exit_code) == ("run", 3)
    seen = eval((place.sandbox / "seen").read_text())
    assert {name: seen.get(name) for name in HOSTILE_ENVIRONMENT} == HOSTILE_ENVIRONMENT
    assert not Path("/tmp/asyncflow-hostile-record").exists() and not (place.sandbox / "bad").exists()


@pytest.mark.parametrize("lines", [[], [":"]])
def test_variables_of_the_driver_do_no_harm(place: Place, lines: list[str]) -> None:
    outer = {name: value for name, value in HOSTILE_ENVIRONMENT.items() if name not in ("SHELLOPTS", "OPTIND")}
    functions = {f"BASH_FUNC_{name}%%": "() { exit 0; }" for name in ("mv", "printf", "cd", "read", "kill", "umask")}
    assert place.run(3, outer={**outer, **functions}, pre_exec=lines) == 3
    assert (place.record.stage, place.record.exit_code) == ("run", 3)


def test_exported_functions_of_bash_survive(place: Place) -> None:
    inherited = {"BASH_FUNC_module%%": '() { echo "module $*"; }'}
    returned = place.run(
        0,
        argv=["/bin/bash", "-c", "module list"],
        inherited=inherited,
        pre_exec=["module load gcc", "other() { echo other; }; export -f other", "other"],
        shell="/bin/bash",
    )
    assert returned == 0 and place.out() == "module load gcc\nother\nmodule list\n"
    assert place.run(0, argv=["/bin/bash", "-c", "module list"], inherited=inherited) == 0
    assert place.out().endswith("module list\n")


def test_what_is_left_in_the_group_is_ended_and_the_runner_is_not(place: Place) -> None:
    argv = ["/bin/sh", "-c", "(trap '' TERM; echo $$ >child; exec sleep 300) & kill -TERM 0; exit 1"]
    place.run(0, argv=argv)
    assert place.record.signal == signal.SIGTERM and place.record.noted == ""
    # That nothing of it is left, the fixture finds out.
    assert group_of(str(place.sandbox)) is not None
