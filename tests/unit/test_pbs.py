"""PBS and Torque: what a real OpenPBS has answered, what manuals show, and answers that no server should give."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow_hpc.backends.psij import pbs_classic_states, pbs_states
from asyncflow_hpc.backends.psij.pbs import LARGEST_BATCH, Pbs
from asyncflow_hpc.backends.psij.pbs_classic import PbsClassic
from asyncflow_hpc.backends.psij.pbs_errors import RULES
from asyncflow_hpc.backends.psij.scheduler import UNKNOWN, JobStatus, Permanent, Report, Scheduler, Transient
from asyncflow_hpc.states import FailureCause, TaskState
from tests.unit.pbs_recordings import RECORDED, answer, as_text

PBS: Scheduler = Pbs()
TORQUE: Scheduler = PbsClassic()

SUBMITTED, RUNNING, DONE = (TaskState.SUBMITTED, None), (TaskState.RUNNING, None), (TaskState.DONE, None)
CANCELED = (TaskState.CANCELED, FailureCause.CANCELLED)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def failed(cause: FailureCause) -> tuple[TaskState, FailureCause]:
    return TaskState.FAILED, cause


def recorded(name: str) -> Report:
    return PBS.parse_queue(as_text(answer(name).stdout).encode(), answer(name).stderr.encode())


# What each recording says: of all its jobs alike, the state, the exit code and the signal, and what they mean.
SAID = {
    "after_qdel_x": ("R", None, None, RUNNING),
    "array": ("F/92", 0, None, DONE),
    "array_failed": ("F/93", 7, None, failed(FailureCause.EXIT_CODE)),
    "array_parent": ("F/92", 0, None, DONE),
    "before_cancel": ("R", None, None, RUNNING),
    "cancelled_queued": ("F/91", None, None, CANCELED),
    "cancelled_running": ("F/91", None, 15, CANCELED),
    "depend_failed": ("F/92", None, None, CANCELED),
    "failed": ("F/93", 7, None, failed(FailureCause.EXIT_CODE)),
    "finished": ("F/92", 0, None, DONE),
    "forced": ("F/91", None, None, CANCELED),
    "held": ("H", None, None, SUBMITTED),
    "just_cancelled": ("R", None, None, RUNNING),
    "mixed_known_unknown": ("F/92", 0, None, DONE),
    "never": ("Q", None, None, SUBMITTED),
    "queued": ("Q", None, None, SUBMITTED),
    "running": ("R", None, None, RUNNING),
    "segv": ("F/93", 139, None, failed(FailureCause.SIGNAL)),
    "sigkilled": ("F/93", None, 9, failed(FailureCause.SIGNAL)),
    "stopped": ("Q", None, None, SUBMITTED),
    "waiting": ("W", None, None, SUBMITTED),
    "walltime_killed": ("F/93", None, None, failed(FailureCause.WALLTIME)),
}
NO_JOBS = {"finished_nox", "purged", "unknown"}


def test_every_recorded_job_is_in_the_table() -> None:
    names = {path.stem.removeprefix("qstat_json_") for path in RECORDED.glob("qstat_json_*.txt")}
    assert names == set(SAID) | NO_JOBS


@pytest.mark.parametrize("name", sorted(SAID))
def test_what_became_of_a_real_job(name: str) -> None:
    state, code, signal, (task, cause) = SAID[name]
    report = recorded(f"qstat_json_{name}")
    assert len(report) and report.problems == () and report.complete
    # Of an array, only the subjobs have a code of their own.
    for job in [job for job in report if "[]" not in job.native_id] or list(report):
        assert (job.state, job.exit_code, job.signal) == (state, code, signal)
        found = PBS.meaning(job)
        assert (found.state, found.cause) == (task, cause)
        assert found.final == state.startswith("F")
        settled = PBS.settle(job, "accounting")
        assert (settled is not None) == (found.final and name != "array_parent")
        assert settled is None or (settled.verdict.state, settled.verdict.cause) == (task, cause)


@pytest.mark.parametrize("name", sorted(NO_JOBS))
def test_jobs_that_the_server_does_not_list(name: str) -> None:
    said = answer(f"qstat_json_{name}")
    assert PBS.parse_accounting(b"", said.stderr.encode()) == Report()
    assert PBS.query_failure(said.stderr, said.returncode) is None


def test_one_unknown_job_does_not_hide_the_others() -> None:
    said = answer("qstat_json_mixed_known_unknown")
    assert said.returncode == 153 and PBS.query_failure(said.stderr, said.returncode) is None
    assert [job.native_id for job in recorded("qstat_json_mixed_known_unknown")] == ["30.pbslab"]


def test_the_text_of_a_real_server_says_the_same_as_its_json() -> None:
    report = PBS.parse_queue(answer("qstat_f").stdout.encode())
    assert report == recorded("qstat_json_finished")
    assert list(report) == [
        JobStatus(
            native_id="30.pbslab", name="okjob", state="F/92", exit_code=0, restarts=0, nodes="pbslab/0",
            reason="Job run at Mon Nov 23 at 16:11 on (pbslab:ncpus=1) and finished",
            submitted=1795450296.0, started=1795450300.0, ended=1795450300.0,
        )
    ]  # fmt: skip


def test_reasons() -> None:
    def reason(name: str) -> str:
        return next(iter(recorded(f"qstat_json_{name}"))).reason

    assert reason("walltime_killed").startswith("JOB_EXEC_KILL_WALLTIME: Job run at")
    assert reason("held") == "Hold_Types = u"
    assert "less" in (PBS.unrunnable(reason("never")) or "")
    assert PBS.unrunnable(reason("queued")) is None and PBS.unrunnable(reason("stopped")) is None
    assert "queue" in (PBS.obstacle(reason("stopped")) or "") and "qrls" in (PBS.obstacle(reason("held")) or "")
    assert PBS.obstacle(reason("queued")) is None
    assert "system" in (PBS.obstacle("Hold_Types = s") or "")


@pytest.mark.parametrize("scheduler", [PBS, TORQUE], ids=["pbs", "pbs_classic"])
def test_a_hold_with_a_comment_is_an_obstacle(scheduler: Scheduler) -> None:
    text = (
        b"Job Id: 1.s\n    Job_Name = n\n    job_state = H\n    Hold_Types = u\n    comment = Job held by me on Mon\n\n"
    )
    reason = next(iter(scheduler.parse_queue(text))).reason
    assert reason == "Hold_Types = u: Job held by me on Mon" and "qrls" in (scheduler.obstacle(reason) or "")


def test_deleted_in_its_first_moment() -> None:
    found = PBS.settle(status("F/91"), "accounting")
    assert found is not None and (found.verdict.state, found.verdict.cause) == CANCELED


def status(state: str = "F/92", **more: Any) -> JobStatus:
    return JobStatus("1.s", state=state, **{"exit_code": 0, "nodes": "n1/0", "started": 1.0, **more})


def test_done_needs_a_code_of_zero_and_a_node() -> None:
    found = PBS.settle(status(), "accounting")
    assert found is not None and found.verdict.state is TaskState.DONE
    for change in ({"exit_code": None}, {"exit_code": 1}, {"nodes": None}, {"started": None}, {"state": "F/93"}):
        found = PBS.settle(status(**change), "accounting")
        assert found is None or found.verdict.state is not TaskState.DONE
    assert PBS.settle(status("F"), "accounting") is None and PBS.settle(status("F/94"), "accounting") is None


@pytest.mark.parametrize(("number", "found"), sorted(pbs_states.EXITS.items()))
def test_exit_statuses_below_zero(number: int, found: pbs_states.Exit) -> None:
    """PBS Professional Reference Guide, job exit status: each code by its name."""
    (job,) = PBS.parse_queue(
        f"Job Id: 1.s\n    job_state = F\n    substate = 93\n    Exit_status = {number}\n".encode()
    )
    assert job.reason == found.name and job.exit_code is None and job.signal is None
    assert PBS.meaning(job).cause is found.cause and PBS.meaning(job).final


def test_all_codes_and_states_of_the_manuals() -> None:
    assert sorted(pbs_states.STATES) == list("BEFHMQRSTUWX") and sorted(pbs_classic_states.STATES) == list("CEHQRSTW")
    assert sorted(pbs_states.EXITS) == [*range(-32, -9), *range(-7, 0)]
    assert sorted(pbs_classic_states.EXITS) == list(range(-14, 0))
    assert {91, 92, 93, 94} <= set(pbs_states.SUBSTATES)


@pytest.mark.parametrize("odd", ["-77", "256", "9999"])
def test_exit_statuses_of_no_table(odd: str) -> None:
    for scheduler, lines in ((PBS, "job_state = F\n    substate = 93"), (TORQUE, "job_state = C")):
        (job,) = scheduler.parse_queue(f"Job Id: 1.s\n    {lines}\n    Exit_status = {odd}\n".encode())
        assert scheduler.meaning(job).cause is FailureCause.BACKEND and odd in job.reason


def test_a_job_that_could_not_be_started_again_and_again() -> None:
    found = PBS.meaning(
        status("F/91", exit_code=None, reason="job held, too many failed attempts to run and terminated")
    )
    assert found.cause is FailureCause.BOOTSTRAP


@pytest.mark.parametrize("letter", sorted(pbs_states.STATES))
def test_letters_alone_are_never_final(letter: str) -> None:
    assert not PBS.meaning(JobStatus("1", state=letter)).final


# Torque Administrator Guide 3.0.5, 2.7 "Job exit status": the job of its example.
TORQUE_JOB = """\
Job Id: 179.host
    Job_Name = STDIN
    Job_Owner = user@host
    job_state = C
    exec_host = node1/0
    Hold_Types = n
    qtime = Fri Aug 29 14:55:55 2008
    Resource_List.walltime = 01:00:00
    resources_used.walltime = {used}
    Variable_List = PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,
