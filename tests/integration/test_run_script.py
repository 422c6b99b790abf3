"""The run script by itself: under each shell, whatever happens in it, it leaves a record that says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc.backends.evidence import Record, read_record, record_path
from asyncflow_hpc.backends.run_script import RunScript, claimed_by, forbid, write_script
from asyncflow_hpc.backends.runner import STAGE
from asyncflow_hpc.backends.runner_text import RUNNER, STEP
from asyncflow_hpc.backends.staging import Delivery, Dependency, Plan, Transfer
from asyncflow_hpc.backends.task_script import TaskScript
from asyncflow_hpc.backends.verdict import verdict_on
from asyncflow_hpc.states import FailureCause, TaskState

FULL = Plan(
    (
        Transfer(("/a/b c",), "b c", "link", "x"),
        Transfer(("/a/d",), "e/f", "copy", "x"),
        Transfer(("/a/d", "/z/d"), "e/g", "move", "x", otherwise="/q"),
    ),
    (
        Dependency("/s/task.000001", "task.000001", "link", frozenset({".asyncflow"})),
        Dependency("/s2/task.000001", "s2.task.000001", "copy", frozenset({".asyncflow"})),
    ),
    ("o1", "o2/x"),
    (Delivery("o1", "/t/o1"),),
)


OF_TASK = {"shell", "environment", "inherited", "cwd", "pre_exec", "post_exec"}


def script(sandbox: str, argv: list[str], name: str = "n", **more: Any) -> RunScript:
    of_task = {key: more.pop(key) for key in OF_TASK & more.keys()}
    session = str(Path(sandbox).parent)
    task = TaskScript(uid="task.000007", name=name, attempt=0, session=session, sandbox=sandbox, argv=argv, **of_task)
    return RunScript(task=task, nonce="abc", **more)


class Run:
    """A script in a sandbox of its own."""

    def __init__(self, shell: list[str], root: Path) -> None:
        self.shell = shell
        self.sandbox = root / "a 'session'" / "task.000007"
        self.sandbox.mkdir(parents=True)

    def write(self, argv: list[str], **more: Any) -> str:
        return write_script(script(str(self.sandbox), argv, **more))

    def command(self, *argv: str, **more: Any) -> tuple[int, Record]:
        ended = subprocess.run([*self.shell, self.write(list(argv), **more)], stdin=subprocess.DEVNULL, timeout=60)
        return ended.returncode, self.record()

    def record(self) -> Record:
        found = read_record(record_path(self.sandbox), session="a 'session'", uid="task.000007", attempt=0, nonce="abc")
        assert found is not None
        return found

    def text(self, name: str) -> str:
        return (self.sandbox / name).read_text()


@pytest.fixture
def run(shell: list[str], root: Path) -> Run:
    return Run(shell, root)


@pytest.mark.parametrize(
    ("command", "code", "number"), [("exit 0", 0, None), ("exit 7", 7, None), ("kill -9 $$", None, 9)]
)
def test_the_job_ends_as_the_task(run: Run, command: str, code: int | None, number: int | None) -> None:
    returned, record = run.command("sh", "-c", command)
    assert returned == (code if code is not None else 128 + (number or 0))
    assert (record.exit_code, record.signal, record.stage) == (code, number, "run")
    assert record.start <= record.end and record.host and record.native_id
    assert record.cpu_time is not None
    assert os.listdir(run.sandbox.parent / ".spool") == ["task.000007"]


def test_gnu_time_tells_memory_and_signals_apart(run: Run) -> None:
    timer = shutil.which("time")
    if timer is None:
        pytest.skip("no GNU time here")
    _, record = run.command(sys.executable, "-c", "x = bytearray(60_000_000)", timer=timer)
    assert record.max_rss is not None and record.max_rss > 60_000_000
    _, record = run.command("sh", "-c", "exit 137", timer=timer)
    # A shell cannot tell the two apart, so neither can we.
    assert (record.exit_code, record.signal) == (None, 9)
    _, record = run.command("sh", "-c", "kill -9 $$", timer=timer)
    assert (record.exit_code, record.signal) == (None, 9)
    assert run.command("true", timer="/nowhere/time")[0] == 0
    # The timer must not die before the command does.
    code = "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.killpg(0, signal.SIGTERM); print('on')"
    script = run.write([sys.executable, "-c", code], timer=timer)
    assert subprocess.Popen([*run.shell, script], start_new_session=True, stdin=subprocess.DEVNULL).wait(60) == 0
    # Its group is not that of the runner.
    assert run.record().noted == "" and "on" in run.text("task.000007.out")
    _, record = run.command("sh", "-c", "kill -TERM $$", timer=timer)
    assert record.signal == signal.SIGTERM


def test_lines_around_the_command(run: Run) -> None:
    lines = {"pre_exec": ["A=1; export A", "cd /"], "post_exec": ["echo after $A", "pwd"]}
    returned, record = run.command("sh", "-c", "echo run $A; exit 4", **lines)
    assert (returned, record.exit_code, record.stage) == (4, 4, "run")
    assert run.text("task.000007.out") == "run 1\nafter 1\n/\n"


@pytest.mark.parametrize(
    ("lines", "stage", "code"),
    [
        ({"pre_exec": ["(exit 9)", "echo never"]}, "pre_exec", 9),
        ({"pre_exec": ["exit 3"]}, "pre_exec", 3),
        ({"pre_exec": ["exit 0"]}, "pre_exec", 0),
        ({"pre_exec": ["no-such-command-here"]}, "pre_exec", 127),
        ({"post_exec": ["(exit 6)", "echo never"]}, "post_exec", 6),
        ({"post_exec": ["exit 0"]}, "post_exec", 0),
        ({"pre_exec": ["set -e"], "post_exec": ["false"]}, "post_exec", 1),
    ],
)
def test_lines_that_fail_or_leave(run: Run, lines: Any, stage: str, code: int) -> None:
    returned, record = run.command("true", **lines)
    # The job has failed in any case.
    assert (returned, record.stage, record.exit_code) == (code or 125, stage, code)
    assert verdict_on(record, (), "", "").state is TaskState.FAILED
    assert "never" not in run.text("task.000007.out")


def test_environment_of_odd_names_and_values(run: Run) -> None:
    odd = {"PLAIN": "a 'b' $C `d`\n\\", "with.dot": "x y", "1st": "é", "PATH": os.environ["PATH"]}
    run.command(sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))", environment=odd)
    seen = json.loads(run.text("task.000007.out"))
    assert {name: seen[name] for name in odd} == odd
    assert seen["ASYNCFLOW_TASK_UID"] == "task.000007" and seen["ASYNCFLOW_ATTEMPT"] == "0"
    assert seen["ASYNCFLOW_SANDBOX"] == str(run.sandbox)
    assert seen["ASYNCFLOW_SESSION"] == str(run.sandbox.parent)


def test_a_signal_before_the_end_is_noted(run: Run) -> None:
    # The script alone is told, as Slurm does before a walltime; the task has the rest of its time.
    code = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); print('on')"
    returned, record = run.command(sys.executable, "-c", code)
    assert (returned, record.exit_code, record.noted) == (0, 0, "TERM")
    assert run.text("task.000007.out") == "on\n"


def test_a_group_that_is_ended_leaves_a_record(run: Run) -> None:
    # The runner leads the group of the job.
    code = "import os, signal; os.killpg(os.getppid(), signal.SIGTERM); os.killpg(0, signal.SIGTERM)"
    script = run.write([sys.executable, "-c", code])
    process = subprocess.Popen([*run.shell, script], start_new_session=True, stdin=subprocess.DEVNULL)
    process.wait(60)
    assert (run.record().signal, run.record().noted) == (signal.SIGTERM, "TERM")


def test_what_staging_said_is_kept(run: Run) -> None:
    plan = Plan((Transfer(("/no/such 'file'",), "in", "link", "an input"),))
    returned, record = run.command("sh", "-c", "echo >ran", plan=plan)
    assert returned == 1 and record.stage == "stage_in" and not (run.sandbox / "ran").exists()
    said = run.text(".asyncflow/error")
    assert "/no/such 'file'" in said
    verdict = verdict_on(record, (), "", said)
    assert (verdict.cause, verdict.exit_code, verdict.text) == (FailureCause.STAGING, None, said)


def test_outputs_that_are_missing_or_cannot_be_delivered(run: Run, root: Path) -> None:
    (root / "a file").write_text("")
    plan = Plan(promised=("a", "b", "c"))
    returned, record = run.command("touch", "b", plan=plan)
    assert (returned, record.exit_code, record.missing) == (1, 0, (0, 2))
    verdict = verdict_on(record, plan.promised, "/box", "")
    assert (verdict.cause, verdict.exit_code) == (FailureCause.MISSING_OUTPUT, 0) and "a, c in /box" in str(
        verdict.text
    )
    plan = Plan(promised=("b",), deliveries=(Delivery("b", f"{root}/a file/b"),))
    returned, record = run.command("touch", "b", plan=plan)
    assert returned != 0 and verdict_on(record, plan.promised, "/box", "said").cause is FailureCause.STAGING


def test_it_can_be_run_again_by_hand(run: Run) -> None:
    script = run.write(["sh", "-c", "echo once more"], durable=True)
    for _ in range(2):
        subprocess.run([*run.shell, script], check=True, cwd="/", stdin=subprocess.DEVNULL)
    assert run.text("task.000007.out") == "once more\n" * 2


def test_a_record_that_cannot_be_written_is_none(run: Run) -> None:
    script = run.write(["sh", "-c", 'rm -rf "$ASYNCFLOW_SANDBOX/.asyncflow"'])
    subprocess.run([*run.shell, script], stdin=subprocess.DEVNULL)
    assert not record_path(run.sandbox).exists()
    assert os.listdir(run.sandbox.parent / ".spool") == []


@pytest.mark.parametrize("plan", [Plan(), FULL], ids=["no files", "files"])
@pytest.mark.parametrize(
    "more", [{}, {"timer": "/usr/bin/time", "durable": True, "cwd": "/tmp/x y", "claim": True}], ids=["", "more"]
)
def test_shellcheck_finds_nothing(plan: Plan, more: Any) -> None:
    lines = {"pre_exec": ["true"], "post_exec": ["true"], "environment": {"A.B": "1", "X": "'"}}
    written = script("/s/task.000007", ["/bin/true", "x y", "'"], "a 'name'\n", plan=plan, **lines, **more)
    for text in (f"{written.text()}{RUNNER}", written.task.text(), STAGE, STEP):
        program = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
        checked = subprocess.run([program, "-s", "sh", "-e", "SC1091", "-"], input=text, text=True, capture_output=True)
        assert checked.stdout == "" and checked.returncode == 0


def of_job(run: Run, number: str, argv: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    script = run.write(argv, native_id="$JOB", claim=True, **more)
    environment = os.environ | {"JOB": number}
    return subprocess.run(
        [*run.shell, script], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def test_a_second_job_of_the_same_attempt_runs_nothing(run: Run) -> None:
    logs = ["sh", "-c", "echo run >>log; kill -9 $$"]
    assert of_job(run, "1", logs).returncode == 137
    before = run.record()
    second = of_job(run, "2", logs)
    assert second.returncode == 75 and "belongs to job 1, not to 2" in second.stderr
    assert run.text("log") == "run\n" and run.record() == before
    assert claimed_by(str(run.sandbox)) == "1"


def test_a_job_that_turns_up_after_it_was_given_up_runs_nothing(run: Run) -> None:
    assert not forbid(str(run.sandbox)), "its script is not there"
    run.write(["true"])
    assert forbid(str(run.sandbox)) and not forbid(str(run.sandbox))
    late = of_job(run, "1", ["sh", "-c", "echo run >>log"])
    assert late.returncode == 75 and "nothing is run" in late.stderr and not (run.sandbox / "log").exists()


def test_a_job_put_back_into_the_queue_runs_again(run: Run, root: Path) -> None:
    (root / "input").write_text("x")
    plan = Plan((Transfer((f"{root}/input",), "in", "move", "an input"),), promised=("log",))
    assert of_job(run, "1", ["sh", "-c", "cat in; echo run >>log; kill -9 $$"], plan=plan).returncode == 137
    (run.sandbox / "task.000007.out").write_text("of the first run")
    assert of_job(run, "1", ["sh", "-c", "cat in; echo again >>log"], plan=plan).returncode == 0
    # What the first run wrote stays, for a program that goes on from there.
    assert run.text("log") == "run\nagain\n" and run.text("task.000007.out") == "x"
    assert run.record().exit_code == 0


@pytest.mark.parametrize("code", [0, 7])
def test_a_task_that_has_ended_does_not_run_again(run: Run, code: int) -> None:
    logs = ["sh", "-c", f"echo run >>log; exit {code}"]
    assert of_job(run, "1", logs).returncode == code
    again = of_job(run, "1", logs)
    assert again.returncode == 75 and "has ended" in again.stderr
    assert run.text("log") == "run\n" and run.record().exit_code == code


@pytest.mark.parametrize(("code", "jobs"), [(0, "4711"), (3, "4711"), (0, "4712")])
def test_a_child_that_is_killed_for_memory(run: Run, small_cgroup: Callable[[int], Path], code: int, jobs: str) -> None:
    argv = ["sh", "-c", f"{sys.executable} -c 'x = bytearray(200_000_000)'; exit {code}"]
    script = run.write(argv, native_id="$JOB", claim=True)
    inside = f'echo $$ >"{small_cgroup(50_000_000)}/cgroup.procs"; exec "$@"'
    environment = os.environ | {"JOB": jobs}
    subprocess.run(["sh", "-c", inside, "sh", *run.shell, script], env=environment, stdin=subprocess.DEVNULL)
    record = run.record()
    assert (record.exit_code, record.oom_kills, record.memory_is_its_own) == (code, 1, jobs == "4711")
    verdict = verdict_on(record, (), "", "")
    if record.memory_is_its_own:
        assert (verdict.state, verdict.cause) == (TaskState.FAILED, FailureCause.MEMORY)
    assert verdict_on(record, (), "", "", "warn").state is (TaskState.DONE if code == 0 else TaskState.FAILED)


def test_a_claimed_script_can_be_run_by_hand(run: Run) -> None:
    for _ in range(2):
        assert of_job(run, "", ["sh", "-c", "echo run"]).returncode == 0
    assert run.text("task.000007.out") == "run\n"
