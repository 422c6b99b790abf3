"""The examples, run as a user runs them: each in a process of its own, with its session under tmp_path."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ESCAPE = "\x1b"
HANG = 100  # seconds after which a run counts as hung; no test depends on how fast one is

needs_digits = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import sklearn, rich"], capture_output=True).returncode != 0,
    reason="needs the extra 'examples'",
)


def environment() -> dict[str, str]:
    """Give the environment of a run: no colours forced, and a backend only where the test names one."""
    dropped = {"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "ASYNCFLOW_BACKEND"}
    return {key: value for key, value in os.environ.items() if key not in dropped}


def run(name: str, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run one example to its end and check its exit code."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=HANG)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def results(work_dir: Path) -> Path:
    """Find the results directory of the one session under `work_dir`."""
    (directory,) = work_dir.glob("*/results")
    return directory


def one_session(work_dir: Path) -> Path:
    """Find the directory of the one session under `work_dir`."""
    (directory,) = (path for path in work_dir.iterdir() if path.is_dir())
    return directory


@pytest.fixture(scope="module")
def digits_runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Run digits_ensemble twice: (results directory, standard output) of each run."""
    runs = []
    for number in (1, 2):
        work_dir = tmp_path_factory.mktemp(f"run {number}")  # with a space, as a user's directories have
        done = run("digits_ensemble.py", "--quick", "--work-dir", work_dir)
        assert "Traceback" not in done.stderr
        assert "never retrieved" not in done.stderr
        runs.append((results(work_dir), done.stdout))
    return runs


@needs_digits
def test_digits_result_is_plausible(digits_runs: list[tuple[Path, str]]) -> None:
    directory, _ = digits_runs[0]
    result: dict[str, Any] = json.loads((directory / "result.json").read_text())
    assert result["data"] == {"name": "scikit-learn digits", "train_samples": 1257, "test_samples": 540}
    assert [member["name"] for member in result["members"]] == [f"member-{n:02d}" for n in range(1, 5)]
    for member in result["members"]:
        assert 0.8 < member["cv_accuracy"] < 1
        assert 0.8 < member["test_accuracy"] < 1
    assert 0.9 < result["vote"]["test_accuracy"] < 1
    assert len(result["most_confused"]) == 3


@needs_digits
def test_digits_files_agree_with_the_result(digits_runs: list[tuple[Path, str]]) -> None:
    """The shell's tables and the accuracies that numpy computed are two ways to count the same answers."""
    directory, _ = digits_runs[0]
    result = json.loads((directory / "result.json").read_text())
    rows = list(csv.DictReader((directory / "confusion.csv").open()))
    for member in result["members"]:
        mine = [row for row in rows if row["member"] == member["name"]]
        right = sum(int(row["count"]) for row in mine if row["true"] == row["predicted"])
        assert sum(int(row["count"]) for row in mine) == 540
        assert round(right / 540, 4) == member["test_accuracy"]
    votes = list(csv.DictReader((directory / "votes.csv").open()))
    right = sum(row["true"] == row["vote"] for row in votes)
    assert len({row["sample"] for row in votes}) == len(votes) == 540
    assert round(right / 540, 4) == result["vote"]["test_accuracy"]


