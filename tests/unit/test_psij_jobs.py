"""What the evidence about a batch job comes to: a table, and no state is DONE without evidence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.backends.evidence import STAGES, Record
from asyncflow_hpc.backends.psij.jobs import BatchJob, said_of, verdict_of
from asyncflow_hpc.backends.psij.lsf import Lsf
from asyncflow_hpc.backends.psij.pbs_classic import PbsClassic
from asyncflow_hpc.backends.psij.scheduler import JobStatus, Meaning, Report, Settlement
from asyncflow_hpc.backends.psij.slurm import Slurm
from asyncflow_hpc.backends.psij.slurm_states import STATES
from asyncflow_hpc.backends.run_script import Marks
from asyncflow_hpc.backends.staging import Plan
from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import TaskDescription

SLURM = Slurm("me")


def job(asked: FailureCause | None = None, state: str = "", reason: str = "", **more: Any) -> BatchJob:
    made = BatchJob(
        {"uid": "task.000001", "name": "n"}, TaskDescription(walltime=60), Plan(), "s.n", "/s", "/s/n", "ab"
    )
    made.asked = asked
    made.native_id = "1"
    made.status = JobStatus("1", "s.n", state, reason, **more) if state else None
    return made


def record(
    stage: str = "run", code: int | None = 0, signal: int | None = None, noted: str = "", end: float = 2.0
) -> Record:
    return Record("s", "task.000001", 0, "ab", stage, code, signal, noted, (), 1.0, end, "n1", "1", None, None)


def judged(made: BatchJob, found: Record | None) -> Any:
    meaning, settlement = None, None
    if made.status is not None:
        meaning, settlement = SLURM.meaning(made.status), SLURM.settle(made.status, "queue")
    return verdict_of(made, found, meaning, settlement, "said")


@pytest.mark.parametrize(
    ("made", "found", "state", "cause"),
    [
        (job(), record(), "DONE", None),
        (job(state="FAILED"), record(), "DONE", None),
        (job(), record(code=7), "FAILED", "EXIT_CODE"),
        (job(FailureCause.CANCELLED), record(), "DONE", None),
        (job(FailureCause.CANCELLED), record(code=3, noted="TERM"), "CANCELED", "CANCELLED"),
        (job(FailureCause.CANCELLED), record(noted="TERM"), "CANCELED", "CANCELLED"),
        (job(FailureCause.CANCELLED, state="CANCELLED"), record(), "CANCELED", "CANCELLED"),
        (job(FailureCause.CANCELLED, state="COMPLETED"), record(), "DONE", None),
        (job(FailureCause.WALLTIME, state="CANCELLED"), record(noted="TERM"), "FAILED", "WALLTIME"),
        # A handler of SIGTERM may end with any code: what sent the signal decides.
        *[
            (job(state=word), record(code=code, noted="TERM"), state, cause)
            for code in (0, 3)
            for word, state, cause in (
                ("TIMEOUT", "FAILED", "WALLTIME"),
                ("PREEMPTED", "FAILED", "PREEMPTED"),
                ("CANCELLED", "CANCELED", "CANCELLED"),
                ("NODE_FAIL", "FAILED", "NODE_FAILURE"),
                ("OUT_OF_MEMORY", "FAILED", "MEMORY"),
            )
        ],
        (job(state="OUT_OF_MEMORY"), record(), "FAILED", "MEMORY"),
        (job(state="COMPLETED"), record(noted="TERM"), "DONE", None),
        (job(state="FAILED", exit_code=3), record(code=3, noted="TERM"), "FAILED", "EXIT_CODE"),
        # Nobody knows who has sent it.
        (job(), record(noted="TERM"), "FAILED", "SIGNAL"),
        (job(), record(code=3, noted="TERM"), "FAILED", "EXIT_CODE"),
        (job(), record(noted="TERM", end=61.0), "FAILED", "WALLTIME"),
        # Slurm's warning before a walltime is no end.
        (job(state="COMPLETED"), record(noted="USR2"), "DONE", None),
        (job(state="PREEMPTED"), record(noted="USR2"), "FAILED", "PREEMPTED"),
        (job(FailureCause.CANCELLED), record(code=None, signal=15, noted="TERM"), "CANCELED", "CANCELLED"),
        (job(state="CANCELLED"), record(code=None, signal=15, noted="TERM"), "CANCELED", "CANCELLED"),
        (job(state="TIMEOUT"), record(code=None, signal=15, noted="TERM"), "FAILED", "WALLTIME"),
        (job(state="PREEMPTED"), record(code=None, signal=15, noted="TERM"), "FAILED", "PREEMPTED"),
        (job(), record(code=None, signal=15, noted="USR2 TERM"), "FAILED", "WALLTIME"),
        (job(), record(code=None, signal=15, noted="TERM", end=61.0), "FAILED", "WALLTIME"),
        (job(), record(code=None, signal=15, noted="TERM", end=60.0), "FAILED", "SIGNAL"),
        (job(), record(code=None, signal=15, end=61.0), "FAILED", "SIGNAL"),
        (job(), record(code=None, signal=11), "FAILED", "SIGNAL"),
        (job(state="FAILED", signal=11), record(code=None, signal=11), "FAILED", "SIGNAL"),
        (job(FailureCause.WALLTIME), record(code=None, signal=9), "FAILED", "WALLTIME"),
        (job(), record(stage="stage_in", code=1), "FAILED", "STAGING"),
        (job(state="NODE_FAIL"), None, "FAILED", "NODE_FAILURE"),
        (job(state="TIMEOUT"), None, "FAILED", "WALLTIME"),
        (job(state="OUT_OF_MEMORY"), None, "FAILED", "MEMORY"),
        (job(state="CANCELLED"), None, "CANCELED", "CANCELLED"),
        (job(FailureCause.CANCELLED, state="CANCELLED"), None, "CANCELED", "CANCELLED"),
        (job(state="COMPLETED", exit_code=0), None, "FAILED", "LOST"),
        (job(state="FAILED", reason="NonZeroExitCode", exit_code=7), None, "FAILED", "LOST"),
    ],
)
def test_verdicts(made: BatchJob, found: Record | None, state: str, cause: str | None) -> None:
    verdict = judged(made, found)
    assert (verdict.state, verdict.cause) == (state, cause)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "REQUEUED", "COMPLETING", "NEVER_HEARD_OF"])
def test_what_may_still_run_is_not_judged(state: str) -> None:
    assert judged(job(state=state), None) is None
    assert judged(job(state=state), record(code=None, signal=15, noted="TERM")) is None


@given(
    st.sampled_from(sorted(STATES)),
    st.sampled_from(["None", "NonZeroExitCode", "JobLaunchFailure", "TimeLimit", "two words"]),
    st.one_of(st.none(), st.integers(0, 255)),
    st.one_of(st.none(), st.just(FailureCause.CANCELLED)),
)
def test_the_queue_alone_never_makes_a_task_done(
    state: str, reason: str, code: int | None, asked: FailureCause | None
) -> None:
    verdict = judged(job(asked, state=state, reason=reason, exit_code=code), None)
    assert verdict is None or verdict.state is not TaskState.DONE


@given(st.sampled_from(STAGES), st.integers(1, 128))
def test_a_failure_on_record_stays_one(stage: str, code: int) -> None:
    verdict = verdict_of(job(state="COMPLETED"), record(stage, code), Meaning(TaskState.DONE, None, True), None, "")
    assert verdict is not None and verdict.state is TaskState.FAILED


def test_accounting_may_show_that_it_ended_well() -> None:
    status = JobStatus("1", "s.n", "COMPLETED", exit_code=0, nodes="n1", started=1.0, ended=2.0)
    settlement = SLURM.settle(status, "accounting")
    assert isinstance(settlement, Settlement)
    for marks, state in (
        (Marks(True, 0), TaskState.DONE),
        (Marks(True, None), TaskState.DONE),
        (Marks(True, 3), TaskState.FAILED),
        (Marks(False, None), TaskState.FAILED),
        (None, TaskState.FAILED),
    ):
        verdict = verdict_of(job(), None, SLURM.meaning(status), settlement, "", marks)
        assert verdict is not None and verdict.state is state, marks


OURS = JobStatus("1", "s.n", "RUNNING", directory="/s/n")
ANOTHERS = JobStatus("1", "s.n", "COMPLETED", directory="/elsewhere/s/n")
MOVED = JobStatus("1", "s.n", "REVOKED", directory="/s/n")
UNTOLD = JobStatus("1", "s.n", "PENDING")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((OURS,), OURS),
        ((UNTOLD,), UNTOLD),
        ((ANOTHERS,), None),
        ((ANOTHERS, OURS), OURS),
        ((OURS, ANOTHERS), OURS),
        ((OURS, MOVED), OURS),
        ((MOVED, OURS), OURS),
        ((MOVED,), MOVED),
        ((JobStatus("2", "s.n", "RUNNING", directory="/s/n"),), None),
        ((), None),
    ],
)
def test_what_a_report_says_of_a_job(rows: tuple[JobStatus, ...], expected: JobStatus | None) -> None:
    assert said_of(job(), Report(rows), SLURM) == expected


@pytest.mark.parametrize(
    ("noted", "end", "state", "cause"),
    [
        ("TERM", 2.0, "CANCELED", "CANCELLED"),
        ("TERM", 61.0, "FAILED", "WALLTIME"),
        ("", 2.0, "FAILED", "SIGNAL"),
        ("HUP", 2.0, "FAILED", "SIGNAL"),
    ],
)
def test_a_job_of_torque_whose_script_was_sent_sigterm(noted: str, end: float, state: str, cause: str) -> None:
    # The script ends with 143 whether the job was deleted or the task ended itself by that signal.
    meaning = PbsClassic().meaning(JobStatus("1", "s.n", "C", exit_code=143, started=1.0))
    verdict = verdict_of(job(), record(code=None, signal=15, noted=noted, end=end), meaning, None, "")
    assert verdict is not None and (verdict.state, verdict.cause) == (state, cause)


def test_why_we_ended_a_job_is_told() -> None:
    made = job(FailureCause.SUBMIT, state="CANCELLED")
    made.why = "it cannot run as it is"
    verdict = judged(made, None)
    assert (verdict.cause, verdict.text) == (FailureCause.SUBMIT, "it cannot run as it is")


def test_python_that_was_interrupted_while_it_started() -> None:
    made = job(FailureCause.CANCELLED)
    made.task["function"] = len
    verdict = verdict_of(made, record(code=1, noted="INT"), Lsf().meaning(JobStatus("1", state="EXIT")), None, "")
    assert verdict is not None and verdict.state is TaskState.CANCELED
    for own, state in ((record(code=1), TaskState.FAILED), (record(code=0, noted="INT"), TaskState.CANCELED)):
        found = verdict_of(made, own, None, None, "")
        assert found is not None and found.state is state
