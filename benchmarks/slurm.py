"""The rows of `scripts/bench slurm`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .harness import ROOT
from .model import Experiment, Figure, Probe, Row, Suite, Target

AT_ONCE = 4  # submissions at the same time, which the backend does not let be set
POLL = 10.0  # seconds, the default of poll_interval
SECONDS = 600.0


def suite(quick: bool) -> Suite:
    jobs, few, many = (100, 20, 200) if quick else (2_000, 100, 1_000)
    experiments = [_submission(jobs), _latency(few), _in_flight(few, many)]
    return Suite(
        "slurm", experiments, [*_submission_rows(jobs), *_latency_rows(few), *_cpu_rows(few, many)], on_cluster
    )


@contextmanager
def on_cluster() -> Iterator[None]:
    """The Slurm that SLURM_CONF names, or a development cluster for as long as it is measured."""
    if "SLURM_CONF" in os.environ:
        yield
        return
    # The controller's own files are not what is measured; a socket's path has a hundred characters at most.
    short = len(tempfile.gettempdir()) < 40
    place = Path(tempfile.mkdtemp(prefix="afslurm-", dir=None if short else "/tmp"))
    place.chmod(0o755)
    script = [sys.executable, str(ROOT / "scripts" / "slurm-cluster")]
    try:
        # No measurement pays for the jobs of those before it.
        up = [*script, "up", "--nodes", "2", "--min-job-age", "2", "--dir", str(place / "c")]
        subprocess.run(up, check=True, stdout=sys.stderr)
        os.environ["SLURM_CONF"] = str(place / "c" / "etc" / "slurm.conf")
        yield
    finally:
        os.environ.pop("SLURM_CONF", None)
        subprocess.run([*script, "down", "--dir", str(place / "c")], check=False, stdout=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)


def _submission(n: int) -> Experiment:
    variants = {
        "ours": Probe("slurm_probes:submission", {"n": n}, seconds=SECONDS),
        "limit": Probe("slurm_probes:bare_sbatch", {"n": n, "at_once": AT_ONCE}, "bare sbatch", SECONDS),
        "psij": Probe("slurm_probes:bare_psij", {"n": n, "at_once": AT_ONCE}, "PSI/J alone", SECONDS),
    }
    return Experiment("submission", n, variants)


def _submission_rows(n: int) -> list[Row]:
    def figures(metric: str, limit: str = "limit") -> dict[str, Figure]:
        return {
            "ours": Figure("submission", ("ours",), metric),
            "limit": Figure("submission", (limit,), metric),
        }

    share = Target("limit", ">=", 0.9, "90 % of bare sbatch")
    return [
        Row(f"{n:,} jobs submitted, {AT_ONCE} at once", "/s", figures("rate"), n, True, share),
        Row(f"{n:,} jobs submitted, {AT_ONCE} at once", "/s", figures("rate", "psij"), n, True),
        Row("  driver's CPU per job", "us", figures("cpu_us"), n),
        Row("  driver's CPU per job", "us", figures("cpu_us", "psij"), n),
        Row("  CPU of sbatch per job", "us", figures("children_cpu_us"), n),
    ]


def _latency(n: int) -> Experiment:
    variants = {
        "ours": Probe("slurm_probes:latency", {"n": n, "inotify": True}, seconds=SECONDS),
        "listed": Probe("slurm_probes:latency", {"n": n, "inotify": False}, "listed", SECONDS),
    }
    return Experiment("latency", n, variants)


def _latency_rows(n: int) -> list[Row]:
    def figure(variant: str, metric: str) -> dict[str, Figure]:
        return {"ours": Figure("latency", (variant,), metric)}

    at_once, polled = (
        Target("value", "<", 0.5, "< 0.5 s"),
        Target("value", "<", POLL, f"< {POLL:g} s, the poll interval"),
    )
    return [
        Row(f"{n:,} jobs: from a job's end to its future, median", "s", figure("ours", "median_s"), n, target=at_once),
        Row("  the slowest", "s", figure("ours", "slowest_s"), n),
        Row("  without inotify, median", "s", figure("listed", "median_s"), n, target=polled),
        Row("  without inotify, the slowest", "s", figure("listed", "slowest_s"), n),
    ]


def _in_flight(few: int, many: int) -> Experiment:
    variants = {
        "few": Probe("slurm_probes:in_flight", {"n": few, "of": many}, seconds=SECONDS),
        "many": Probe("slurm_probes:in_flight", {"n": many, "of": many}, seconds=SECONDS),
    }
    return Experiment("in_flight", many, variants)


def _cpu_rows(few: int, many: int) -> list[Row]:
    def cpu(variant: str) -> Figure:
        return Figure("in_flight", (variant,), "cpu_us")

    under = Target("value", "<", 5_000, "< 5 ms")
    growth = {"ours": Figure("in_flight", ("many",), "cpu_us", over=cpu("few"))}
    level = Target("value", "<=", 1.2, "<= 1.2 x")
    return [
        Row(f"{many:,} jobs, {few:,} in flight: driver's CPU per job", "us", {"ours": cpu("few")}, many, target=under),
        Row(
            f"{many:,} jobs, {many:,} in flight: driver's CPU per job", "us", {"ours": cpu("many")}, many, target=under
        ),
        Row(f"  driver's CPU at {many:,} over that at {few:,}", "x", growth, many, target=level),
    ]
