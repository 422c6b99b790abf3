"""Slurm's states and reasons: every word of the manuals has a meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.backends.psij.scheduler import UNKNOWN, JobStatus, Meaning
from asyncflow_hpc.backends.psij.slurm_states import CODES, STATES, UNRUNNABLE, meaning, obstacle, unrunnable
from asyncflow_hpc.states import FailureCause, TaskState

# job_state_codes.html of slurm.schedmd.com.
BASE = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "PREEMPTED",
    "RUNNING",
    "SUSPENDED",
    "TIMEOUT",
]
FLAGS = [
    "COMPLETING",
    "CONFIGURING",
    "EXPEDITING",
    "LAUNCH_FAILED",
    "POWER_UP_NODE",
    "RECONFIG_FAIL",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "RESV_DEL_HOLD",
    "REVOKED",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "UPDATE_DB",
]
# squeue(1), JOB STATE CODES.
COMPACT = [
    "BF",
    "CA",
    "CD",
    "CF",
    "CG",
    "DL",
    "F",
    "NF",
    "OOM",
    "PD",
    "PR",
    "R",
    "RD",
    "RF",
    "RH",
    "RQ",
    "RS",
    "RV",
    "SI",
    "SE",
    "SO",
    "ST",
    "S",
    "TO",
]


def of(state: str, reason: str = "", exit_code: int | None = None, signal: int | None = None) -> Meaning:
    return meaning(JobStatus("1", state=state, reason=reason, exit_code=exit_code, signal=signal))


def test_the_tables_hold_every_word_of_the_manuals() -> None:
    assert sorted(STATES) == sorted([*BASE, *FLAGS])
    assert sorted(CODES) == sorted(COMPACT)
    assert set(CODES.values()) <= set(STATES)


@pytest.mark.parametrize("state", BASE)
def test_only_some_base_states_are_final(state: str) -> None:
    found = of(state)
    assert found.final == (state not in ("PENDING", "RUNNING", "SUSPENDED"))
    assert (found.cause is None) == (not found.final or state == "COMPLETED")


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_alone_is_not_final(flag: str) -> None:
    found = of(flag)
    assert not found.final and found.cause is None


@pytest.mark.parametrize("code", COMPACT)
def test_a_compact_code_means_what_its_word_means(code: str) -> None:
    assert of(code) == of(CODES[code])


@pytest.mark.parametrize(("words", "expected"), [
    ("COMPLETING,COMPLETED", Meaning(TaskState.RUNNING, ending=True)),
    ("COMPLETED,COMPLETING", Meaning(TaskState.RUNNING, ending=True)),
    ("PREEMPTED,REQUEUED", Meaning(TaskState.SUBMITTED)),
    ("NODE_FAIL,COMPLETING,REQUEUED", Meaning(TaskState.SUBMITTED)),
    ("CANCELLED,REVOKED", UNKNOWN),
    ("RUNNING, CONFIGURING", Meaning(TaskState.SUBMITTED)),
    ("COMPLETED,UPDATE_DB", Meaning(TaskState.DONE, None, True)),
    ("FAILED,LAUNCH_FAILED", Meaning(TaskState.FAILED, FailureCause.BOOTSTRAP, True)),
    ("PENDING,LAUNCH_FAILED", Meaning(TaskState.SUBMITTED)),
    ("PENDING,EXPEDITING", Meaning(TaskState.SUBMITTED)),
    ("COMPLETED,NOVEL_FLAG", UNKNOWN),
    ("COMPLETED,FAILED", UNKNOWN),
    ("CANCELLED by 1000", Meaning(TaskState.CANCELED, FailureCause.CANCELLED, True)),
    ("CANCELLED+", Meaning(TaskState.CANCELED, FailureCause.CANCELLED, True)),
    ("OUT_OF_ME+", Meaning(TaskState.FAILED, FailureCause.MEMORY, True)),
    ("COMPLET+", UNKNOWN), ("+", UNKNOWN), ("", UNKNOWN), ("?", UNKNOWN), ("NOVEL", UNKNOWN),
    ("running", Meaning(TaskState.RUNNING)),
])  # fmt: skip
def test_several_words_cut_words_and_unknown_words(words: str, expected: Meaning) -> None:
    found = of(words)
    assert found == expected
    assert (found is UNKNOWN) == (expected is UNKNOWN)


@pytest.mark.parametrize(("reason", "exit_code", "signal", "cause"), [
    ("NonZeroExitCode", 7, None, FailureCause.EXIT_CODE),
    ("NonZeroExitCode", 137, None, FailureCause.SIGNAL),
    ("NonZeroExitCode", 193, None, FailureCause.EXIT_CODE),
    ("JobLaunchFailure", None, 9, FailureCause.SIGNAL),
    ("JobLaunchFailure", None, 53, FailureCause.BOOTSTRAP),
    ("", None, 53, FailureCause.BOOTSTRAP),
    ("JobLaunchFailure", None, None, FailureCause.BOOTSTRAP),
    ("RaisedSignal", None, 11, FailureCause.SIGNAL),
    ("OutOfMemory", None, 9, FailureCause.MEMORY),
    ("TimeLimit", None, 15, FailureCause.WALLTIME),
    ("NodeDown", None, None, FailureCause.NODE_FAILURE),
    ("BadConstraints", 1, None, FailureCause.SUBMIT),
    ("SystemFailure", None, None, FailureCause.BACKEND),
    # It kept the reason for which it was pending.
    ("JobArrayTaskLimit", 1, None, FailureCause.EXIT_CODE),
    ("", None, None, FailureCause.EXIT_CODE),
])  # fmt: skip
def test_a_reason_says_why_a_job_failed(
    reason: str, exit_code: int | None, signal: int | None, cause: FailureCause
) -> None:
    assert of("FAILED", reason, exit_code, signal) == Meaning(TaskState.FAILED, cause, True)


@given(st.text())
def test_no_word_raises(text: str) -> None:
    assert isinstance(of(text, text), Meaning)
    unrunnable(text)
    obstacle(text)


@pytest.mark.parametrize("reason", [
    "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS",
    "DependencyNeverSatisfied", "(DependencyNeverSatisfied)", "AccountNotAllowed", "QOSNotAllowed", "MaxMemPerLimit",
    "AssocMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit", "AssocMaxGRESPerNode", "AssocMaxCpuMinutesPerJobLimit",
    "QOSMaxWallDurationPerJobLimit", "QOSMaxMemoryPerJob", "QOSMaxNodePerJobLimit", "QOSMinCpuNotSatisfied",
    "QOSMinGRES", "ReservationDeleted", "JobHoldMaxRequeue", "DeadLine",
])  # fmt: skip
def test_reasons_with_which_a_job_never_runs(reason: str) -> None:
    assert unrunnable(reason)
    assert obstacle(reason) is None


@pytest.mark.parametrize("reason", [
    "JobHeldUser", "JobHeldAdmin", "PartitionDown", "PartitionInactive", "ReqNodeNotAvail, UnavailableNodes:n[1-3]",
    "ReqNodeNotAvail", "(ReqNodeNotAvail, Reserved for maintenance)", "job requeued in held state",
    "(job_requeued_in_held_state)", "launch failed requeued held", "AssocGrpCPUMinutesLimit", "AssocGrpGRESMinutes",
    "QOSGrpNodeMinutes", "QOSUsageThreshold",
])  # fmt: skip
def test_reasons_that_pass_when_somebody_acts(reason: str) -> None:
    assert unrunnable(reason) is None
    assert obstacle(reason)


@pytest.mark.parametrize("reason", [
    "", "None", "Priority", "Resources", "Dependency", "BeginTime", "Licenses", "Reservation", "Prolog", "Cleaning",
    "JobArrayTaskLimit", "AssocGrpCpuLimit", "AssocGrpNodeLimit", "AssocGrpCPURunMinutesLimit", "QOSGrpCpuLimit",
    "QOSGrpMemoryRunMinutes", "AssocMaxJobsLimit", "QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit",
    "MaxGRESPerAccount", "MaxJobsPerAccount", "WaitingForScheduling", "Constraints", "FedJobLock",
    "AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit",
])  # fmt: skip
def test_reasons_that_are_a_matter_of_waiting(reason: str) -> None:
    assert unrunnable(reason) is None
    assert obstacle(reason) is None


def test_what_is_said_of_a_reason_is_a_clause() -> None:
    for text in UNRUNNABLE.values():
        assert text[0].islower() and not text.endswith(".")
