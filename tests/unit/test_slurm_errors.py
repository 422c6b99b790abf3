"""What Slurm's commands say when they fail: what passes, what may have worked all the same, and what never works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.backends.psij.scheduler import Permanent, Transient
from asyncflow_hpc.backends.psij.slurm_errors import RULES, cancel_failure, submit_failure

RECORDED = Path(__file__).parent / "recorded" / "slurm"


def answers(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return found


REFUSED = {name: answer for name, answer in answers("submit").items() if answer["returncode"] != 0}
PASSING = {"munge", "submitlimit", "qossubmitlimit", "down", "jobcount"}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_a_real_slurm_has_refused(name: str) -> None:
    answer = REFUSED[name]
    # Killed when it had tried again and again.
    code = -9 if answer["returncode"] is None else answer["returncode"]
    found = submit_failure(answer["stderr"] + answer["stdout"], code)
    assert isinstance(found, Transient if name in PASSING else Permanent)
    assert "sbatch:" not in found.text and "\n" not in found.text and found.text
    if isinstance(found, Transient):
        assert not found.unclear and not found.while_queued and 1 <= found.delay <= 60


@pytest.mark.parametrize(("name", "word"), [
    ("partition", "queue"), ("account", "account"), ("noassociation", "account"), ("qos", "qos"),
    ("reservation", "reservation"), ("gres", "gpus_per_rank"), ("time", "walltime"), ("memory", "mem_per_rank"),
    ("cpus", "cores_per_rank"), ("nodeszero", "nodes"), ("nodelist", "nodes"), ("closed", "queue"),
    ("inactive", "queue"), ("feature", "slurm"), ("license", "slurm"), ("badoption", "slurm"), ("qosmaxwall", "less"),
    ("cluster", "cluster"),
])  # fmt: skip
def test_the_advice_names_what_to_change(name: str, word: str) -> None:
    found = submit_failure(REFUSED[name]["stderr"], 1)
    assert isinstance(found, Permanent) and word in found.advice


def test_the_text_is_that_of_slurm_without_its_prefixes() -> None:
    assert submit_failure(REFUSED["memory"]["stderr"], 1).text == (
        "Memory specification can not be satisfied;"
        " Batch job submission failed: Requested node configuration is not available"
    )
    assert submit_failure("sbatch: error: a\x1b[1mb\nsbatch: error: a\x1b[1mb\n", 1).text == "a [1mb"
    assert len(submit_failure("x" * 5000, 1).text) == 1000


@pytest.mark.parametrize(("message", "unclear"), [
    ("Unable to contact slurm controller (connect failure)", False),
    ("Unable to contact slurm controller (receive failure)", True),
    ("Unable to contact slurm controller (send failure)", True),
    ("Socket timed out on send/recv operation", True),
    ("Zero Bytes were transmitted or received", True),
    ("Message receive failure", True),
    ("Connection timed out reading", True),
    ("Connection timed out establishing", False),
    ("Communication connection failure", False),
    ("Resource temporarily unavailable", False),
    ("Rate limit exceeded, please retry momentarily", False),
    ("MaxJobCount limit reached", False),
    ("Slurm backup controller in standby mode", False),
    ("Protocol authentication error", False),
    ("I/O error writing script/environment to file", False),
    ("System submissions disabled", False),
])  # fmt: skip
def test_failures_that_pass(message: str, unclear: bool) -> None:
    found = submit_failure(f"sbatch: error: Batch job submission failed: {message}\n", 1)
    assert isinstance(found, Transient) and found.unclear == unclear


def test_a_limit_that_is_not_named_may_be_one_that_waits_for_jobs_to_end() -> None:
    common = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    found = submit_failure(f"sbatch: error: Batch job submission failed: {common}\n", 1)
    assert isinstance(found, Transient) and found.while_queued
    for name in ("AssocGrpSubmitJobsLimit", "QOSGrpSubmitJobsLimit", "MaxSubmitJobsPerAccount"):
        found = submit_failure(f"sbatch: error: {name}\nsbatch: error: {common}\n", 1)
        assert isinstance(found, Transient) and found.limit and not found.while_queued
    for name in ("AssocMaxWallDurationPerJobLimit", "QOSMaxCpuPerJobLimit", "QOSMinCpuNotSatisfied", "MaxMemPerLimit"):
        assert isinstance(submit_failure(f"sbatch: error: {name}\nsbatch: error: {common}\n", 1), Permanent)


def test_without_a_configuration_no_attempt_helps() -> None:
    found = submit_failure(answers("errors")["queue-no-source"]["stderr"], 1)
    assert isinstance(found, Permanent) and "SLURM_CONF" in found.advice


def test_silence_and_unknown_words() -> None:
    for code in (0, -9, 137, 143):
        found = submit_failure("", code)
        assert isinstance(found, Transient) and found.unclear and str(code) in found.text
    assert submit_failure("Killed", 137) == Transient("Killed", 10.0, unclear=True)
    found = submit_failure("", 3)
    assert isinstance(found, Permanent) and "3" in found.text and found.unclear
    assert submit_failure("a novel failure", 1) == Permanent("a novel failure", unclear=True)


def test_every_rule_decides_something() -> None:
    for rule in RULES:
        re.compile(rule.pattern)
        assert (rule.delay is None) == bool(rule.advice)
        assert rule.delay is not None or not (rule.unclear or rule.while_queued)


@given(st.text(), st.integers(-64, 255))
def test_no_text_raises(text: str, code: int) -> None:
    assert len(submit_failure(text, code).text) <= 1000
    said = cancel_failure(text, code)
    assert (said is None) or said


@pytest.mark.parametrize(("name", "expected"), [
    ("finished", None), ("unknown", None), ("several", None), ("quiet", None), ("verbose", None),
    ("garbage", "Invalid job id abc"), ("nothing", "No job identification provided"),
    ("denied", "Kill job error on job id 31: Access/permission denied"),
    ("quietdenied", "Kill job error on job id 31: Access/permission denied"),
    ("down", "Kill job error on job id 31: Unable to contact slurm controller (connect failure)"),
])  # fmt: skip
def test_what_scancel_has_said(name: str, expected: str | None) -> None:
    answer = answers("cancel")[name]
    assert cancel_failure(answer["stderr"], answer["returncode"]) == expected


def test_jobs_that_have_ended_are_no_failure_of_a_cancellation() -> None:
    gone = "scancel: error: Kill job error on job id 12: Job/step already completing or completed\n"
    unknown = "scancel: error: Kill job error on job id 99: Invalid job id specified\n"
    assert cancel_failure(gone + unknown, 1) is None
    assert cancel_failure(f"{gone}scancel: error: Kill job error on job id 3: Access/permission denied\n", 1) == (
        "Kill job error on job id 3: Access/permission denied"
    )
    assert cancel_failure("", 1) == "exit code 1"
