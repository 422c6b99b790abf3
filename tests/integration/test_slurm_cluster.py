"""The project's own Slurm (scripts/slurm-cluster): it comes up, runs jobs of any user, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# An installation of the packages may come first.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm-cluster"
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


def cluster(command: str, directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), command, "--dir", str(directory), *arguments]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False)


def up(directory: Path, *arguments: str) -> None:
    done = cluster("up", directory, "--nodes", "2", *arguments)
    if done.returncode == 3 and os.environ.get("CI") != "true":
        pytest.skip(done.stderr)
    first, *others = done.stdout.splitlines()
    assert (done.returncode, first) == (0, f"export SLURM_CONF={directory}/etc/slurm.conf"), done.stderr
    assert bool(others) == ("--slurm" in arguments)


def slurm(directory: Path, *words: str) -> str:
    path = f"{prefix_of(directory)}/bin:{os.environ['PATH']}"
    environment = os.environ | {"SLURM_CONF": f"{directory}/etc/slurm.conf", "PATH": path}
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def prefix_of(directory: Path) -> str:
    """Where a cluster has its programs, if they are not the distribution's."""
    return str(json.loads((directory / "slurm-cluster.json").read_text())["prefix"])


def run_job(directory: Path, script: str, *prefix: str) -> None:
    slurm(directory, *prefix, "sbatch", "--wait", "--output=/dev/null", "--wrap", script)


def eventually(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.05)


def pids(directory: Path, pattern: str = "") -> list[int]:
    """The live processes that have the directory in their command line, environment or working directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            text = b"\0".join([command, (entry / "environ").read_bytes(), os.fsencode(os.readlink(entry / "cwd"))])
            dead = (entry / "stat").read_bytes().rpartition(b") ")[2][:1] in b"ZX"
        except OSError:
            continue
        if not dead and os.fsencode(directory) in text and re.search(pattern.encode(), command):
            found.append(int(entry.name))
    return found


def assert_nothing_left(directory: Path) -> None:
    assert not directory.exists()
    assert pids(directory) == []


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name that every user may enter, for clusters."""
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("only root can test jobs of several users")
        pytest.skip("only root can test jobs of several users")
    path = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    path.chmod(0o755)
    yield path
    for directory in path.iterdir():
        cluster("down", directory)
    left = pids(path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path)
    assert left == []


@pytest.fixture
def running(place: Path) -> Path:
    """A cluster of two nodes without accounting."""
    up(place / "a")
    return place / "a"


def test_it_runs_jobs_and_leaves_nothing(running: Path) -> None:
    assert cluster("env", running).stdout == f"export SLURM_CONF={running}/etc/slurm.conf\n"
    shown = cluster("status", running)
    assert shown.returncode == 0
    assert re.findall(r"node (\S+) +idle", shown.stdout) == ["n1", "n2"]
    run_job(running, "srun true")
    assert len(slurm(running, "srun", "--nodes=2", "hostname").splitlines()) == 2
    assert "up" in slurm(running, "sinfo", "--noheader", "--partition=normal,short,low,lowrq,high")

    assert cluster("down", running).returncode == 0
    assert_nothing_left(running)
    assert cluster("status", running).returncode == 1
    assert cluster("down", running).returncode == 0
    assert cluster("env", running).returncode == 1


def test_daemons_listen_on_loopback_only(running: Path) -> None:
    inodes = set()
    for pid in pids(running):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = [row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]
    assert listening == ["0100007F"] * 3


def test_an_ordinary_user_submits_and_runs(running: Path, place: Path) -> None:
    output = place / "a" / "out"
    output.mkdir(mode=0o777)
    output.chmod(0o777)
    run_job(running, f"srun id -un >{output}/user", *AS_NOBODY)
    assert (output / "user").read_text() == "nobody\n"
    assert slurm(running, *AS_NOBODY, "srun", "id", "-un") == "nobody\n"


def test_two_clusters_side_by_side(running: Path, place: Path) -> None:
    other = place / "b"
    up(other, "--min-job-age", "77", "--slurmd-timeout", "33")
    for directory in (running, other):
        run_job(directory, "srun true")
        assert slurm(directory, "squeue", "--noheader", "--states=all", "--format=%i %T") == "1 COMPLETED\n"
    settings = slurm(other, "scontrol", "show", "config")
    assert re.search(r"MinJobAge += 77 sec", settings)
    assert re.search(r"SlurmdTimeout += 33 sec", settings)
    assert cluster("down", other).returncode == 0
    assert_nothing_left(other)
    run_job(running, "true")


def test_up_leaves_a_running_cluster_alone(running: Path) -> None:
    before = pids(running)
    up(running)
    assert pids(running) == before
    refused = cluster("up", running, "--nodes", "3")
    assert (refused.returncode, pids(running)) == (1, before)
    assert "nodes is 2" in refused.stderr


