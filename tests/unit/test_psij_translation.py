"""What sbatch is told of a task."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.backends.psij.translation import job_script, launch_line, options_for
from asyncflow_hpc.errors import TaskDescriptionError
from asyncflow_hpc.task import TaskDescription


def options(**values: Any) -> dict[str, Any]:
    return options_for(TaskDescription.from_dict(values), "s.task.000001", "/s/task.000001", "a 'name'\nü")


def test_what_every_job_says() -> None:
    assert options() == {
        "job-name": "s.task.000001",
        "chdir": "/s/task.000001",
        "output": ".asyncflow/job.log",
        "comment": "a 'name'??",
        "no-requeue": True,
        "export": "ALL",
        "ntasks": "1",
        "cpus-per-task": "1",
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ranks": 6, "ranks_per_node": 3, "nodes": 2}, {"ntasks": "6", "ntasks-per-node": "3", "nodes": "2"}),
        ({"cores_per_rank": 3, "mem_per_rank": "4GB"}, {"cpus-per-task": "3", "mem-per-cpu": "1398102K"}),
        ({"gpus_per_rank": 2}, {"gpus-per-task": "2"}),
        ({"exclusive": True}, {"exclusive": True}),
        ({"walltime": 61.5}, {"time": "0-00:01:02"}),
        ({"walltime": "1-02:03:04"}, {"time": "1-02:03:04", "signal": "B:USR2@30"}),
        (
            {"queue": "p", "account": "a b", "reservation": "r", "qos": "q", "constraint": "x&y"},
            {"partition": "p", "account": "a b", "reservation": "r", "qos": "q", "constraint": "x&y"},
        ),
        ({"slurm": {"nice": 5, "--Licenses": "a,b", "contiguous": True, "hold": False}},
         {"nice": "5", "licenses": "a,b", "contiguous": True}),
    ],
)  # fmt: skip
def test_words(values: Any, said: dict[str, Any]) -> None:
    told = options(**values)
    assert {key: told.get(key) for key in said} == said
    assert "hold" not in told


def test_requeue_only_where_asked() -> None:
    assert "no-requeue" not in options(slurm={"requeue": True}) and options(slurm={"requeue": True})["requeue"] is True


@pytest.mark.parametrize(
    "native",
    [{"job_name": "x"}, {"output": "x"}, {"array": "1-3"}, {"no such option!": 1}, {"nice": "1\n#SBATCH -n 9"}],
)
def test_native_options_that_are_refused(native: Any) -> None:
    with pytest.raises(TaskDescriptionError):
        options(slurm=native)


def test_one_line_values() -> None:
    with pytest.raises(TaskDescriptionError, match="partition"):
        options(queue="a\n#SBATCH --nodes=9")


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r\0"), min_size=1))
def test_a_line_for_each_option(value: str) -> None:
    lines = job_script({"chdir": value, "exclusive": True}, ["exec true"]).split("\n")
    assert lines[0] == "#!/bin/sh" and lines[2:] == ["#SBATCH --exclusive", "exec true", ""]
    assert shlex.split(lines[1].removeprefix("#SBATCH ")) == [f"--chdir={value}"]


def test_ranks_are_started_by_srun_or_what_the_task_says() -> None:
    assert launch_line(["a", "b c"], TaskDescription()) == ["a", "b c"]
    started = launch_line(["a"], TaskDescription(ranks=4, cores_per_rank=2))
    assert started[4:8] == ["srun", "--ntasks=4", "--cpus-per-task=2", "--kill-on-bad-exit=1"] and started[-1] == "a"
    started = launch_line(["a"], TaskDescription(ranks=4, launcher="mpiexec -x 'A B'"))
    assert started[:5] == ["mpiexec", "-x", "A B", "-n", "4"] and started[-1] == "a"


@pytest.mark.parametrize(
    ("of_ranks", "of_srun", "told"), [((4, 137), 137, 4), ((0, 0), 0, 0), ((), 1, 1), ((139, 143), 143, 139)]
)
def test_exit_code_of_the_first_rank_that_fails(
    of_ranks: Any, of_srun: int, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = "".join(f'CODE={code} "$@"\n' for code in of_ranks)
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\nshift 3\n{ranks}exit {of_srun}\n")
    srun.chmod(0o755)
    (tmp_path / ".asyncflow").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ASYNCFLOW_SANDBOX", str(tmp_path))
    argv = launch_line(["sh", "-c", 'echo "$ASYNCFLOW_RANK"; echo words >&2; exit $CODE'], TaskDescription(ranks=2))
    for _ in range(2):
        ended = subprocess.run(argv, capture_output=True, text=True)
        assert ended.returncode == told and ended.stderr == "words\n" * len(of_ranks)
