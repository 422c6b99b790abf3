"""Scripts of users on emulated PBS, Torque and LSF: the same as locally, and two drivers do not disturb each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asyncflow_hpc.testing import Emulation
from tests.conftest import until

from .test_slurm_users import LONG, SCRIPT, tree


def started(script: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(script), *arguments], env={**os.environ, **environment}, cwd=script.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    return "".join(line for line in err.splitlines(True) if " WARNING " not in line)


def test_own_script_does_the_same_as_on_the_local_backend(root: Path, emulated: Emulation) -> None:
    script = root / "script.py"
    script.write_text(SCRIPT)
    found = {name: said(started(script, name, ASYNCFLOW_BACKEND=name)) for name in ("local", emulated.kind)}
    assert found[emulated.kind] == found["local"] and "TaskFailedError 7" in found["local"]
    files = tree(root / "local")
    assert files and tree(root / emulated.kind) == files


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_two_drivers_and_one_is_killed(tmp_path: Path, emulated: Emulation, number: int) -> None:
    root = tmp_path
    script = root / "script.py"
    script.write_text(LONG.replace("PsijExecutionBackend(", f"PsijExecutionBackend({emulated.kind!r}, "))
    first, second = started(script, "first"), started(script, "second")
    try:
        logs = [root / "first.log", root / "second.log"]
        await until(lambda: all(log.exists() and len(log.read_text().split()) == 6 for log in logs))
        first.send_signal(number)
        first.communicate()
        (root / "go").touch()
        assert said(second).split() == list("012345")
        assert [sorted(log.read_text().split()) for log in logs] == [list("012345")] * 2
    finally:
        (root / "go").touch()
        for process in (first, second):
            if process.poll() is None:
                process.kill()
                process.communicate()
        await until(lambda: all(job["state"] == "ENDED" for job in emulated.jobs()))


def test_the_command_line(root: Path) -> None:
    script = root / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, "-m", "asyncflow_hpc.testing.emulators", "pbs", "--", sys.executable, str(script), "w"]
    done = subprocess.run(
        words, env={**os.environ, "ASYNCFLOW_BACKEND": "pbs"}, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0 and "TaskFailedError 7" in done.stderr
