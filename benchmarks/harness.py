"""Runs probes in fresh processes, bounded in time, in alternation, and sweeps up whatever they leave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .model import Experiment, Outcome, Probe, Results, Sample, Suite

ROOT = Path(__file__).resolve().parent.parent
MARK = "ASYNCFLOW_BENCH_MARK"
# The checkout goes to the end of the path: an installed asyncflow_hpc (with its mapped folders) is found first.
LAUNCH = "import sys; sys.path.append(sys.argv.pop(1)); from benchmarks import child; child.main(*sys.argv[1:])"
GRACE_SECONDS = 1.0  # a resource tracker or fork server ends by itself shortly after its parent


Say = Callable[[str, str], None]  # told the experiment, and which of its measurements begins


class ProbeError(Exception):
    """A probe failed or passed its time limit."""


def run_suite(suite: Suite, repeat: int, say: Say) -> Results:
    """All experiments of a suite, `repeat` times each; a failed variant is not tried again.

    Files are removed at the very end: ext4 passes one by one over the inodes of files deleted in the last minutes. That
    makes a new file up to a hundred times as dear, and each measurement would pay for clearing up after the last.
    """
    results: Results = {}
    scratch = Path(tempfile.mkdtemp(prefix="afbench-"))
    try:
        for experiment in suite.experiments:
            results[experiment.key] = _run_experiment(experiment, repeat * experiment.times, scratch, say)
    finally:
        say("all done", "removing files")
        shutil.rmtree(scratch, ignore_errors=True)
    return results


def _run_experiment(experiment: Experiment, repeat: int, scratch: Path, say: Say) -> dict[str, Outcome]:
    names = list(experiment.variants)
    outcomes = {name: Outcome() for name in names}
    for repetition in range(repeat):
        # Another one comes first each time, so that none always runs on the machine the same other one has warmed.
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            probe, outcome = experiment.variants[name], outcomes[name]
            if outcome.failure or (probe.repeats and len(outcome.samples) >= probe.repeats):
                continue
            say(experiment.key, f"{repetition + 1}/{repeat}: {name}")
            try:
                sample, left = run_probe(probe, scratch)
            except ProbeError as error:
                outcome.failure = str(error)
                continue
            outcome.samples.append(sample)
            outcome.left_behind = max(outcome.left_behind, left)
    return outcomes


def run_probe(probe: Probe, scratch: Path) -> tuple[Sample, int]:
    """One measurement: its sample, and how many processes it left behind (they are ended here)."""
    place = Path(tempfile.mkdtemp(dir=scratch))
    result = place / "result.json"
    work = place / "work"
    work.mkdir()
    mark = place.name
    environment = {**os.environ, MARK: mark, "TMPDIR": str(place)}
    command = [sys.executable, "-c", LAUNCH, str(ROOT), probe.target, json.dumps(probe.kwargs), str(result)]
    with open(place / "output", "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    left = _wait(process, probe.seconds, mark)
    if process.returncode != 0:
        raise ProbeError(_reason(process.returncode, place / "output"))
    sample: Sample = json.loads(result.read_text(encoding="utf-8"))
    return sample, left


def _wait(process: subprocess.Popen[bytes], seconds: float, mark: str) -> int:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise ProbeError(f"not done in {seconds:.0f} s") from None
    finally:
        left = _sweep(process, mark)
    return left


def _sweep(process: subprocess.Popen[bytes], mark: str) -> int:
    """End the process and all it started; how many of them outlived it."""
    if process.poll() is None:
        process.kill()
        process.wait()
        grace = 0.0
    else:
        grace = GRACE_SECONDS
    end = time.monotonic() + grace
    remaining = _family(process.pid, mark)
    while remaining and time.monotonic() < end:
        time.sleep(0.02)
        remaining = _family(process.pid, mark)
    for pid in remaining:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(remaining)


def _family(session: int, mark: str) -> list[int]:
    """Living processes of the session, or with our mark in their environment (some make a session of their own)."""
    wanted = f"{MARK}={mark}".encode()
    found: list[int] = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if not entry.isdigit():
            continue
        try:
            # The command in parentheses may hold spaces: the fields are counted from its end.
            state, _, _, sid = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()[:4]
            if state in (b"Z", b"X"):
                continue
            if int(sid) == session or wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                found.append(int(entry))
        except (OSError, ValueError):
            continue  # gone meanwhile, or somebody else's
    return found


def _reason(code: int, output: Path) -> str:
    """The last line the probe printed (of a traceback: the error), with how it ended."""
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{lines[-1][:200]} ({ended})" if lines else ended
