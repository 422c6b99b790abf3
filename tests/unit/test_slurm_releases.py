"""What newer releases of Slurm have answered, through the same parsers and rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc.backends.psij.scheduler import JobStatus, Permanent, Report, Source, Transient
from asyncflow_hpc.backends.psij.slurm import Slurm
from asyncflow_hpc.states import FailureCause, TaskState

RECORDED = Path(__file__).parent / "recorded" / "slurm"
RELEASES: dict[str, dict[str, Any]] = {
    release: json.loads((RECORDED / f"{release}.json").read_text()) for release in ("24.11.5", "26.05.5")
}
slurm = Slurm("0")


def told(release: str, what: str) -> Report:
    data = RELEASES[release][what].encode()
    return slurm.parse_accounting(data) if what == "accounting" else slurm.parse_queue(data)


def named(report: Report, what: str) -> JobStatus:
    return next(job for job in report if job.name == f"wf.{what}")


@pytest.mark.parametrize("what", ["queue", "early", "restarted", "accounting"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_row_is_understood(release: str, what: str) -> None:
    report = told(release, what)
    assert report.complete and report.problems == () and len(report) > 50


# Of each job: exit code and signal as the queue tells them, and what its task would come to without a record.
ENDED = {
    "exit0": (0, None, None),
    "exit7": (7, None, FailureCause.EXIT_CODE),
    "exit137": (137, None, FailureCause.SIGNAL),
    "exit255": (255, None, FailureCause.EXIT_CODE),
    "kill9": (None, 9, FailureCause.SIGNAL),
    "term": (None, 15, FailureCause.SIGNAL),
    "segv": (None, 11, FailureCause.SIGNAL),
    "memory": (None, 9, FailureCause.SIGNAL),
    "nodefail": (None, None, FailureCause.NODE_FAILURE),
    "preempted": (None, 15, FailureCause.PREEMPTED),
    "cancelrun": (None, 15, FailureCause.CANCELLED),
    "cancelheld": (None, None, FailureCause.CANCELLED),
    "deadline2": (None, None, FailureCause.WALLTIME),
    # These make the directory of the output.
    "badoutput": (0, None, None),
}


@pytest.mark.parametrize("what", ENDED)
@pytest.mark.parametrize("release", RELEASES)
def test_how_a_job_ended(release: str, what: str) -> None:
    job = next((job for job in told(release, "queue") if job.name == f"wf.{what}"), None)
    if job is None:
        assert (release, what) == ("26.05.5", "deadline2")
        return
    code, signal, cause = ENDED[what]
    assert (job.exit_code, job.signal) == (code, signal)
    assert slurm.meaning(job).cause is cause


@pytest.mark.parametrize("release", RELEASES)
def test_the_end_of_a_walltime(release: str) -> None:
    by: Source
    for by, what in (("queue", "queue"), ("accounting", "accounting")):
        settled = slurm.settle(named(told(release, what), "timeout"), by)
        assert settled is not None and settled.verdict.cause is FailureCause.WALLTIME
        assert settled.verdict.exit_code is None and settled.verdict.signal in (None, 15)


@pytest.mark.parametrize("release", RELEASES)
def test_a_node_that_fails_sends_no_signal(release: str) -> None:
    by: Source
    for by, what in (("queue", "queue"), ("accounting", "accounting"), ("queue", "restarted")):
        jobs = [job for job in told(release, what) if job.state == "NODE_FAIL"]
        assert jobs
        for job in jobs:
            settled = slurm.settle(job, by)
            assert settled is not None and settled.verdict.cause is FailureCause.NODE_FAILURE
            assert (settled.verdict.exit_code, settled.verdict.signal) == (None, None)


@pytest.mark.parametrize("release", RELEASES)
def test_a_code_of_the_records_that_may_have_been_another(release: str) -> None:
    settled = slurm.settle(named(told(release, "accounting"), "exit255"), "accounting")
    assert settled is not None and settled.verdict.state is TaskState.FAILED
    # 24.11 takes 128 from it.
    expected = (255, False) if release == "26.05.5" else (127, True)
    assert (settled.verdict.exit_code, "exit code 127 from 255" in settled.verdict.text) == expected


@pytest.mark.parametrize(
    ("release", "name"), [(release, name) for release, found in RELEASES.items() for name in found["refused"]]
)
def test_what_sbatch_refuses(release: str, name: str) -> None:
    answer = RELEASES[release]["refused"][name]
    found = slurm.submit_failure(answer["stderr"] + answer["stdout"], answer["returncode"])
    assert not found.unclear, "its words are in the table, so that nobody need look for a job"
    assert isinstance(found, Transient if name == "down" else Permanent)
    assert name == "down" or (isinstance(found, Permanent) and found.advice)
