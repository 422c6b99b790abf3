"""The processes of emulated jobs, as measured on a real OpenPBS and as the manuals of LSF have them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import pytest

from asyncflow_hpc.testing import Emulation

PBS = ("pbs", "pbs_classic")
KINDS = (*PBS, "lsf")


class Lab:
    """An emulated batch system, and a directory for scripts and what they write."""

    def __init__(self, emulation: Emulation, place: Path) -> None:
        self.emulation = emulation
        self.place = place

    @property
    def kind(self) -> str:
        return self.emulation.kind

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.emulation.bin}:/only/here:{os.environ['PATH']}"
        return subprocess.run(
            line, shell=True, cwd=self.place, env={**os.environ, "PATH": path}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def submit(self, text: str, options: str = "", name: str = "script") -> str:
        (self.place / name).write_text(f"#!/bin/sh\ncd {self.place}\n{text}\n")
        line = f"bsub {options} <{name}" if self.kind == "lsf" else f"qsub -S /bin/sh -V {options} {name}"
        done = self.run(line)
        assert done.returncode == 0, done.stderr
        found = re.search(r"[0-9]+", done.stdout)
        assert found is not None
        return found[0]

    def ended(self, number: str) -> dict[str, object]:
        """Wait for the end of a job."""
        while True:
            job = next(job for job in self.emulation.jobs() if job["id"] == number)
            if job["state"] == "ENDED":
                return job
            time.sleep(0.05)

    def text(self, name: str) -> str:
        """Wait for a file that is whole when it is there."""
        path = self.place / name
        wait_for(path.exists)
        return path.read_text()

    def pid(self, name: str) -> int:
        return int(self.text(name))

    def status(self, number: str, *names: str) -> list[str]:
        told = self.run(f"qstat -x -f {number}").stdout if self.kind == "pbs" else self.run(f"qstat -f {number}").stdout
        return [found[1] for name in names if (found := re.search(rf" {name} = (\S+)", told))]


def wait_for(right: Callable[[], object]) -> None:
    while not right():
        time.sleep(0.02)


def alive(pid: int) -> bool:
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def whole(text: str, name: str) -> str:
    """Write a shell line that makes a file, whole or not at all."""
    return f"{{ {text}; }} >{name}.part; mv {name}.part {name}"


@pytest.fixture(scope="module")
def systems() -> Iterator[Callable[[str], Emulation]]:
    with ExitStack() as stack:

        @cache
        def start(kind: str) -> Emulation:
            return stack.enter_context(Emulation(kind, nodes=1, cores=8, kill_delay=0.5, walltime_delay=0.1))

        yield start


@pytest.fixture
def lab(systems: Callable[[str], Emulation], request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    return Lab(systems(request.param), tmp_path)


def on(*kinds: str) -> pytest.MarkDecorator:
    """Run a test with these batch systems."""
    return pytest.mark.parametrize("lab", kinds, indirect=True)


@on(*PBS)
def test_login_shell_leads_session_and_group(lab: Lab) -> None:
    number = lab.submit(f"{whole('ps -o pid=,ppid=,pgid=,sid= -p $$; ps -o args= -p $PPID', 'tree')}; sleep 600")
    pid, parent, group, session, leader = lab.text("tree").split()
    assert parent == group == session != pid and leader == "-sh"
    lab.run(f"qdel {number}")
    lab.ended(number)


@on("lsf")
def test_job_file_of_lsf_leads(lab: Lab) -> None:
    number = lab.submit(f"{whole('ps -o pid=,ppid=,pgid=,sid= -p $$', 'tree')}; exit 3")
    pid, parent, group, session = lab.text("tree").split()
    assert parent == group == session != pid
    assert lab.ended(number)["code"] == 3
    # It outlives a signal to its group.
    number = lab.submit("trap 'exit 7' TERM; kill -TERM 0; sleep 600")
    assert lab.ended(number)["code"] == 7


@on(*PBS)
def test_signal_to_the_own_group_ends_the_job(lab: Lab) -> None:
    number = lab.submit("echo $$ >pid; trap '' TERM; kill -TERM 0; sleep 1; echo >alive")
    assert lab.ended(number)["code"] == -signal.SIGTERM
    # The shell of the script may be about to end.
    wait_for(lambda: not alive(lab.pid("pid")))
    assert not (lab.place / "alive").exists()
    if lab.kind == "pbs":
        assert lab.status(number, "substate", "Exit_status") == ["93", "271"]


@on(*KINDS)
@pytest.mark.parametrize("end", ["by itself", "deleted"])
def test_what_left_the_session_lives_on(lab: Lab, end: str) -> None:
    far = "setsid sh -c 'echo $$ >far.part; mv far.part far; exec sleep 600' &"
    near = "(exec sh -c 'echo $$ >near.part; mv near.part near; exec sleep 600') &"
    number = lab.submit(f"{far} {near} while [ ! -e far ] || [ ! -e near ] || [ ! -e go ]; do sleep 0.05; done")
    far_pid, near_pid = lab.pid("far"), lab.pid("near")
    if end == "deleted":
        lab.run(f"{'bkill' if lab.kind == 'lsf' else 'qdel'} {number}")
    else:
        (lab.place / "go").touch()
    lab.ended(number)
    wait_for(lambda: not alive(near_pid))
    if lab.kind == "lsf":
        wait_for(lambda: not alive(far_pid))
    else:
        assert alive(far_pid)
        os.kill(far_pid, signal.SIGKILL)


@on(*KINDS)
def test_deleted_job_has_time_to_end_itself(lab: Lab) -> None:
    number = lab.submit(f"trap 'sleep 0.2; echo >cleaned; exit 3' TERM; {whole('echo', 'up')}; sleep 600 & wait")
    lab.text("up")
    lab.run(f"{'bkill' if lab.kind == 'lsf' else 'qdel'} {number}")
    job = lab.ended(number)
    assert job["ended"] == "CANCELLED"
    if lab.kind == "lsf":
        # Its first signal is SIGINT.
        assert job["code"] == 128 + signal.SIGINT
        return
    assert (lab.place / "cleaned").exists() and job["code"] == -signal.SIGTERM


@on(*KINDS)
def test_stubborn_job_is_killed(lab: Lab) -> None:
    number = lab.submit(f"trap '' TERM INT; {whole('echo $$', 'pid')}; while :; do sleep 0.1; done")
    pid = lab.pid("pid")
    lab.run(f"{'bkill' if lab.kind == 'lsf' else 'qdel'} {number}")
    lab.ended(number)
    wait_for(lambda: not alive(pid))
    if lab.kind == "pbs":
        assert lab.status(number, "substate", "Exit_status") == ["91", "271"]


@on(*PBS)
def test_script_that_kills_itself(lab: Lab) -> None:
    number = lab.submit("kill -9 $$")
    assert lab.ended(number)["code"] == 128 + signal.SIGKILL


@on(*KINDS)
def test_path_is_that_of_the_profile(lab: Lab) -> None:
    number = lab.submit(f"{whole('echo $PATH; command -v cat', 'path')}")
    path, cat = lab.text("path").split()
    lab.ended(number)
    assert ("/only/here" in path) == (lab.kind == "lsf") and cat
    if lab.kind != "lsf":
        assert path.split(":")[-1] == str(lab.emulation.bin)


@on("pbs")
def test_what_a_job_is_told(lab: Lab) -> None:
    number = lab.submit(f'[ -d "$TMPDIR" ] && [ -w "$TMPDIR" ] || exit 9; {whole("env", "env")}')
    assert lab.ended(number)["code"] == 0
    told = dict(line.split("=", 1) for line in lab.text("env").splitlines() if "=" in line)
    assert told["ENVIRONMENT"] == "BATCH" and told["PBS_ENVIRONMENT"] == "PBS_BATCH"
    assert {"PBS_JOBCOOKIE", "PBS_JOBDIR", "PBS_MOMPORT"} <= told.keys()
    assert told["TMPDIR"] != os.environ.get("TMPDIR") and not Path(told["TMPDIR"]).exists()


@on("pbs")
def test_mpiexec_of_pbs_starts_another_one_or_says_that_there_is_none(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "mpi"
    other.mkdir()
    (other / "mpiexec").write_text("#!/bin/sh\necho other $*\n")
    (other / "mpiexec").chmod(0o755)
    wrapper = lab.emulation.bin / "mpiexec"

    def call(path: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [wrapper, "-n", "2", "x"],
            env={"PATH": "/usr/bin:/bin", "PBS_O_PATH": path, "PBS_ENVIRONMENT": "PBS_BATCH"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert call(f"{wrapper.parent}:{other}").stdout == "other -n 2 x\n"
    done = call(str(wrapper.parent))
    assert (done.returncode, done.stderr) == (1, "mpiexec:  unexpected error - no non-PBS mpiexec in PBS_O_PATH\n")


@on("pbs")
def test_output_that_cannot_be_delivered(lab: Lab) -> None:
    number = lab.submit("echo out", f"-o {lab.place}/no/such/directory/out -j oe")
    assert lab.ended(number)["code"] == 0
    assert lab.status(number, "substate", "Stageout_status", "Exit_status") == ["92", "0", "0"]