\tPBS_O_PATH=/usr/local/sbin:/usr/local/bin
    etime = Fri Aug 29 14:55:55 2008
    start_time = Fri Aug 29 14:55:56 2008
    exit_status = {status}
    comp_time = Fri Aug 29 14:55:57 2008
"""


@pytest.mark.parametrize(("code", "used", "expected"), [
    ("0", "00:00:01", DONE),
    ("7", "00:00:01", failed(FailureCause.EXIT_CODE)),
    ("137", "00:00:01", failed(FailureCause.SIGNAL)),
    ("265", "00:00:01", failed(FailureCause.SIGNAL)),
    ("271", "00:00:01", CANCELED),
    ("271", "01:00:12", failed(FailureCause.WALLTIME)),
    ("143", "01:00:12", failed(FailureCause.WALLTIME)),
    ("265", "01:00:12", failed(FailureCause.WALLTIME)),
    ("-1", "00:00:00", failed(FailureCause.BOOTSTRAP)),
    ("-10", "00:00:01", failed(FailureCause.MEMORY)),
    ("-11", "00:00:01", failed(FailureCause.WALLTIME)),
])  # fmt: skip
def test_how_a_job_of_torque_ended(code: str, used: str, expected: Any) -> None:
    report = TORQUE.parse_queue(TORQUE_JOB.format(status=code, used=used).encode())
    (job,) = report
    assert report.problems == () and (job.native_id, job.name, job.nodes) == ("179.host", "STDIN", "node1/0")
    assert job.submitted and job.started == job.submitted + 1 and job.ended == job.submitted + 2
    found = TORQUE.meaning(job)
    assert (found.state, found.cause) == expected and found.final


def test_torque_has_no_records() -> None:
    assert TORQUE.accounting_command(["1"]) == []


def test_a_job_of_torque_that_was_deleted_before_it_ran() -> None:
    assert TORQUE.meaning(JobStatus("1", state="C")).state is TaskState.CANCELED
    assert TORQUE.meaning(JobStatus("1", state="C", started=1.0)) is UNKNOWN


GOOD = "Job Id: 7.s\n    Job_Name = wf.task.000001\n    job_state = R\n    substate = 42\n\n"


@pytest.mark.parametrize(("output", "ids", "complete", "problem"), [
    ("", [], True, ""),
    (GOOD, ["7.s"], True, ""),
    (GOOD + GOOD.replace("7.s", "8[].s"), ["7.s", "8[].s"], True, ""),
    ("Welcome to the site\n" + GOOD, ["7.s"], False, "it says 'Welcome to the site'"),
    (GOOD + "Job Id: 8.s\n    Job_Na", ["7.s", "8.s"], False, "a job without a state"),
    (GOOD.rstrip(), ["7.s"], False, "it broke off"),
    (GOOD.replace("7.s", "x"), [], False, "a job without an id: 'x'"),
    (GOOD.replace("= R", "= Z"), ["7.s"], True, "the state 'Z' is not known"),
    ("garbage", [], False, "it says 'garbage'"),
])  # fmt: skip
def test_odd_answers(output: str, ids: list[str], complete: bool, problem: str) -> None:
    report = PBS.parse_queue(output.encode())
    assert [job.native_id for job in report] == ids
    assert report.complete == complete
    assert bool(report.problems) == bool(problem)
    assert not problem or report.problems[0].startswith(problem)


def test_an_error_on_the_other_stream_makes_an_answer_incomplete() -> None:
    report = PBS.parse_queue(GOOD.encode(), b"qstat: cannot connect to server pbslab (errno=15010)\n")
    assert not report.complete and len(report) == 1 and "cannot connect" in report.problems[0]


def test_an_environment_that_looks_like_attributes() -> None:
    trap = "    Variable_List = A=1\n    job_state = F\n    substate = 92\n    Exit_status = 0,B=2\n"
    (job,) = PBS.parse_queue((GOOD.rstrip("\n") + "\n" + trap + "\n").encode())
    assert job.state == "R" and job.exit_code is None


@settings(deadline=None)
@given(st.binary())
def test_no_bytes_make_the_parsers_raise(data: bytes) -> None:
    for scheduler in (PBS, TORQUE):
        for job in scheduler.parse_queue(data, data):
            assert scheduler.settle(job, "queue") is None


VALUES = st.one_of(
    st.sampled_from(["R", "F", "C", "91", "92", "93", "0", "-29", "271", "Mon Nov 23 16:11:36 2026", "n1/0"]),
    st.text(max_size=8),
)
NAMES = st.sampled_from(
    ["job_state", "substate", "Exit_status", "exit_status", "stime", "exec_host", "comment", "qtime"]
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES), max_size=4))
def test_no_attributes_make_the_parsers_raise_or_the_queue_prove_anything(jobs: list[dict[str, str]]) -> None:
    text = "".join(
        f"Job Id: {number}.s\n" + "".join(f"    {name} = {value}\n" for name, value in job.items()) + "\n"
        for number, job in enumerate(jobs)
    )
    for scheduler in (PBS, TORQUE):
        for job in scheduler.parse_accounting(text.encode(errors="surrogatepass")):
            settled = scheduler.settle(job, "accounting")
            if settled is not None and settled.verdict.state is TaskState.DONE:
                assert job.exit_code == 0 and job.nodes and job.started is not None


REFUSED = {path.stem for path in RECORDED.glob("qsub_ref_*.txt")}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_a_real_server_has_refused(name: str) -> None:
    said = answer(name)
    found = PBS.submit_failure(said.stderr + said.stdout, said.returncode)
    passing = {"qsub_ref_max_queued", "qsub_ref_bad_server"}
    assert isinstance(found, Transient if name in passing else Permanent)
    assert found.text and "qsub:" not in found.text and "\n" not in found.text
    # The code alone says the same.
    silent = PBS.submit_failure("", said.returncode)
    assert isinstance(silent, (Permanent, Transient)) and str(said.returncode) in silent.text


@pytest.mark.parametrize(("name", "word"), [
    ("unknown_queue", "queue"), ("disabled_queue", "queue"), ("acl", "queue"), ("over_queue_max", "less"),
    ("over_queue_ncpus", "less"), ("unknown_resource", "pbs"), ("unknown_chunk_resource", "pbs"),
    ("bad_value", "walltime"), ("badopt", "pbs"), ("long_name", "pbs"), ("bad_select", "asks"),
])  # fmt: skip
def test_the_advice_names_what_to_change(name: str, word: str) -> None:
    said = answer(f"qsub_ref_{name}")
    found = PBS.submit_failure(said.stderr, said.returncode)
    assert isinstance(found, Permanent) and word in found.advice


@pytest.mark.parametrize(("message", "unclear"), [
    ("qsub: cannot connect to server pbslab (errno=15010)", False),
    ("Connection refused\nqsub: cannot connect to server pbslab (errno=111)", False),
    ("qsub: End of File", True),
    ("qsub: Premature end of message", True),
    ("qsub: Maximum number of jobs already in queue", False),
    ("qsub: would exceed complex's per-user limit of jobs in 'Q' state", False),
    ("qsub: Request rejected - server shutting down", False),
    ("No Permission.\nqsub: cannot connect to server x (errno=15007)", False),
])  # fmt: skip
def test_failures_that_pass(message: str, unclear: bool) -> None:
    found = PBS.submit_failure(message, 1)
    assert isinstance(found, Transient) and found.unclear == unclear


def test_silence_and_unknown_words() -> None:
    found = PBS.submit_failure("", -9)
    assert isinstance(found, Transient) and found.unclear
    assert PBS.submit_failure("a novel failure", 9) == Permanent("a novel failure", unclear=True)
    assert isinstance(PBS.submit_failure("", 186), Transient)


def test_every_rule_decides_something() -> None:
    for rule in RULES:
        re.compile(rule.pattern)
        assert (rule.delay is None) == bool(rule.advice)


@settings(deadline=None)
@given(st.text(), st.integers(-64, 255))
def test_no_text_raises(text: str, code: int) -> None:
    assert len(PBS.submit_failure(text, code).text) <= 1000
    for said in (PBS.cancel_failure(text, code), PBS.query_failure(text, code)):
        assert said is None or said


@pytest.mark.parametrize(("name", "expected"), [
    ("array_sub", None), ("finished", None), ("force", None), ("queued", None), ("running", None), ("unknown", None),
    ("x_finished", None), ("x_running", None), ("garbage", "illegally formed job identifier: notajob"),
])  # fmt: skip
def test_what_qdel_has_said(name: str, expected: str | None) -> None:
    said = answer(f"qdel_{name}")
    assert PBS.cancel_failure(said.stderr, said.returncode) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("30.pbslab\n", "30.pbslab"), ("41[].pbslab\n", "41[].pbslab"), ("123\n", "123"), ("", None),
    ("Your project is empty soon\n12.polaris-pbs-01.hsn.cm\n", "12.polaris-pbs-01.hsn.cm"), ("qsub: error 5\n", None),
])  # fmt: skip
def test_the_id_of_a_submitted_job(text: str, expected: str | None) -> None:
    assert PBS.parse_submitted(text) == expected


def test_the_ids_that_a_real_server_has_told() -> None:
    for path in RECORDED.glob("qsub_*.txt"):
        said = answer(path.stem)
        assert (PBS.parse_submitted(said.stdout) is None) == (said.returncode != 0)


def fake(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def asked(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    path = f"{tmp_path}:{Path(shutil.which('sh') or '/bin/sh').parent}:/usr/bin:/bin"
    return subprocess.run(
        Pbs("al ice").queue_command(), env={"PATH": path}, capture_output=True, text=True, check=False
    )


def test_the_queue_is_asked_for_thousands_of_jobs(tmp_path: Path) -> None:
    fake(tmp_path, "qselect", '[ "$*" = "-u al ice" ] && seq -f "%.0f.server" 1 3000')
    fake(tmp_path, "qstat", '[ "$1" = -f ] && shift && echo "$# $1 $*" | cut -c1-12')
    found = asked(tmp_path)
    assert found.returncode == 0 and len(found.stdout.splitlines()) == 3000 // LARGEST_BATCH
    assert found.stdout.startswith("200 1.server")


def test_no_jobs_are_not_all_jobs_of_the_server(tmp_path: Path) -> None:
    fake(tmp_path, "qselect", "true")
    fake(tmp_path, "qstat", "echo all jobs of the server")
    found = asked(tmp_path)
    assert (found.returncode, found.stdout) == (0, "")


def test_a_server_that_is_down_is_no_empty_queue(tmp_path: Path) -> None:
    fake(tmp_path, "qselect", "echo 'qselect: cannot connect to server x (errno=15010)' >&2; exit 2")
    fake(tmp_path, "qstat", "true")
    found = asked(tmp_path)
    assert PBS.query_failure(found.stderr, found.returncode) == "cannot connect to server x (errno=15010)"


def test_a_job_that_ends_between_the_two_steps_is_no_failure(tmp_path: Path) -> None:
    fake(tmp_path, "qselect", "echo 1.s; echo 2.s")
    fake(tmp_path, "qstat", f"printf '{GOOD!r}' | tr -d \"'\"; echo 'qstat: Unknown Job Id 2.s' >&2; exit 153")
    found = asked(tmp_path)
    assert found.returncode != 0 and PBS.query_failure(found.stderr, found.returncode) is None


def test_commands() -> None:
    assert PBS.accounting_command(["1", "2"]) == ["qstat", "-x", "-f", "1", "2"]
    for ids in ([], ["1"] * (LARGEST_BATCH + 1)):
        with pytest.raises(ValueError, match="1 to 200 jobs"):
            PBS.accounting_command(ids)
    ids = [str(number) for number in range(LARGEST_BATCH + 1)]
    assert [len(command) for command in PBS.cancel_commands(ids)] == [LARGEST_BATCH + 1, 2]
    assert PBS.accounting_disabled("qstat: PBS is not configured to maintain job history\n")
    assert not PBS.accounting_disabled("qstat: Unknown Job Id 1.s\n")
