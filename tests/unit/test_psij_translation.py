"""What the submit commands are told of a task."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.backends.psij.commands import run_blocking
from asyncflow_hpc.backends.psij.dialect import Dialect, spread
from asyncflow_hpc.backends.psij.kinds import kind_of
from asyncflow_hpc.backends.psij.mpi import RANKS
from asyncflow_hpc.errors import ConfigurationError, TaskDescriptionError
from asyncflow_hpc.task import TaskDescription

SLURM, PBS, TORQUE, LSF = (kind_of(name).dialect for name in ("slurm", "pbs", "pbs_classic", "lsf"))
ALL = pytest.mark.parametrize("dialect", [SLURM, PBS, TORQUE, LSF], ids=lambda dialect: dialect.name)


def options(dialect: Dialect = SLURM, /, **values: Any) -> dict[str, Any]:
    description = TaskDescription.from_dict(values)
    return dialect.options(description, "s.task.000001", "/s/task.000001", "a 'name'\nü")


def resources(dialect: Dialect, /, **values: Any) -> list[str]:
    return list(options(dialect, **values)["l"])


def test_what_every_job_of_slurm_says() -> None:
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
def test_words_of_slurm(values: Any, said: dict[str, Any]) -> None:
    told = options(**values)
    assert {key: told.get(key) for key in said} == said
    assert "hold" not in told


def test_requeue_only_where_asked() -> None:
    assert "no-requeue" not in options(slurm={"requeue": True}) and options(slurm={"requeue": True})["requeue"] is True
    assert options(PBS)["r"] == "n" and options(PBS, pbs={"r": "y"})["r"] == "y"
    assert options(LSF)["rn"] is True and "rn" not in options(LSF, lsf={"r": True})


@pytest.mark.parametrize(("values", "said"), [
    ({}, ["select=1:ncpus=1:mpiprocs=1:ompthreads=1", "place=free"]),
    ({"ranks": 4, "cores_per_rank": 2}, ["select=4:ncpus=2:mpiprocs=1:ompthreads=2", "place=free"]),
    ({"ranks": 4, "nodes": 2, "gpus_per_rank": 1, "mem_per_rank": "1GB"},
     ["select=2:ncpus=2:mpiprocs=2:ompthreads=1:ngpus=2:mem=2097152kb", "place=scatter"]),
    ({"ranks": 5, "ranks_per_node": 2},
     ["select=2:ncpus=2:mpiprocs=2:ompthreads=1+1:ncpus=1:mpiprocs=1:ompthreads=1", "place=scatter"]),
    ({"nodes": 2, "exclusive": True},
     ["select=1:ncpus=1:mpiprocs=1:ompthreads=1+1:ncpus=1", "place=scatter:exclhost"]),
    ({"constraint": "model=x"}, ["select=1:ncpus=1:mpiprocs=1:ompthreads=1:model=x", "place=free"]),
    ({"walltime": 61.5}, ["select=1:ncpus=1:mpiprocs=1:ompthreads=1", "place=free", "walltime=00:01:02"]),
    ({"pbs": {"filesystems": "home:eagle", "place": "pack", "singularity_fakeroot": "True"}},
     ["select=1:ncpus=1:mpiprocs=1:ompthreads=1", "filesystems=home:eagle", "place=pack", "singularity_fakeroot=True"]),
])  # fmt: skip
def test_resources_of_pbs(values: Any, said: list[str]) -> None:
    assert resources(PBS, **values) == said


@pytest.mark.parametrize(("values", "said"), [
    ({}, ["nodes=1:ppn=1"]),
    ({"ranks": 4, "cores_per_rank": 2, "mem_per_rank": "1GB"}, ["nodes=1:ppn=8", "mem=4194304kb"]),
    ({"ranks": 4, "nodes": 2, "gpus_per_rank": 1}, ["nodes=2:ppn=2:gpus=2"]),
    ({"ranks": 5, "ranks_per_node": 2, "constraint": "fast"}, ["nodes=2:ppn=2:fast+1:ppn=1:fast"]),
    ({"exclusive": True, "qos": "high"}, ["nodes=1:ppn=1", "naccesspolicy=singlejob", "qos=high"]),
    ({"walltime": 90000, "reservation": "r.1"}, ["nodes=1:ppn=1", "walltime=25:00:00", "advres=r.1"]),
])  # fmt: skip
def test_resources_of_torque(values: Any, said: list[str]) -> None:
    assert resources(TORQUE, **values) == said


def test_words_of_pbs() -> None:
    told = options(
        PBS, queue="q", account="a b", pbs={"-m": "abe", "W": ["umask=027", "group_list=g"], "p": 5, "h": True}
    )
    assert {key: told[key] for key in "qAmWph"} == {
        "q": "q", "A": "a b", "m": "abe", "W": ("umask=027", "group_list=g"), "p": "5", "h": True
    }  # fmt: skip
    assert options(PBS, queue="q", reservation="R1")["q"] == "R1"
    script = PBS.script(told, "/s/a b", "exec true").splitlines()
    assert {"#PBS -A 'a b'", "#PBS -V", "#PBS -h", "#PBS -W umask=027", "#PBS -W group_list=g"} <= set(script)
    path = "PATH=${PBS_O_PATH:-$PATH}; export PATH"
    assert script[-3:] == ["exec >>'/s/a b/.asyncflow/job.log' 2>&1", path, "exec true"]
    with pytest.raises(TaskDescriptionError, match="qos"):
        options(PBS, qos="high")


@pytest.mark.parametrize(("values", "said"), [
    ({}, {"n": "1"}),
    ({"walltime": 5}, {"W": "0:01"}),
    ({"walltime": 3661}, {"W": "1:02"}),
    ({"ranks": 4, "nodes": 1}, {"n": "4", "R": ("span[hosts=1]",)}),
    ({"ranks": 4, "nodes": 2, "cores_per_rank": 3}, {"n": "4", "R": ("span[ptile=2]", "affinity[core(3)]")}),
    ({"ranks": 2, "mem_per_rank": "1GB"}, {"M": "2097152KB", "R": ("rusage[mem=1048576KB/task]",)}),
    ({"gpus_per_rank": 2, "exclusive": True}, {"gpu": "num=2/task", "x": True}),
    ({"queue": "q", "account": "p", "reservation": "u", "qos": "s"}, {"q": "q", "P": "p", "U": "u", "sla": "s"}),
    ({"constraint": "type==any", "lsf": {"R": "order[ut]", "core_isolation": 2, "B": True}},
     {"R": ("select[type==any]", "order[ut]"), "core_isolation": "2", "B": True}),
])  # fmt: skip
def test_words_of_lsf(values: Any, said: dict[str, Any]) -> None:
    told = options(LSF, **values)
    assert {key: told.get(key) for key in said} == said


@pytest.mark.parametrize(
    ("dialect", "native"),
    [
        (SLURM, {"job_name": "x"}),
        (SLURM, {"output": "x"}),
        (SLURM, {"array": "1-3"}),
        (SLURM, {"no such option!": 1}),
        (SLURM, {"nice": "1\n#SBATCH -n 9"}),
        (PBS, {"N": "x"}),
        (PBS, {"-l": "select=2"}),
        (PBS, {"select": "2"}),
        (PBS, {"walltime": "1"}),
        (PBS, {"J": "1-3"}),
        (PBS, {"no such option!": 1}),
        (PBS, {"filesystems": True}),
        (PBS, {"m": "a\n#PBS -l select=9"}),
        (LSF, {"J": "x[1-3]"}),
        (LSF, {"W": 5}),
        (LSF, {"I": True}),
        (LSF, {"B": "a\nb"}),
    ],
)
def test_native_options_that_are_refused(dialect: Dialect, native: Any) -> None:
    with pytest.raises(TaskDescriptionError, match=dialect.namespace if len(native) > 1 else "task_description"):
        options(dialect, **{dialect.namespace: native})


@ALL
def test_one_line_values(dialect: Dialect) -> None:
    with pytest.raises(TaskDescriptionError, match="one line"):
        options(dialect, queue="a\n#SBATCH --nodes=9")


def read_by_sbatch(line: str) -> str:
    """Read an option as sbatch 22.05 was seen to: a backslash escapes within single quotes, too."""
    read, quote, characters = "", "", iter(line)
    for character in characters:
        if character == "\\":
            read += next(characters)
        elif character in (quote or "'\""):
            quote = "" if quote else character
        else:
            assert quote or not character.isspace() or not character.isascii()
            read += character
    assert not quote
    return read


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r\0"), min_size=1))
def test_a_line_for_each_option(value: str) -> None:
    lines = SLURM.script({"chdir": value, "exclusive": True}, "/s", "exec true").split("\n")
    assert lines[0] == "#!/bin/sh" and lines[2:] == ["#SBATCH --exclusive", "exec true", ""]
    assert read_by_sbatch(lines[1].removeprefix("#SBATCH ")) == f"--chdir={value}"
    for dialect, begin in ((PBS, "#PBS "), (LSF, "#BSUB ")):
        lines = dialect.script({"q": value}, "/s", "exec true").split("\n")
        assert shlex.split(lines[1].removeprefix(begin)) == ["-q", value]


@pytest.mark.parametrize(
    ("sandbox", "log"),
    [
        ("/s/a b", ".asyncflow/job.log"),
        ("/s/%j", "/s/%%j/.asyncflow/job.log"),
        ("/s/%j\\x", "/dev/null"),
    ],
)
def test_log_in_a_directory_that_slurm_would_read_as_a_pattern(sandbox: str, log: str) -> None:
    options = SLURM.options(TaskDescription(), "name", sandbox, "comment")
    assert options["output"] == log
    lines = SLURM.script(options, sandbox, "exec true").splitlines()
    assert (f"exec >>'{sandbox}/.asyncflow/job.log' 2>&1" in lines) == (log == "/dev/null")


@pytest.mark.parametrize(
    ("of_ranks", "of_srun", "told"), [((4, 137), 137, 4), ((0, 0), 0, 0), ((), 1, 1), ((139, 143), 143, 139)]
)
def test_exit_code_of_the_first_rank_that_fails(
    of_ranks: Any, of_srun: int, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = "".join(f'SLURM_PROCID=0 CODE={code} "$@"\n' for code in of_ranks)
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\nshift 3\n{ranks}exit {of_srun}\n")
    srun.chmod(0o755)
    (tmp_path / ".asyncflow").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ASYNCFLOW_SANDBOX", str(tmp_path))
    argv = SLURM.launch_line(
        ["sh", "-c", 'echo "$ASYNCFLOW_RANK"; echo words >&2; exit $CODE'], TaskDescription(ranks=2), "py"
    )
    for _ in range(2):
        ended = subprocess.run(argv, capture_output=True, text=True)
        assert ended.returncode == told and ended.stderr == "words\n" * len(of_ranks)


@given(st.text(max_size=300))
def test_names_that_pbs_and_lsf_take(name: str) -> None:
    for dialect in (PBS, LSF):
        made = dialect.job_name(name)
        assert dialect.job_name(made) == made and not set(made) - set(dialect.job_name(made))
        assert all(letter.isascii() and (letter.isalnum() or letter in "_.+-") for letter in made)
    assert PBS.job_name(name)[0].isalnum() and len(PBS.job_name(name)) <= 231
    assert PBS.job_name("session.x.task.000001") == "session.x.task.000001"


@given(st.integers(1, 50), st.none() | st.integers(1, 9), st.none() | st.integers(1, 9))
def test_every_rank_has_a_node(ranks: int, nodes: int | None, each: int | None) -> None:
    found = spread(TaskDescription(ranks=ranks, nodes=nodes, ranks_per_node=each))
    if found is None:
        assert nodes is None and each is None
        return
    assert sum(count * size for count, size in found) == ranks
    assert each is None or all(size <= each for _, size in found)
    assert nodes is None or sum(count for count, _ in found) >= nodes
    assert [size for _, size in found] == sorted((size for _, size in found), reverse=True)


def test_ranks_of_slurm_are_started_by_srun_or_what_the_task_says() -> None:
    assert SLURM.launch_line(["a", "b c"], TaskDescription(), "py") == ["a", "b c"]
    started = SLURM.launch_line(["a"], TaskDescription(ranks=4, cores_per_rank=2), "py")
    assert started[4:8] == ["srun", "--ntasks=4", "--cpus-per-task=2", "--kill-on-bad-exit=1"] and started[-1] == "a"


@ALL
def test_ranks_are_started_by_what_the_task_says(dialect: Dialect) -> None:
    started = dialect.launch_line(["a"], TaskDescription(ranks=4, launcher="mpiexec -x 'A B'"), "py")
    assert started[4:9] == ["mpiexec", "-x", "A B", "-n", "4"] and started[-1] == "a"


@pytest.mark.parametrize("launcher", ["srun", "/usr/bin/srun", "env A=1 srun --label", "A=1 /opt/srun"])
def test_srun_by_another_name(launcher: str) -> None:
    started = SLURM.launch_line(["a"], TaskDescription(ranks=4, launcher=launcher), "py")
    assert "--kill-on-bad-exit=1" in started and "-n" not in started
    for other in ("mpiexec -launcher srun", "sruns", "ibrun"):
        assert "-n" in SLURM.launch_line(["a"], TaskDescription(ranks=4, launcher=other), "py")


def launched(dialect: Dialect, tmp_path: Path, command: str, *hosts: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "nodes").write_text("".join(f"{host}\n" for host in hosts))
    for name in ("sort", "wc", "cat", "sh", "grep"):
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    path = f"{tmp_path}:{tmp_path}/other"
    environment = {"PATH": path, "PBS_NODEFILE": f"{tmp_path}/nodes", "LSB_DJOB_HOSTFILE": f"{tmp_path}/nodes"}
    environment["OMPI_COMM_WORLD_RANK"] = "7"
    argv = dialect.launch_line(["/bin/sh", "-c", command], TaskDescription(ranks=3), sys.executable)
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("dialect", [PBS, TORQUE, LSF], ids=lambda dialect: dialect.name)
def test_ranks_without_any_mpi(dialect: Dialect, tmp_path: Path) -> None:
    assert Path(RANKS).is_file()
    found = launched(dialect, tmp_path, 'echo "$ASYNCFLOW_RANK of $ASYNCFLOW_SIZE"', "n1", "n1", "n1")
    assert sorted(found.stdout.splitlines()) == ["0 of 3", "1 of 3", "2 of 3"]
    found = launched(dialect, tmp_path, '[ "$ASYNCFLOW_RANK" = 1 ] && exit 9; exec /bin/sleep 60', "n1")
    assert found.returncode == 9
    found = launched(dialect, tmp_path, "true", "n1", "n2")
    assert found.returncode == 127 and "launcher" in found.stderr


@pytest.mark.parametrize("dialect", [PBS, TORQUE, LSF], ids=lambda dialect: dialect.name)
def test_ranks_with_mpi(dialect: Dialect, tmp_path: Path) -> None:
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text('#!/bin/sh\n[ "$1 $2" = "-n 3" ] && shift 2 && PMI_RANK=2 exec "$@"\n')
    mpiexec.chmod(0o755)
    found = launched(dialect, tmp_path, 'echo "$ASYNCFLOW_RANK of $ASYNCFLOW_SIZE"', "n1", "n2")
    assert found.stdout == "2 of 3\n"


# The end of that of PBS.
WRAPPER = '#!/bin/sh\necho "mpiexec:  unexpected error - no non-PBS mpiexec in PBS_O_PATH" >&2\nexit 1\n'


@pytest.mark.parametrize("there", [False, True], ids=["none", "another"])
def test_mpiexec_of_pbs_is_passed_over(tmp_path: Path, there: bool) -> None:
    (tmp_path / "mpiexec").write_text(WRAPPER)
    (tmp_path / "mpiexec").chmod(0o755)
    if there:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "mpiexec").write_text(
            '#!/bin/sh\n[ "$1 $2" = "-n 3" ] && shift 2 && PMI_RANK=2 exec "$@"\n'
        )
        (tmp_path / "other" / "mpiexec").chmod(0o755)
    found = launched(PBS, tmp_path, 'echo "$ASYNCFLOW_RANK of $ASYNCFLOW_SIZE"', "n1", "n1")
    assert sorted(found.stdout.splitlines()) == (["2 of 3"] if there else ["0 of 3", "1 of 3", "2 of 3"])
    if not there:
        found = launched(PBS, tmp_path, "true", "n1", "n2")
        assert found.returncode == 127 and "launcher" in found.stderr


def test_output_of_the_job_itself_is_kept_where_qsub_takes_its_path() -> None:
    said = {
        box: PBS.options(TaskDescription(), "n", box, "c")["o"] for box in ("/s/t.1", "/s/a b", "/s/h:p", "/s/\xfc")
    }
    assert said == {
        "/s/t.1": "/s/t.1/.asyncflow/job.out",
        "/s/a b": "/dev/null",
        "/s/h:p": "/dev/null",
        "/s/\xfc": "/dev/null",
    }


def test_a_script_is_submitted_by_its_path_or_read(tmp_path: Path) -> None:
    assert PBS.submission("/a b", {}).argv == ["qsub", "/a b"] and not PBS.submission("/a b", {}).by_stdin
    assert LSF.submission("/a b", {}).argv == ["bsub"] and LSF.submission("/a b", {}).by_stdin
    (tmp_path / "script").write_text("what it says")
    assert (
        run_blocking(["sh", "-c", "cat; pwd"], 9.0, tmp_path, tmp_path / "script")[1]
        == f"what it says{tmp_path}\n".encode()
    )


def test_unknown_schedulers() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'slurm'"):
        kind_of("slrm")
