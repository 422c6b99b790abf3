"""Outputs of PBS, Torque and LSF that were mutilated on the way: nothing raises, and none of them makes a task DONE."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow_hpc.backends.psij.jobs import BatchJob, verdict_of
from asyncflow_hpc.backends.psij.lsf import Lsf
from asyncflow_hpc.backends.psij.pbs import Pbs
from asyncflow_hpc.backends.psij.pbs_classic import PbsClassic
from asyncflow_hpc.backends.psij.scheduler import Report, Scheduler
from asyncflow_hpc.backends.staging import Plan
from asyncflow_hpc.states import TaskState
from asyncflow_hpc.task import TaskDescription
from tests.unit.pbs_recordings import RECORDED, answer, as_text
from tests.unit.test_lsf import AT, HISTORY, record
from tests.unit.test_lsf import answer as lsf_answer
from tests.unit.test_pbs import TORQUE_JOB

# A loaded machine is no failure.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PBS_TEXTS = sorted(
    as_text(answer(path.stem).stdout).encode()
    for path in RECORDED.glob("qstat_json_*.txt")
    if answer(path.stem).stdout.strip()
)
TORQUE_TEXTS = [TORQUE_JOB.format(status=code, used="00:00:01").encode() for code in (0, 7, 143, 265, 271, -10, -11)]
LSF_TEXTS = [
    lsf_answer(record(STAT=state, EXIT_CODE=code, EXIT_REASON=reason), record(JOBID="18"))
    for state, code, reason in [
        ("RUN", "", ""), ("DONE", "", ""), ("EXIT", "7", ""), ("EXIT", "137", "TERM_MEMLIMIT: memory"),
        ("EXIT", "130", "TERM_OWNER: job killed by owner"), ("EXIT", "1", "TERM_REQUEUE_OWNER: again"),
    ]
]  # fmt: skip
HISTORIES = [
    HISTORY.format(end=f"{AT}: {end}\n").encode()
    for end in (
        "Done successfully;",
        "Exited with exit code 7;",
        "Exited by signal 9;",
        "Pending: Job has been requeued;",
    )
]


@st.composite
def mutilated(draw: st.DrawFn, texts: Sequence[bytes]) -> bytes:
    """A text of which pieces were cut out, doubled, overwritten with anything, or in which numbers have changed."""
    text = bytearray(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 80)))
        piece = draw(
            st.sampled_from([b"", bytes(text[start:end]) * 2, b"\xff\xfe", b"\n", b"\n\t", b"0", b"\0"]) | st.binary()
        )
        text[start:end] = piece
    return bytes(text)


CASES: dict[str, tuple[Scheduler, Callable[[Scheduler, bytes, bytes], Report], list[bytes]]] = {
    "qstat of PBS": (Pbs(), lambda scheduler, out, err: scheduler.parse_queue(out, err), PBS_TEXTS),
    "qstat -x of PBS": (Pbs(), lambda scheduler, out, err: scheduler.parse_accounting(out, err), PBS_TEXTS),
    "qstat of Torque": (PbsClassic(), lambda scheduler, out, err: scheduler.parse_queue(out, err), TORQUE_TEXTS),
    "bjobs": (Lsf(), lambda scheduler, out, err: scheduler.parse_queue(out, err), LSF_TEXTS),
    "bhist": (Lsf(), lambda scheduler, out, err: scheduler.parse_accounting(out, err), HISTORIES),
}


def verdicts(scheduler: Scheduler, report: Report, by: Any) -> list[Any]:
    """What becomes of tasks without a completion record, one for each job that is told of."""
    found = []
    for status in report:
        job = BatchJob({"uid": "task.000001", "name": "n"}, TaskDescription(), Plan(), "s.n", "/s", "/s/n", "ab")
        job.native_id, job.status = status.native_id, status
        found.append(verdict_of(job, None, scheduler.meaning(status), scheduler.settle(status, by), "said"))
    return found


@pytest.mark.parametrize("case", sorted(CASES))
@patient
@given(st.data())
def test_mutilated_answers(case: str, data: st.DataObject) -> None:
    scheduler, parse, texts = CASES[case]
    out = data.draw(mutilated(texts))
    report = parse(scheduler, out, data.draw(st.sampled_from([b"", out[:50], b"x: error\n"])))
    assert all(isinstance(problem, str) for problem in report.problems)
    for verdict in verdicts(scheduler, report, "queue"):
        # Without a record, the queue is no evidence.
        assert verdict is None or verdict.state is not TaskState.DONE


@pytest.mark.parametrize("case", sorted(CASES))
@patient
@given(st.data())
def test_a_failure_does_not_become_a_success_by_what_is_cut_off(case: str, data: st.DataObject) -> None:
    scheduler, parse, texts = CASES[case]
    whole = data.draw(st.sampled_from(texts))
    good = {
        status.native_id
        for status in parse(scheduler, whole, b"")
        if (settled := scheduler.settle(status, "accounting")) and settled.verdict.state is TaskState.DONE
    }
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    for status in parse(scheduler, cut, b""):
        settled = scheduler.settle(status, "accounting")
        if settled is not None and settled.verdict.state is TaskState.DONE:
            assert status.native_id in good


@patient
@given(st.text() | mutilated([answer(path.stem).stderr.encode() for path in RECORDED.glob("qsub_ref_*.txt")]).map(str))
def test_submissions(text: str) -> None:
    for scheduler in (Pbs(), PbsClassic(), Lsf()):
        number = scheduler.parse_submitted(text)
        assert number is None or number in text
        for code in (-9, 0, 1, 38, 170, 255):
            assert len(scheduler.submit_failure(text, code).text) <= 1000


def test_json_that_is_no_answer() -> None:
    for value in (None, 1, [], {}, {"RECORDS": None}, {"RECORDS": [None, 1, []]}, {"JOBS": "x", "RECORDS": [{}]}):
        report = Lsf().parse_queue(json.dumps(value).encode())
        assert len(report) == 0 and not report.complete