@pytest.mark.parametrize("daemon", ["munged", "slurmctld -D", "slurmd -D -N n2"])
def test_up_repairs_and_down_clears_up_after_a_killed_daemon(running: Path, daemon: str) -> None:
    def kill() -> None:
        (pid,) = pids(running, daemon.replace(" ", "\0"))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: pid not in pids(running))

    kill()
    assert cluster("status", running).returncode == 2
    up(running)
    assert cluster("status", running).returncode == 0
    run_job(running, "srun true")
    kill()
    assert cluster("down", running).returncode == 0
    assert_nothing_left(running)


def test_down_ends_jobs_with_all_their_processes(running: Path) -> None:
    script = "trap '' TERM; srun sleep 1000 & setsid sleep 1000 & env -i setsid sleep 1001 & wait"
    slurm(running, "sbatch", "--output=/dev/null", "--wrap", script)
    waiting = subprocess.Popen(["srun", "sleep", "1002"], env=os.environ | {"SLURM_CONF": f"{running}/etc/slurm.conf"})
    marks = ["sleep\x001000", "sleep\x001002"]
    eventually(lambda: all(pids(running, mark) for mark in marks))
    eventually(lambda: sleepers("1001"))
    (scrubbed,) = sleepers("1001")

    assert cluster("down", running).returncode == 0
    assert_nothing_left(running)
    assert scrubbed not in sleepers("1001")
    assert waiting.wait() != 0


