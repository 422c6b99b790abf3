"""LSF: what IBM's documentation and its users show, and answers that no LSF should give."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow_hpc.backends.psij.lsf import LARGEST_BATCH, Lsf
from asyncflow_hpc.backends.psij.lsf_errors import RULES
from asyncflow_hpc.backends.psij.lsf_history import moment
from asyncflow_hpc.backends.psij.lsf_states import REASONS, REQUEUED, STATES
from asyncflow_hpc.backends.psij.scheduler import UNKNOWN, JobStatus, Permanent, Report, Scheduler, Transient
from asyncflow_hpc.states import FailureCause, TaskState

LSF: Scheduler = Lsf()

# "Termination reasons displayed by bacct, bhist, and bjobs" of IBM Spectrum LSF 10.1; TERM_SLURM is of LSF 7.
TERM = [
    "ADMIN",
    "BUCKET_KILL",
    "CHKPNT",
    "CPULIMIT",
    "CSM_ALLOC",
    "CWD_NOTEXIST",
    "DATA",
    "DEADLINE",
    "EXTERNAL_SIGNAL",
    "FORCE_ADMIN",
    "FORCE_OWNER",
    "KUBE",
    "LOAD",
    "MC_RECALL",
    "MEMLIMIT",
    "OTHER",
    "OWNER",
    "PREEMPT",
    "PRE_EXEC_FAIL",
    "PROCESSLIMIT",
    "RC",
    "REMOVE_HUNG_JOB",
    "REQUEUE_ADMIN",
    "REQUEUE_OWNER",
    "REQUEUE_RC",
    "RMS",
    "RUNLIMIT",
    "SLURM",
    "SWAP",
    "THREADLIMIT",
    "UNKNOWN",
    "ORPHAN_SYSTEM",
    "WINDOW",
    "ZOMBIE",
]
# "About job states".
STATE_WORDS = ["DONE", "EXIT", "PEND", "PROV", "PSUSP", "RUN", "SSUSP", "UNKWN", "USUSP", "WAIT", "ZOMBI"]


def test_the_tables_hold_every_word_of_the_manual() -> None:
    assert sorted(REASONS) == sorted(f"TERM_{word}" for word in TERM)
    assert sorted(STATES) == STATE_WORDS


def answer(*records: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records, **more}).encode()


def record(**values: str) -> dict[str, str]:
    names = "EXIT_CODE EXIT_REASON KILL_REASON SUSPEND_REASON PEND_REASON EXEC_HOST SUBMIT_TIME START_TIME FINISH_TIME"
    times = {"SUBMIT_TIME": "Nov 24 00:24:01 2026", "START_TIME": "Nov 24 00:24:03 2026", "EXEC_HOST": "n1:n2"}
    return {
        "JOBID": "17",
        "STAT": "RUN",
        "JOB_NAME": "s.task.000001",
        **dict.fromkeys(names.split(), ""),
        **times,
        **values,
    }


def the_one(**values: str) -> JobStatus:
    report = LSF.parse_queue(answer(record(**values)))
    assert report.complete
    (job,) = report
    return job


def test_every_field_of_a_job() -> None:
    job = the_one(STAT="EXIT", EXIT_CODE="7", FINISH_TIME="Nov 24 00:25:03 2026 L")
    assert job == JobStatus(
        native_id="17", name="s.task.000001", state="EXIT", exit_code=7, nodes="n1:n2",
        submitted=moment("Nov 24 00:24:01 2026"), started=moment("Nov 24 00:24:03 2026"),
        ended=moment("Nov 24 00:25:03 2026"),
    )  # fmt: skip
    assert job.started is not None and job.ended == job.started + 60


@pytest.mark.parametrize("word", STATE_WORDS)
def test_only_two_states_are_final(word: str) -> None:
    found = LSF.meaning(the_one(STAT=word))
    assert found.final == (word in ("DONE", "EXIT"))
    running = word in ("RUN", "SSUSP", "USUSP", "UNKWN", "ZOMBI")
    assert (found.state is TaskState.RUNNING) == running


@pytest.mark.parametrize(("values", "state", "cause"), [
    ({"EXIT_CODE": "7"}, "FAILED", "EXIT_CODE"),
    ({"EXIT_CODE": "137"}, "FAILED", "SIGNAL"),
    ({"EXIT_CODE": "130", "EXIT_REASON": "TERM_OWNER: job killed by owner"}, "CANCELED", "CANCELLED"),
    ({"EXIT_CODE": "143", "KILL_REASON": "TERM_ADMIN: job killed by LSF administrator"}, "CANCELED", "CANCELLED"),
    ({"EXIT_CODE": "140", "EXIT_REASON": "TERM_RUNLIMIT: job killed after reaching LSF run time limit"}, "FAILED",
     "WALLTIME"),
    ({"EXIT_CODE": "137", "EXIT_REASON": "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"}, "FAILED",
     "MEMORY"),
    ({"EXIT_REASON": "TERM_PREEMPT: job killed after preemption"}, "FAILED", "PREEMPTED"),
    ({"EXIT_REASON": "TERM_CWD_NOTEXIST: current working directory is not accessible"}, "FAILED", "BOOTSTRAP"),
    ({"EXIT_REASON": "TERM_NOVEL: unheard of", "EXIT_CODE": "3"}, "FAILED", "EXIT_CODE"),
    ({"EXIT_REASON": "TERM_UNKNOWN", "EXIT_CODE": "139"}, "FAILED", "SIGNAL"),
])  # fmt: skip
def test_how_a_job_ended(values: dict[str, str], state: str, cause: str) -> None:
    found = LSF.meaning(the_one(STAT="EXIT", **values))
    assert (found.state, found.cause, found.final) == (state, cause, True)


@pytest.mark.parametrize("word", sorted(REASONS))
def test_every_reason_has_its_meaning(word: str) -> None:
    job = the_one(STAT="EXIT", EXIT_CODE="130", EXIT_REASON=f"{word}: what it says")
    found, settled = LSF.meaning(job), LSF.settle(job, "queue")
    if word in REQUEUED:
        assert found.state is TaskState.SUBMITTED and settled is None
    else:
        assert found.final and found.cause is (REASONS[word] or FailureCause.SIGNAL)
        assert settled is not None and word in (settled.verdict.text or "")


def test_done_needs_a_node_and_a_start() -> None:
    job = the_one(STAT="DONE")
    found = LSF.settle(job, "accounting")
    assert found is not None and found.verdict.state is TaskState.DONE
    assert LSF.settle(the_one(STAT="DONE", EXEC_HOST="-"), "accounting") is None
    assert LSF.settle(the_one(STAT="DONE", START_TIME="-"), "accounting") is None
    assert LSF.settle(the_one(STAT="DONE", EXIT_CODE="1"), "accounting") is None


def test_pending_reasons() -> None:
    job = the_one(STAT="PEND", PEND_REASON="Job's requirements for resource cannot be satisfied: no host satisfies")
    assert job.nodes is None and job.started is None and "less" in (LSF.unrunnable(job.reason) or "")
    assert LSF.unrunnable("New job is waiting for scheduling;") is None
    assert "queue" in (LSF.obstacle("Queue closed by its administrator;") or "")


@pytest.mark.parametrize(("output", "errors", "ids", "complete"), [
    (answer(), b"", [], True),
    (b"", b"No unfinished job found\n", [], True),
    (b"", b"No job found\n", [], True),
    (b"No job found\n", b"", [], True),
    (b"", b"", [], False),
    (b"", b"LSF is down. Please wait ...\n", [], False),
    (b"Welcome to Lassen\n" + answer(record()), b"", ["17"], True),
    (answer(record())[:-20], b"", [], False),
    (b"garbage", b"", [], False),
    (b"[1, 2]", b"", [], False),
    (b'{"RECORDS": {"a": 1}}', b"", [], False),
    (answer(record(), JOBS=2), b"", ["17"], False),
    (answer({"JOBID": "18", "ERROR": "Job <18> is not found"}, record()), b"", ["17"], False),
    (answer({"STAT": "RUN"}), b"", [], False),
])  # fmt: skip
def test_odd_answers(output: bytes, errors: bytes, ids: list[str], complete: bool) -> None:
    report = LSF.parse_queue(output, errors)
    assert [job.native_id for job in report] == ids and report.complete == complete
    assert complete or report.problems


def test_an_unknown_state_is_told() -> None:
    report = LSF.parse_queue(answer(record(STAT="NOVEL")))
    assert report.problems == ("the state 'NOVEL' is not known",) and report.complete
    assert LSF.meaning(next(iter(report))) is UNKNOWN


WORDS = st.one_of(
    st.sampled_from([*STATE_WORDS, "0", "7", "130", "n1", "TERM_OWNER", "Nov 24 00:24:01 2026"]), st.text()
)
KEYS = st.sampled_from(sorted(record()))


@settings(deadline=None)
@given(st.lists(st.dictionaries(KEYS, st.one_of(WORDS, st.integers(), st.none(), st.lists(WORDS))), max_size=4))
def test_no_records_make_the_parser_raise(records: list[dict[str, Any]]) -> None:
    for job in LSF.parse_queue(answer(*records)):
        settled = LSF.settle(job, "queue")
        if settled is not None and settled.verdict.state is TaskState.DONE:
            assert job.state == "DONE" and job.exit_code == 0 and job.nodes and job.started is not None


@settings(deadline=None)
@given(st.binary())
def test_no_bytes_make_the_parsers_raise(data: bytes) -> None:
    for report in (LSF.parse_queue(data, data), LSF.parse_accounting(data, data)):
        assert all(LSF.settle(job, "accounting") is None for job in report)


# The form of an answer that a user of LSF 10.1 has published.
HISTORY = """\
Job <31>, Job Name <s.task.000001>, User <alice>, Project <default>, Command <#!/b
                     in/sh;exec /bin/sh run.sh>
