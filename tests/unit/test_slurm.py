"""Slurm's commands, what a real one has answered to them, and answers that no Slurm should give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.backends.psij.scheduler import JobStatus, Report, Scheduler, Source
from asyncflow_hpc.backends.psij.slurm import LARGEST_BATCH, Slurm
from asyncflow_hpc.states import FailureCause, TaskState

RECORDED = Path(__file__).parent / "recorded" / "slurm"
FIELD, ROW = b"\x1f", b"\x1e\n"
WITH_DIRECTORIES = ("queue-directories", "accounting-directories")

slurm: Scheduler = Slurm("0")


def recorded(name: str) -> Report:
    data = (RECORDED / f"{name}.stdout").read_bytes()
    if name.startswith("queue"):
        return slurm.parse_queue(data if name in WITH_DIRECTORIES else without_directories(data, ROW, 9))
    return slurm.parse_accounting(data if name in WITH_DIRECTORIES else without_directories(data, FIELD + b"\n", 8))


def without_directories(data: bytes, end: bytes, before: int) -> bytes:
    """Put an empty directory into each row of an answer that is older than that field."""
    rows = [row.split(FIELD, before) for row in data.split(end)[:-1]]
    return b"".join(FIELD.join([*fields[:before], b"", *fields[before:]]) + end for fields in rows)


def answers(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return found


def named(report: Report, what: str) -> JobStatus:
    (status,) = (job for job in report if job.name.startswith(f"wf.{what}."))
    return status


QUEUE, EARLY, RECORDS = recorded("queue"), recorded("queue-early"), recorded("accounting-jobs")


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.stdout")))
def test_every_row_of_a_real_answer_is_understood(name: str) -> None:
    report = recorded(name)
    assert report.complete and report.problems == () and len(report) > 3
    for job in report:
        assert job.native_id and job.name and job.state and job.submitted
        assert (job.ended is not None) == slurm.meaning(job).final


def test_every_field_of_a_job_in_the_queue() -> None:
    assert named(QUEUE, "exit7") == JobStatus(
        native_id="12", name="wf.exit7.000002", state="FAILED", reason="NonZeroExitCode", exit_code=7, signal=None,
        restarts=0, nodes="n1", submitted=1795473639.0, started=1795473639.0, ended=1795473639.0,
    )  # fmt: skip
    assert named(QUEUE, "running") == JobStatus(
        native_id="31", name="wf.running.000021", state="RUNNING", restarts=0, nodes="n1",
        submitted=1795473639.0, started=1795473639.0,
    )  # fmt: skip
    assert named(QUEUE, "begin") == JobStatus(
        native_id="33", name="wf.begin.000023", state="PENDING", reason="BeginTime", restarts=0, submitted=1795473639.0
    )


def test_every_field_of_a_job_in_the_accounting_records() -> None:
    assert named(RECORDS, "exit7") == JobStatus(
        native_id="12", name="wf.exit7.000002", state="FAILED", exit_code=7, nodes="n1",
        submitted=1795473639.0, started=1795473639.0, ended=1795473639.0,
    )  # fmt: skip
    assert named(RECORDS, "cancelheld") == JobStatus(
        native_id="22", name="wf.cancelheld.000012", state="CANCELLED", reason="JobHeldUser",
        submitted=1795473639.0, ended=1795473643.0,
    )  # fmt: skip


# What became of each job: state, reason, exit code and signal in the queue; state, exit code and signal in the records.
@pytest.mark.parametrize(("what", "queue", "records"), [
    ("ok", ("COMPLETED", "", 0, None), ("COMPLETED", 0, None)),
    ("exit7", ("FAILED", "NonZeroExitCode", 7, None), ("FAILED", 7, None)),
    # The accounting records take 128 from a code.
    ("exit137", ("FAILED", "NonZeroExitCode", 137, None), ("FAILED", 9, None)),
    ("kill9", ("FAILED", "JobLaunchFailure", None, 9), ("FAILED", None, 9)),
    ("term", ("FAILED", "JobLaunchFailure", None, 15), ("FAILED", None, 15)),
    ("segv", ("FAILED", "JobLaunchFailure", None, 11), ("FAILED", None, 11)),
    ("memory", ("FAILED", "JobLaunchFailure", None, 9), ("FAILED", None, 9)),
    ("badoutput", ("FAILED", "JobLaunchFailure", None, 53), ("FAILED", None, 53)),
    ("nointerpreter", ("FAILED", "NonZeroExitCode", 2, None), ("FAILED", 2, None)),
    ("timeout", ("TIMEOUT", "TimeLimit", None, 15), ("TIMEOUT", None, 15)),
    ("nodefail", ("NODE_FAIL", "NodeDown", None, None), ("NODE_FAIL", None, None)),
    ("preempted", ("PREEMPTED", "", None, 15), ("PREEMPTED", None, 15)),
    ("cancelrun", ("CANCELLED", "", None, 15), ("CANCELLED", None, 15)),
    ("completing", ("CANCELLED", "", None, 9), ("CANCELLED", None, 9)),
    ("cancelheld", ("CANCELLED", "JobHeldUser", None, None), ("CANCELLED", None, None)),
    ("deadline", ("DEADLINE", "DeadLine", None, None), ("DEADLINE", None, None)),
    ("suspended", ("SUSPENDED", "", None, None), ("SUSPENDED", None, None)),
    ("parttime", ("PENDING", "PartitionTimeLimit", None, None), ("PENDING", None, None)),
])  # fmt: skip
def test_how_a_real_job_ended(what: str, queue: tuple[Any, ...], records: tuple[Any, ...]) -> None:
    job = named(QUEUE, what)
    assert (job.state, job.reason, job.exit_code, job.signal) == queue
    job = named(RECORDS, what)
    assert (job.state, job.exit_code, job.signal) == records


@pytest.mark.parametrize(("what", "state", "cause"), [
    ("ok", TaskState.DONE, None),
    ("exit7", TaskState.FAILED, FailureCause.EXIT_CODE),
    ("exit137", TaskState.FAILED, FailureCause.SIGNAL),
    ("kill9", TaskState.FAILED, FailureCause.SIGNAL),
    ("badoutput", TaskState.FAILED, FailureCause.BOOTSTRAP),
    ("timeout", TaskState.FAILED, FailureCause.WALLTIME),
    ("deadline", TaskState.FAILED, FailureCause.WALLTIME),
    ("nodefail", TaskState.FAILED, FailureCause.NODE_FAILURE),
    ("preempted", TaskState.FAILED, FailureCause.PREEMPTED),
    ("cancelrun", TaskState.CANCELED, FailureCause.CANCELLED),
    ("cancelheld", TaskState.CANCELED, FailureCause.CANCELLED),
])  # fmt: skip
def test_a_real_job_that_has_ended_settles_its_task(what: str, state: TaskState, cause: FailureCause | None) -> None:
    found = slurm.settle(named(QUEUE, what), "queue")
    assert found is not None and found.by == "queue"
    assert (found.verdict.state, found.verdict.cause) == (state, cause)


@pytest.mark.parametrize("what", [
    "running", "suspended", "begin", "held", "heldadmin", "special", "requeued", "nodefailrequeue", "preemptrequeued",
    "parttime", "never", "reqnode", "waiting", "reservation", "badconstraints",
])  # fmt: skip
def test_a_real_job_that_waits_or_runs_settles_nothing(what: str) -> None:
    assert slurm.settle(named(QUEUE, what), "queue") is None


def test_jobs_that_are_completing_run_until_they_have_ended() -> None:
    for what in ("cancelrun", "completing", "requeuehold"):
        job = named(EARLY, what)
        assert job.state == "COMPLETING" and job.ended is None and job.exit_code is None and job.signal is None
        assert slurm.meaning(job).state is TaskState.RUNNING


def test_put_back_into_the_queue() -> None:
    for what in ("nodefailrequeue", "preemptrequeued", "requeuehold", "special"):
        job = named(QUEUE, what)
        assert job.restarts == 1 and job.started is None and job.nodes is None
        assert slurm.meaning(job).state is TaskState.SUBMITTED


def test_asked_for_a_time_the_records_tell_the_end_of_an_earlier_run() -> None:
    window = recorded("accounting")
    for what, stale in (("nodefailrequeue", "NODE_FAIL"), ("preemptrequeued", "PREEMPTED"), ("requeued", "REQUEUED")):
        assert named(window, what).state == stale
        assert not slurm.meaning(named(RECORDS, what)).final


def test_a_submission_that_was_refused_leaves_a_failed_job() -> None:
    refused = next(job for job in QUEUE if job.name == "wf.cpus")
    found = slurm.settle(refused, "queue")
    assert found is not None and found.verdict.cause is FailureCause.SUBMIT
    assert found.verdict.exit_code is None and found.verdict.signal is None


def test_hostile_names_come_through() -> None:
    names = {job.name for job in QUEUE}
    assert "ses sion|a,b;c%j:é\ttab.task.000001" in {name.removeprefix("wf.") for name in names}
    assert any("new\nline.task.000002" in name for name in names)
    assert any("not\\xffutf8.task.000003" in name for name in names)
    assert any(name.endswith("x" * 300 + ".task.000004") for name in names)


@pytest.mark.parametrize("name", WITH_DIRECTORIES)
def test_the_directory_of_a_job_comes_through_as_it_was_given(name: str) -> None:
    assert [job.directory for job in recorded(name)] == [
        "/tmp/slurmrec/a place with spaces, 'quotes' and ü", "/tmp/slurmrec/plain", "/tmp/slurmrec/../slurmrec/plain",
        "/tmp/slurmrec/new\nline", "/tmp/slurmrec/not there",
    ]  # fmt: skip


def test_the_limits_of_an_association() -> None:
    reasons = {job.reason for name in ("queue-limits-1", "queue-limits-2") for job in recorded(name)}
    assert {"AssocMaxJobsLimit", "AssocGrpCpuLimit"} <= reasons


def status(**changes: Any) -> JobStatus:
    fields: dict[str, Any] = {"native_id": "1", "state": "COMPLETED", "exit_code": 0, "nodes": "n1", "started": 1.0}
    return JobStatus(**(fields | changes))


@pytest.mark.parametrize("by", ["queue", "accounting"])
def test_done_needs_a_code_of_zero_and_a_node(by: Source) -> None:
    found = slurm.settle(status(), by)
    assert found is not None and found.by == by
    assert (found.verdict.state, found.verdict.exit_code) == (TaskState.DONE, 0)
    for change in ({"exit_code": None}, {"exit_code": 1}, {"nodes": None}, {"started": None}, {"state": "COMPLETED+"}):
        found = slurm.settle(status(**change), by)
        assert found is None or change == {"state": "COMPLETED+"}


def test_what_is_said_of_an_end() -> None:
    def said(by: Source = "queue", **changes: Any) -> str:
        found = slurm.settle(status(**changes), by)
        assert found is not None and found.verdict.text is not None
        return found.verdict.text

    assert (
        said(state="NODE_FAIL", reason="NodeDown", exit_code=None) == "Slurm says NODE_FAIL (NodeDown) of job 1 on n1"
    )
    assert "before it ran" in said(state="CANCELLED by 0", nodes=None)
    assert "memory" in said(state="FAILED", signal=9, exit_code=None)
    assert "memory" in said(state="FAILED", exit_code=137)
    assert "could not be started" in said(state="FAILED", signal=53, exit_code=None)
    assert "from 137" in said("accounting", state="FAILED", exit_code=9)
    assert "from" not in said("queue", state="FAILED", exit_code=9)


def row(*fields: bytes) -> bytes:
    return FIELD.join(fields) + ROW


GOOD = row(b"7", b"RUNNING", b"None", b"0", b"0", b"1", b"2", b"3", b"n1", b"/s/w", b"wf.task.000001")


@pytest.mark.parametrize(("output", "ids", "complete", "problem"), [
    (b"", [], True, ""),
    (GOOD, ["7"], True, ""),
    (b"CLUSTER: lab\n" + GOOD + b"CLUSTER: other\n", ["7"], True, ""),
    (b"Welcome to the site\n\n" + GOOD, ["7"], True, "it says 'Welcome to the site'"),
    (GOOD + b"slurm_load_jobs error: Unable to contact slurm controller\n", ["7"], False, "it says 'slurm_load_jobs"),
    (GOOD + b"8\x1fRUNN", ["7"], False, "it broke off"),
    (b"\n\n\n", [], False, "it broke off"),
    (b"\n", [], False, "it broke off"),
    (row(b"8", b"RUNNING") + GOOD, ["8", "7"], True, "a row of 2 fields, not 11"),
    (row(b"8"), ["8"], True, "a row of 1 fields, not 11"),
    (row(b"abc", b"RUNNING") + GOOD, ["7"], True, "a row without a job id: 'abc'"),
    (GOOD.replace(b"RUNNING", b"NOVEL"), ["7"], True, "the state 'NOVEL' is not known"),
    (GOOD.replace(b"RUNNING", b""), ["7"], True, "the state '' is not known"),
])  # fmt: skip
def test_odd_answers_of_the_queue(output: bytes, ids: list[str], complete: bool, problem: str) -> None:
    report = slurm.parse_queue(output)
    assert [job.native_id for job in report] == ids
    assert report.complete == complete
    assert len(report.problems) == bool(problem)
    assert not problem or report.problems[0].startswith(problem)


def test_a_problem_of_many_rows_is_told_once() -> None:
    assert len(slurm.parse_queue(GOOD.replace(b"RUNNING", b"NOVEL") * 50).problems) == 1


def test_an_error_on_the_other_stream_makes_an_answer_incomplete() -> None:
    """squeue ends with 0 although it does not find the user, or knows none of the fields."""
    for name, answer in answers("errors").items():
        if name == "queue-json-down":
            continue
        parse = slurm.parse_queue if name.startswith("queue") else slurm.parse_accounting
        report = parse(answer["stdout"].encode(), answer["stderr"].encode())
        assert not report.complete and report.problems, name


def test_a_field_that_squeue_does_not_know_is_empty() -> None:
    without = GOOD.replace(b"\x1f0\x1f0\x1f", b"\x1f\x1f\x1f")
    (job,) = slurm.parse_queue(without)
    assert job.restarts is None and job.state == "RUNNING"


def test_only_a_site_without_records_has_none() -> None:
    for name, answer in answers("errors").items():
        assert slurm.accounting_disabled(answer["stderr"]) == (name == "accounting-disabled")


@pytest.mark.parametrize(("code", "expected"), [
    (b"0", (None, None)), (b"1792", (7, None)), (b"65280", (255, None)), (b"9", (None, 9)), (b"139", (None, 11)),
    (b"4021", (None, 53)), (b"127", (None, None)), (b"128", (None, None)), (b"4294967294", (None, None)),
    (b"7:0", (7, None)), (b"0:9", (None, 9)), (b"0:125", (None, None)), (b"999:0", (None, None)), (b"", (None, None)),
    (b"-1", (None, None)), (b"N/A", (None, None)), (b"\xd9\xa3", (None, None)),
])  # fmt: skip
def test_the_codes_of_old_and_new_releases(code: bytes, expected: tuple[int | None, int | None]) -> None:
    (job,) = slurm.parse_queue(row(b"7", b"FAILED", b"None", code, b"0", b"1", b"2", b"3", b"n1", b"/s/w", b"wf"))
    assert (job.exit_code, job.signal) == expected


@pytest.mark.parametrize("number", ["7", "7_3", "7_[1-3%1]", "7+0"])
def test_ids_of_arrays_and_heterogeneous_jobs(number: str) -> None:
    (job,) = slurm.parse_queue(GOOD.replace(b"7\x1f", number.encode() + b"\x1f", 1))
    assert job.native_id == number


@given(st.binary())
def test_no_bytes_make_the_parsers_raise(data: bytes) -> None:
    for parse in (slurm.parse_queue, slurm.parse_accounting):
        for job in parse(data, data):
            slurm.settle(job, "queue")


@given(st.lists(st.lists(st.binary(max_size=12), max_size=12), max_size=5), st.sampled_from([ROW, b"\x1f\n"]))
def test_no_rows_make_the_parsers_raise(rows: list[list[bytes]], end: bytes) -> None:
    data = b"".join(FIELD.join([b"%d" % number, *fields]) + end for number, fields in enumerate(rows))
    for parse in (slurm.parse_queue, slurm.parse_accounting):
        for job in parse(data):
            slurm.settle(job, "accounting")


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x1e"))


@given(st.lists(NAMES))
def test_names_of_the_queue_come_through(names: list[str]) -> None:
    fields = [b"RUNNING", b"ReqNodeNotAvail, May be reserved for other job", b"0", b"0", b"1", b"2", b"3", b"n1", b"/s"]
    output = b"".join(row(b"%d" % number, *fields, name.encode()) for number, name in enumerate(names))
    report = slurm.parse_queue(output)
    assert report.complete and not report.problems
    assert [(job.native_id, job.name) for job in report] == [(str(number), name) for number, name in enumerate(names)]


@given(st.lists(NAMES.filter(lambda name: "\x1f" not in name and not name.startswith("\n"))))
def test_names_of_the_records_come_through(names: list[str]) -> None:
    fields = [b"COMPLETED", b"None", b"0:0", b"1", b"2", b"3", b"n1", b"/s"]
    rows = [FIELD.join([b"%d" % number, *fields, name.encode(), b"\n"]) for number, name in enumerate(names)]
    report = slurm.parse_accounting(b"".join(rows))
    assert report.complete and not report.problems
    assert [(job.native_id, job.name) for job in report] == [(str(number), name) for number, name in enumerate(names)]


def test_the_queue_is_asked_for_all_jobs_whatever_the_user_has_set() -> None:
    command = Slurm().queue_command()
    assert command[:2] == ["env", "SLURM_TIME_FORMAT=%s"]
    assert {"squeue", "--me", "--all", "--states=all", "--noheader", "--array"} <= set(command)
    assert "--user=0" in slurm.queue_command()
    assert slurm.queue_command(ended=False) == [word for word in slurm.queue_command() if word != "--states=all"]
    assert all(isinstance(word, str) and "\0" not in word for word in command)


def test_the_records_are_asked_by_id_and_for_no_period() -> None:
    command = slurm.accounting_command(["1", "2"])
    assert command[-1] == "--jobs=1,2"
    assert not any(word.startswith(("--starttime", "--endtime", "-S", "-E")) for word in command)
    for ids in ([], ["1"] * (LARGEST_BATCH + 1)):
        with pytest.raises(ValueError, match="1 to 500 jobs"):
            slurm.accounting_command(ids)


def test_jobs_are_cancelled_in_batches() -> None:
    ids = [str(number) for number in range(2 * LARGEST_BATCH + 1)]
    commands = slurm.cancel_commands(ids)
    assert [len(command) - 2 for command in commands] == [LARGEST_BATCH, LARGEST_BATCH, 1]
    assert [number for command in commands for number in command[2:]] == ids
    assert slurm.cancel_commands([]) == []


@pytest.mark.parametrize(("text", "expected"), [
    ("123\n", "123"), ("123;cluster\n", "123"), ("Submitted batch job 123\n", "123"),
    ("Submitted batch job 123 on cluster x\n", "123"), ("Your quota is 80 % full\n\n123\n", "123"),
    ("42 users online\n123;lab\nHave a nice day\n", "123"), ("", None), ("sbatch: error: 123 nodes\n", None),
    ("job 123", None), ("12.5\n", None),
])  # fmt: skip
def test_the_id_of_a_submitted_job(text: str, expected: str | None) -> None:
    assert slurm.parse_submitted(text) == expected


def test_the_ids_that_a_real_slurm_has_told() -> None:
    told = {name: slurm.parse_submitted(answer["stdout"]) for name, answer in answers("submit").items()}
    assert {name: number for name, number in told.items() if number} == {
        "plain": "56", "parsable": "57", "plaincluster": "58", "parsablecluster": "59",
    }  # fmt: skip