def sleepers(seconds: str) -> list[int]:
    """Processes without environment that only their command line shows."""
    listed = subprocess.run(["pgrep", "-fx", f"sleep {seconds}"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def test_a_shell_that_uses_the_cluster_outlives_it(running: Path) -> None:
    environment = os.environ | {"SLURM_CONF": f"{running}/etc/slurm.conf"}
    shell = subprocess.Popen(["sleep", "1000"], env=environment)
    try:
        assert cluster("down", running).returncode == 0
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


def test_faults_on_demand(running: Path) -> None:
    slurm(running, "sbatch", "--nodelist=n1", "--output=/dev/null", "--wrap", "sleep 1000")
    slurm(running, "sbatch", "--nodelist=n2", "--output=/dev/null", "--wrap", "sleep 1000")
    eventually(lambda: len(pids(running, "^sleep\x001000")) == 2)

    assert cluster("kill-node", running, "n2").returncode == 0
    assert len(pids(running, "^sleep\x001000")) == 1
    assert cluster("start-node", running, "n2").returncode == 0
    assert cluster("stop-controller", running).returncode == 0
    assert pids(running, "slurmctld") == []
    assert cluster("start-controller", running).returncode == 0
    assert "1 RUNNING" in slurm(running, "squeue", "--noheader", "--format=%i %T")
    assert cluster("kill-node", running, "n9").returncode == 2


def test_an_interrupted_up_leaves_nothing(place: Path) -> None:
    directory = place / "a"
    up(directory, "--accounting")
    assert cluster("down", directory).returncode == 0
    starting = subprocess.Popen([SCRIPT, "up", "--dir", directory, "--accounting"], stderr=subprocess.DEVNULL)
    eventually(lambda: pids(directory, "mariadbd\0"))
    starting.send_signal(signal.SIGINT)
    assert starting.wait() == 130
    assert_nothing_left(directory)


def test_a_foreign_directory_is_refused(place: Path) -> None:
    (place / "a").mkdir()
    (place / "a" / "thesis.tex").touch()
    for command in ("up", "down"):
        assert cluster(command, place / "a").returncode == 1
    assert (place / "a" / "thesis.tex").exists()
    assert cluster("up", place / "with space").returncode == 2
    assert cluster("up", place / ("long" * 20)).returncode == 2


def test_accounting_shows_the_job(place: Path) -> None:
    up(place / "a", "--accounting")
    run_job(place / "a", "srun true", *AS_NOBODY)
    query = ("sacct", "--allusers", "--allocations", "--noheader", "--parsable2", "--format=JobID,User,State")
    # The controller sends its records to the database when it finds the time.
    eventually(lambda: slurm(place / "a", *query) == "1|nobody|COMPLETED\n")
    assert slurm(place / "a", "sbatch", "--account=dev", "--output=/dev/null", "--wrap", "true")
    assert cluster("down", place / "a").returncode == 0
    assert_nothing_left(place / "a")


def test_another_version_than_the_distributions(place: Path) -> None:
    directory = place / "a"
    up(directory, "--slurm", "24.11", "--accounting")
    output = directory / "out"
    output.mkdir()
    output.chmod(0o777)
    assert slurm(directory, "sbatch", "--version").startswith("slurm-wlm 24.11")
    # What runs in jobs is this machine's, but for the commands of Slurm.
    script = f"cd {output}; srun --version >version; srun id -un >user; env >environment; ldd /bin/sh >libraries"
    run_job(directory, script, *AS_NOBODY)
    assert (output / "version").read_text().startswith("slurm-wlm 24.11")
    assert (output / "user").read_text() == "nobody\n"
    assert "LD_LIBRARY_PATH" not in (output / "environment").read_text()
    assert prefix_of(directory) not in (output / "libraries").read_text()
    query = ("sacct", "--allusers", "--allocations", "--noheader", "--parsable2", "--format=JobID,User,State")
    eventually(lambda: slurm(directory, *query) == "1|nobody|COMPLETED\n")

    (pid,) = pids(directory, "slurmctld\0-D")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in pids(directory))
    up(directory, "--slurm", "24.11")
    assert slurm(directory, "scontrol", "--version").startswith("slurm-wlm 24.11")
    before = groups()
    refused = cluster("up", directory, "--cgroups")
    assert refused.returncode == 1 and "cgroups is False" in refused.stderr
    assert groups() == before
    assert cluster("down", directory).returncode == 0
    assert_nothing_left(directory)


@pytest.mark.parametrize(
    ("failing", "words"), [("apt-get", "no network"), ("dpkg", "no network"), (None, "no apt-get")]
)
def test_a_version_is_there_as_a_whole_or_not_at_all(
    place: Path, tmp_path: Path, failing: str | None, words: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("dpkg", "apt-get") if failing else ("dpkg",):
        text = 'echo "no network" >&2; exit 100' if name == failing else f'exec {shutil.which(name)} "$@"'
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}" if failing else str(programs)
    cache = tmp_path / "cache"
    done = cluster("up", place / "a", "--slurm", "24.11", "--cache", str(cache), PATH=path)
    assert (done.returncode, done.stdout) == (3, "")
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not cache.exists() or list(cache.iterdir()) == []
    assert_nothing_left(place / "a")


def test_an_interrupted_making_of_a_version_leaves_nothing(place: Path, tmp_path: Path) -> None:
    programs, cache = tmp_path / "programs", tmp_path / "cache"
    programs.mkdir()
    (programs / "apt-get").write_text("#!/bin/sh\nexec sleep 1003\n")
    (programs / "apt-get").chmod(0o755)
    words = [SCRIPT, "up", "--dir", place / "a", "--slurm", "24.11", "--cache", cache]
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    making = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    eventually(lambda: sleepers("1003"))
    making.send_signal(signal.SIGTERM)
    assert making.wait() == 143
    assert list(cache.iterdir()) == []
    assert sleepers("1003") == []


def groups() -> list[Path]:
    """The cgroups of clusters."""
    listed = Path("/proc/self/mounts").read_text().splitlines()
    places = [Path(line.split()[1]) for line in listed if line.split()[2] in ("cgroup", "cgroup2")]
    return [group for place in places for group in place.glob("asyncflow-slurm-*")]


def test_cgroups_hold_memory_and_end_what_jobs_leave(place: Path) -> None:
    mounts, before = Path("/proc/self/mounts").read_text(), groups()
    directory, out = place / "a", place / "a" / "out"
    up(directory, "--cgroups")
    child = f"{sys.executable} -c 'bytearray(400 << 20)'"
    script = f"{child}; echo $? >{out}; exit 0"
    submitted = slurm(directory, "sbatch", "--parsable", "--mem=100M", "--output=/dev/null", "--wrap", script).strip()

    def state(job: str) -> str:
        return slurm(directory, "squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()

    eventually(lambda: state(submitted) not in ("PENDING", "RUNNING", "COMPLETING"))
    assert (out.read_text(), state(submitted)) == ("137\n", "OUT_OF_MEMORY")

    run_job(directory, f"env -i setsid sleep 1004 & until pgrep -fx 'sleep 1004' >{out}; do sleep 0.1; done")
    assert out.read_text() != ""
    eventually(lambda: sleepers("1004") == [])

    # Two clusters have jobs of the same number.
    other = place / "b"
    up(other, "--cgroups")
    slurm(other, "sbatch", "--output=/dev/null", "--wrap", "env -i setsid sleep 1005 & wait")
    eventually(lambda: sleepers("1005"))
    slurm(directory, "sbatch", "--nodelist=n1", "--output=/dev/null", "--wrap", "env -i setsid sleep 1006 & wait")
    eventually(lambda: sleepers("1006"))
    assert cluster("kill-node", directory, "n2").returncode == 0
    assert sleepers("1006") != []
    assert cluster("kill-node", directory, "n1").returncode == 0
    assert sleepers("1006") == []
    assert sleepers("1005") != []
    assert cluster("down", other).returncode == 0
    assert sleepers("1005") == []

    assert cluster("down", directory).returncode == 0
    assert_nothing_left(directory)
    assert Path("/proc/self/mounts").read_text() == mounts
    assert groups() == before


def test_cgroups_need_root(place: Path) -> None:
    home = place / "home"
    home.mkdir()
    shutil.chown(home, "nobody")
    words = [*AS_NOBODY, sys.executable, str(SCRIPT), "up", "--cgroups", "--dir", str(home / "a")]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "--cgroups needs root" in done.stderr