Tue Dec 23 14:46:40 2025: Submitted from host <login1>, to Queue <normal>, CWD <$HOME/
                     s>;
Tue Dec 23 14:46:43 2025: Dispatched 12 Task(s) on Host(s) <12*n19>, Allocated 12 Slot(
                     s) on Host(s) <12*n19>, Effective RES_REQ <select[type == lo
                     cal] order[r15s:pg] >;
Tue Dec 23 14:46:43 2025: Starting (Pid 258999);
Tue Dec 23 14:46:43 2025: Running with execution home </home/alice>, Execution CWD </ho
                     me/alice/s>, Execution Pid <258999>;
{end}
Summary of time in seconds spent in various states by  Tue Dec 23 16:34:13
  PEND     PSUSP    RUN      USUSP    SSUSP    UNKWN    TOTAL
  3        0        6450     0        0        0        6453
"""
AT = "Tue Dec 23 16:34:13 2025"
FOLD = "\n" + 21 * " "


@pytest.mark.parametrize(("events", "state", "cause"), [
    (["Done successfully. The CPU time used is 31911.0 seconds;"], "DONE", None),
    ([f"Exited with exit code 7. The CPU time used is 3.0 seco{FOLD}nds;"], "FAILED", "EXIT_CODE"),
    (["Exited by signal 9. The CPU time used is 0.1 seconds;"], "FAILED", "SIGNAL"),
    (["Exited with exit code 1;", f"Completed <exit>; TERM_MEMLIMIT: job killed after{FOLD} reaching memory limit;"],
     "FAILED", "MEMORY"),
    (["Exited with exit code 140;", f"Completed <exit>; TERM_RUNLIMIT: job kille{FOLD}d after reaching its limit;"],
     "FAILED", "WALLTIME"),
    (["Signal <KILL> requested by user or administrator <alice>;", "Exited by signal 2;"], "CANCELED", "CANCELLED"),
    (["Exited; job has been killed; TERM_OWNER: job killed by owner;"], "CANCELED", "CANCELLED"),
    (["Exited with exit code 143;", "Pending: Job has been requeued;"], "SUBMITTED", None),
    (["Unknown; unable to reach the execution host;"], "RUNNING", None),
    ([], "RUNNING", None),
])  # fmt: skip
def test_how_a_job_ended_by_its_history(events: list[str], state: str, cause: str | None) -> None:
    end = "".join(f"{AT}: {event}\n" for event in events)
    report = LSF.parse_accounting(HISTORY.format(end=end).encode())
    (job,) = report
    assert report.complete and (job.native_id, job.name) == ("31", "s.task.000001")
    found = LSF.meaning(job)
    assert (found.state, found.cause) == (state, cause)
    settled = LSF.settle(job, "accounting")
    assert (settled is not None) == found.final
    if found.final:
        assert job.nodes == "12*n19" and job.started and job.ended == moment("Dec 23 16:34:13 2025")


def test_the_history_of_several_jobs() -> None:
    ends = (f"{AT}: Done successfully;\n", f"{AT}: Exited with exit code 2;\n")
    text = f"{'-' * 30}\n".join(HISTORY.format(end=end).replace("<31>", f"<{31 + n}>") for n, end in enumerate(ends))
    assert [(job.native_id, job.state) for job in LSF.parse_accounting(text.encode())] == [
        ("31", "DONE"),
        ("32", "EXIT"),
    ]
    assert LSF.parse_accounting(b"") == Report()
    assert not LSF.parse_accounting(b"garbage").complete


def test_times_without_a_year_are_not_in_the_future() -> None:
    for month in ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]:
        assert moment(f"{month} 28 00:24") is not None
    assert moment("-") is None and moment("Foo 24 00:24") is None


@pytest.mark.parametrize(("text", "expected"), [
    ("Job <17> is submitted to default queue <normal>.\n", "17"), ("Job <17> is submitted to queue <short>.\n", "17"),
    ("MEMLIMIT is 4 GB\nJob <17> is submitted to queue <short>.\n", "17"), ("", None), ("Job <17>: not found", None),
    ("Job not submitted.", None),
])  # fmt: skip
def test_the_id_of_a_submitted_job(text: str, expected: str | None) -> None:
    assert LSF.parse_submitted(text) == expected


@pytest.mark.parametrize(("message", "advice"), [
    ("nope: No such queue. Job not submitted.", "queue"),
    ("User cannot use the queue. Job not submitted.", "queue"),
    ("RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.", "less"),
    ("Too many processors requested. Job not submitted.", "ranks"),
    ("Bad resource requirement syntax. Job not submitted.", "lsf"),
    ("Request aborted by esub. Job not submitted.", "site"),
    ("foo: Project does not exist. Job not submitted.", "account"),
    ("something novel. Job not submitted.", ""),
])  # fmt: skip
def test_refusals(message: str, advice: str) -> None:
    found = LSF.submit_failure(message, 255)
    assert isinstance(found, Permanent) and advice in found.advice and found.text == message


@pytest.mark.parametrize(("message", "unclear"), [
    ("Failed in an LSF library call: Communication time out. Job not submitted.", True),
    ("LSF is down. Please wait ...", False), ("Batch daemon not responding ... still trying", False),
    ("User's pending job slot limit reached. Job not submitted.", False),
    ("Pending job threshold reached. Retrying in 60 seconds...", False),
])  # fmt: skip
def test_failures_that_pass(message: str, unclear: bool) -> None:
    found = LSF.submit_failure(message, 255)
    assert isinstance(found, Transient) and found.unclear == unclear


def test_every_rule_decides_something() -> None:
    for rule in RULES:
        re.compile(rule.pattern)
        assert (rule.delay is None) == bool(rule.advice)


@pytest.mark.parametrize(("text", "code", "expected"), [
    ("Job <17> is being terminated\n", 0, None), ("Job <17>: Job has already finished\n", 255, None),
    ("Job <17>: No matching job found\n", 255, None),
    ("Job <16> is being terminated\nJob <17>: Job has already finished\n", 255, None),
    ("Job <17>: User permission denied\n", 255, "Job <17>: User permission denied"), ("", 255, "exit code 255"),
])  # fmt: skip
def test_what_bkill_says(text: str, code: int, expected: str | None) -> None:
    assert LSF.cancel_failure(text, code) == expected


@settings(deadline=None)
@given(st.text(), st.integers(-64, 255))
def test_no_text_raises(text: str, code: int) -> None:
    assert len(LSF.submit_failure(text, code).text) <= 1000
    for said in (LSF.cancel_failure(text, code), LSF.query_failure(text, code)):
        assert said is None or said


def test_commands() -> None:
    assert {"bjobs", "-a", "-json", "LSB_DISPLAY_YEAR=Y"} <= set(LSF.queue_command())
    assert Lsf("alice").queue_command()[3:5] == ["-u", "alice"]
    assert LSF.queue_command(ended=False) == [word for word in LSF.queue_command() if word != "-a"]
    assert LSF.accounting_command(["1", "2"])[-3:] == ["-l", "1", "2"]
    with pytest.raises(ValueError, match="1 to 200 jobs"):
        LSF.accounting_command([])
    ids = [str(number) for number in range(LARGEST_BATCH + 1)]
    assert [len(command) for command in LSF.cancel_commands(ids)] == [LARGEST_BATCH + 1, 2]
    assert not LSF.accounting_disabled("anything")