@needs_digits
def test_digits_runs_are_identical(digits_runs: list[tuple[Path, str]]) -> None:
    (first, _), (second, _) = digits_runs
    names = sorted(path.name for path in first.iterdir())
    assert names == ["confusion.csv", "result.json", "votes.csv"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@needs_digits
def test_digits_plain_output(digits_runs: list[tuple[Path, str]]) -> None:
    """Not on a terminal: one line for each stage, no escapes, and the paths whole on lines of their own."""
    directory, output = digits_runs[0]
    assert ESCAPE not in output
    stages = ("prepare data", "cross-validate", "train", "tabulate", "merge", "sum errors", "vote")
    numbers = (1, 8, 4, 4, 1, 1, 1)
    lines = [line.split(" s  ", 1)[-1] for line in output.splitlines()]
    for stage, number in zip(stages, numbers, strict=True):
        assert lines.count(f"{stage:<15} {number} done") == 1, output
    for name in ("result.json", "confusion.csv", "votes.csv"):
        assert f"  {directory / name}" in output.splitlines()


@needs_digits
def test_digits_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal the counts are drawn in place; the end of the output is the same table and paths."""
    pty = pytest.importorskip("pty")
    command = [sys.executable, str(EXAMPLES / "digits_ensemble.py"), "--quick", "--members", "1"]
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*command, "--work-dir", str(tmp_path)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment(), "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(slave)
        output = read_all(master).decode(errors="replace")
    assert process.returncode == 0, output
    assert ESCAPE in output
    assert all(word in output for word in ("waiting", "running", "done", "failed"))
    assert str(results(tmp_path) / "result.json") in output


def read_all(descriptor: int) -> bytes:
    """Read a terminal until its other side is closed, which Linux tells with an error and macOS with no bytes."""
    parts: list[bytes] = []
    with open(descriptor, "rb", buffering=0) as terminal:
        while True:
            try:
                part = terminal.read(65536)
            except OSError:
                part = b""
            if not part:
                return b"".join(parts)
            parts.append(part)


@needs_digits
@pytest.mark.parametrize("after", ["Session", "prepare data"])
def test_digits_interrupted(tmp_path: Path, after: str) -> None:
    """Ctrl-C, at the start and amid the training, ends it with a short message and without a traceback."""
    command = [sys.executable, str(EXAMPLES / "digits_ensemble.py"), "--work-dir", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if after in line:
                break
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        process.stdout.read()
        message = process.stderr.read()
        process.wait(HANG)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Interrupted" in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("*/results/result.json"))


@needs_digits
def test_digits_failing_task(tmp_path: Path) -> None:
    """A task that fails ends the run with 1 and names the task's error; here awk is not to be found."""
    (tmp_path / "awk").write_text("#!/bin/sh\necho 'awk: out of order' >&2\nexit 3\n")
    (tmp_path / "awk").chmod(0o755)
    command = [sys.executable, str(EXAMPLES / "digits_ensemble.py"), "--quick", "--work-dir", str(tmp_path / "work")]
    broken = {**environment(), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=broken, timeout=HANG)
    assert done.returncode == 1, done.stderr
    assert "TaskFailedError" in done.stderr
    assert "awk: out of order" in done.stderr
    assert "sandbox:" in done.stderr
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr


@pytest.mark.parametrize("module", ["sklearn", "rich"])
def test_digits_without_its_packages(tmp_path: Path, module: str) -> None:
    """A missing package is told before anything runs, with the way to get it."""
    script = f"import runpy, sys; sys.modules[{module!r}] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    launch = f"import sys; del sys.argv[0]; {script}"
    command = [sys.executable, "-c", launch, str(EXAMPLES / "digits_ensemble.py"), "--work-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=HANG)
    assert done.returncode == 2, done.stderr
    assert module in done.stderr
    assert "scripts/quickstart" in done.stderr
    assert "pip install '.[examples]'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("members", ["0", "-1", "many", "1.5", ""])
def test_digits_bad_number_of_members(members: str) -> None:
    done = run("digits_ensemble.py", f"--members={members}", code=2)
    assert "is not a whole number of 1 or more" in done.stderr


@needs_digits
def test_digits_unknown_backend(tmp_path: Path) -> None:
    done = run("digits_ensemble.py", "--backend", "no-such-machine", "--work-dir", tmp_path, code=1)
    assert "no-such-machine" in done.stderr
    assert "Traceback" not in done.stderr


@needs_digits
def test_digits_on_a_backend_that_runs_nothing(tmp_path: Path) -> None:
    done = run("digits_ensemble.py", "--backend", "noop", "--work-dir", tmp_path, code=1)
    assert "backend 'noop' did not run 'prepare_data'" in done.stderr
    assert "Traceback" not in done.stderr


def test_files_chain(tmp_path: Path) -> None:
    done = run("files_chain.py", "--work-dir", tmp_path)
    session = one_session(tmp_path)
    made = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  made")]
    saw = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  saw")]
    assert [Path(path).name for path in made] == ["numbers.txt", "squares.txt", "total.txt"]
    assert len({Path(path).parent for path in made}) == 3
    assert all(session.resolve() in Path(path).resolve().parents for path in made)
    assert Path(made[2]).read_text() == "338350\n"
    assert saw[1:] == [f"100 lines in {made[0]}", f"100 lines in {made[1]}"]
    assert "The sum of the squares from 1 to 100 is 338350." in done.stdout
    assert str(session) in done.stdout
    assert ESCAPE not in done.stdout
    assert done.stderr == ""


def test_failing_task(tmp_path: Path) -> None:
    done = run("failing_task.py", "--work-dir", tmp_path)
    session = one_session(tmp_path)
    words = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert any(line.startswith("TaskFailedError: ") for line in words)
    assert "cause EXIT_CODE" in words
    assert "exit_code 7" in words
    assert "stderr mesh.dat: cell 12 has no volume" in words
    assert any(line.startswith(f"sandbox {session}") for line in words)
    assert "DependencyFailureError: Cannot execute 'analyse' due to dependency failure" in done.stdout
    assert "failed_dependencies ['simulate']" in words
    assert "root_cause TaskFailedError of task.000001" in words
    assert "__cause__ is the root cause: True" in words
    assert "ZeroDivisionError: division by zero" in words
    assert "in mean" in done.stdout  # the remote traceback reaches down to the line that raised
    assert words[-1] == "3 of 3 tasks failed, as they should."
    assert "never retrieved" not in done.stderr
    assert ESCAPE not in done.stdout


@pytest.mark.parametrize(
    "name", ["files_chain.py", "failing_task.py", pytest.param("digits_ensemble.py", marks=needs_digits)]
)
def test_unusable_work_dir(tmp_path: Path, name: str) -> None:
    """An error that is not the example's own is told, and is no success, not even where failures are the point."""
    (tmp_path / "file").write_text("no directory")
    done = run(name, "--work-dir", tmp_path / "file" / "work", code=1)
    assert str(tmp_path / "file") in done.stdout + done.stderr
    assert "cannot be used" in done.stdout + done.stderr
    assert "never retrieved" not in done.stderr
    assert "Traceback" not in done.stderr
