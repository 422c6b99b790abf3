"""What the fault tests on a real Slurm have in common."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from tests.clusters import CLUSTER
from tests.conftest import until

# Such a test runs on a cluster without accounting, on one with it, and on one of a newer Slurm.
either_way = pytest.mark.usefixtures("accounting")

# Such a test runs on a newer Slurm, too.
newer_too = pytest.mark.usefixtures("version")

on_slurm = [
    pytest.mark.skipif(not CLUSTER, reason="no Slurm here; scripts/test starts one as root"),
    pytest.mark.timeout(240),
]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


def directory() -> Path:
    """Where the cluster lives on which the test runs."""
    return Path(os.environ["SLURM_CONF"]).parent.parent


def cluster(*command: str) -> None:
    """Do something to the cluster."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "slurm-cluster"
    argv = [sys.executable, str(script), *command, "--dir", str(directory())]
    subprocess.run(argv, check=True, capture_output=True)


def scontrol(*words: str) -> str:
    """Tell the controller something as its administrator."""
    return subprocess.run(["scontrol", *words], check=True, capture_output=True, text=True).stdout


def has_accounting() -> bool:
    return "AccountingStorageType=accounting_storage/slurmdbd" in (directory() / "etc/slurm.conf").read_text()


def is_known(job: str) -> bool:
    """Tell whether the controller still knows a job."""
    return subprocess.run(["scontrol", "show", "job", job], check=False, capture_output=True).returncode == 0


def told(job: str, field: str) -> str:
    """What squeue says of a job."""
    argv = ["squeue", "--states=all", "--noheader", f"--jobs={job}", f"--Format={field}:"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def backend(**more: Any) -> PsijExecutionBackend:
    settings = {"defaults": {"mem_per_rank": "50MB"}, "poll_interval": 1.0, "submit_rate": 100.0, "grace": 5.0}
    return PsijExecutionBackend(**{**settings, "patience": 2, **more})


def shell(flow: WorkflowEngine) -> Any:
    @flow.executable_task
    async def command(text: str, *_: Any) -> str:
        return text

    return command


def hanging(flow: WorkflowEngine) -> Any:
    """A function that starts a process, says that it is up, and hangs; a stubborn one takes no SIGTERM."""

    @flow.function_task
    def hangs(stubborn: bool = False) -> None:
        if stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "600"])
        Path("up").touch()
        time.sleep(600)

    return hangs


def job_of(future: Any) -> str:
    return str(future.task["native_id"])


async def running(*futures: Any) -> None:
    await until(lambda: all(future.state == "RUNNING" for future in futures))


class Gate:
    """Tasks that wait until they may go on, and leave a line each time they start."""

    def __init__(self, root: Path, name: str = "gate") -> None:
        self._open = root / f"{name}.open"
        self._log = root / f"{name}.log"
        self.ended = root / f"{name}.ended"
        for path in (self._log, self.ended):
            path.touch()

    def command(self, name: object, then: str = "true") -> str:
        """A command that logs its name, waits, and does something."""
        log, gate = shlex.quote(str(self._log)), shlex.quote(str(self._open))
        return f"echo {name} >>{log}; until [ -e {gate} ]; do sleep 0.2; done; {then}"

    def open(self) -> None:
        self._open.touch()

    def ends(self) -> Counter[str]:
        """How often each task has written that it goes on."""
        return Counter(self.ended.read_text().split())

    def starts(self) -> Counter[str]:
        """How often each task has started."""
        return Counter(self._log.read_text().split())


class Wrappers:
    """Slurm's commands, counted, and made to hang or to lie where a test says so: executables before them on PATH."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._place = place
        place.mkdir()
        for name in ("sbatch", "squeue", "scancel", "sacct"):
            real = shutil.which(name)
            assert real is not None
            path = place / name
            path.write_text(
                "#!/bin/sh\n"
                f"D={shlex.quote(str(place))} R={shlex.quote(real)}\n"
                f'echo {name} "$(date +%s.%N)" "$*" >>"$D/log"\n'
                f'[ ! -e "$D/{name}.says-nothing" ] || exit 0\n'
                f'[ ! -e "$D/{name}.breaks-off" ] || {{ "$R" "$@" | head -c 100; exit 0; }}\n'
                f'[ ! -e "$D/{name}.hangs" ] || exec sleep 1000\n'
                f'[ ! -e "$D/{name}.hangs-after" ] || {{ "$R" "$@" >/dev/null; exec sleep 1000; }}\n'
                'exec "$R" "$@"\n'
            )
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")

    def hang(self, name: str, after: bool = False) -> None:
        """Let a command hang from now on: before it does anything, or after it has done it."""
        (self._place / f"{name}.hangs{'-after' if after else ''}").touch()

    def lie(self, name: str, how: str) -> None:
        """Let a command end with 0 from now on, though it "says-nothing" or "breaks-off"."""
        (self._place / f"{name}.{how}").touch()

    def release(self, name: str) -> None:
        """Let a command answer again when it is called the next time."""
        for path in self._place.glob(f"{name}.*"):
            path.unlink()

    async def calls(self, name: str, number: int) -> None:
        """Wait until a command has been called so often from now on."""
        asked = self.called()[name]
        await until(lambda: self.called()[name] >= asked + number)

    def called(self) -> Counter[str]:
        """How often each command was called."""
        return Counter(re.findall(r"^[a-z]+", self._text(), re.MULTILINE))

    def calls_with(self, name: str, word: str) -> int:
        """How often a command was called with a word among its arguments."""
        # What squeue is told holds characters that are line ends to Python.
        calls = [line.split(" ") for line in self._text().split("\n")]
        return sum(call[0] == name and word in call for call in calls)

    def times(self, name: str) -> list[float]:
        """When a command was called, in seconds since the epoch."""
        return [float(found) for found in re.findall(rf"^{name} ([0-9.]+) ", self._text(), re.MULTILINE)]

    def _text(self) -> str:
        log = self._place / "log"
        return log.read_text() if log.exists() else ""
