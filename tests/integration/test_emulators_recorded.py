"""The emulated PBS against what a real OpenPBS 23.06.06 has answered, field by field; LSF against IBM's formats."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc.testing import Emulation
from asyncflow_hpc.testing.emulators import pbs_show
from tests.unit.pbs_recordings import answer

# As on the recorded machine: one node of 80 cores.
MACHINE: dict[str, Any] = {"nodes": 1, "cores": 80, "kill_delay": 0.3, "walltime_delay": 0.2}

SCRIPTS = {
    "ok.sh": "#PBS -N okjob\n#PBS -l select=1:ncpus=1\n#PBS -l walltime=00:05:00\necho hello\n",
    "fail.sh": "exit 7\n",
    "segv.sh": "sh -c 'kill -SEGV $$'; exit 139\n",
    "long.sh": "sleep 300\n",
}


class Lab:
    """An emulated system, and a directory with the scripts of the recorded one."""

    def __init__(self, emulation: Emulation, place: Path) -> None:
        self._emulation = emulation
        self._place = place
        for name, text in SCRIPTS.items():
            (place / name).write_text(text)

    def run(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{self._emulation.bin}:{os.environ['PATH']}"
        return subprocess.run(
            line, shell=True, cwd=self._place, env={**os.environ, "PATH": path, **environment}, capture_output=True,
            text=True, check=False, errors="replace",
        )  # fmt: skip

    def submit(self, arguments: str) -> str:
        done = self.run(f"qsub {arguments}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, Any]:
        jobs = json.loads(self.run(f"qstat -f -F json -x '{number}'").stdout)["Jobs"]
        return dict(jobs[number])

    def when(self, number: str, right: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until something can be said of a job."""
        while not right(found := self.job(number)):
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Emulation("pbs", **MACHINE) as emulation:
        yield Lab(emulation, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def lsf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Emulation("lsf", **MACHINE) as emulation:
        yield Lab(emulation, tmp_path_factory.mktemp("lsf"))


def recorded_job(name: str) -> dict[str, Any]:
    return dict(next(iter(json.loads(answer(f"qstat_json_{name}").stdout)["Jobs"].values())))


def form(value: Any) -> Any:
    """What stays of a value when numbers, dates, hosts and paths are taken away."""
    if isinstance(value, dict):
        return {key: form(word) for key, word in value.items()}
    if not isinstance(value, str):
        return type(value).__name__
    text = re.sub(
        r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} +\d+( at \d\d:\d\d| \d\d:\d\d:\d\d \d{4})", "DATE", value
    )
    if re.fullmatch(r"(/[^/:]+)+", text):
        return "PATH"
    text = re.sub(r"\b(pbslab|emulated|n1)\b", "HOST", text)
    text = re.sub(r"/[^ :,]*(?=/[^/ ]*\.[oe]\d)", "DIR", text)
    text = re.sub(r"\b(alice|root|[a-z_][a-z0-9_-]*)@HOST", "USER@HOST", text)
    return re.sub(r"\d+", "N", text)


# How each recorded job is made: arguments of qsub, what is done once something is told of it, its state, what is told.
STATES: dict[str, tuple[str, tuple[str, str] | None, str, str]] = {
    "running": ("-l walltime=00:05:00 long.sh", None, "R", "session_id"),
    "before_cancel": ("-l select=1:ncpus=1 long.sh", None, "R", "stime"),
    "queued": ("-l select=1:ncpus=64 long.sh", None, "Q", "comment"),
    "never": ("-l select=1:ncpus=1000 long.sh", None, "Q", "comment"),
    "held": ("-h long.sh", None, "H", "Job_Name"),
    "waiting": ("-a 2359 long.sh", None, "W", "Job_Name"),
    "stopped": ("-q stopped ok.sh", None, "Q", "comment"),
    "finished": ("ok.sh", None, "F", "Exit_status"),
    "segv": ("segv.sh", None, "F", "Exit_status"),
    "walltime_killed": ("-l walltime=00:00:01 long.sh", None, "F", "Exit_status"),
    "cancelled_running": ("-l select=1:ncpus=1 long.sh", ("session_id", "qdel"), "F", "Exit_status"),
    "cancelled_queued": ("-q stopped long.sh", ("comment", "qdel"), "F", "comment"),
    "sigkilled": ("-N a-b_c.d long.sh", ("session_id", "qsig -s KILL"), "F", "Exit_status"),
}


@pytest.mark.parametrize("name", sorted(STATES))
def test_what_is_told_of_a_job(lab: Lab, name: str) -> None:
    arguments, act, letter, needed = STATES[name]
    filling = lab.submit("-l select=1:ncpus=20 long.sh") if name == "queued" else ""
    number = lab.submit(arguments)
    try:
        if act is not None:
            lab.when(number, lambda job: act[0] in job)
            lab.run(f"{act[1]} {number}")
        found = lab.when(number, lambda job: job["job_state"] == letter and needed in job)
        expected = recorded_job(name)
        assert list(found) == list(expected)
        environment, theirs = found.pop("Variable_List"), expected.pop("Variable_List")
        assert list(environment) == list(theirs)
        assert form(found) == form(expected)
        for key in (
            "substate",
            "Exit_status",
            "Hold_Types",
            "job_state",
            "Rerunable",
            "Priority",
            "project",
            "Job_Name",
        ):
            assert found.get(key) == expected.get(key), key
    finally:
        lab.run(f"qdel {number} {filling}")


def test_what_is_told_of_jobs_that_depend_on_each_other(lab: Lab) -> None:
    first = lab.submit("-h fail.sh")
    second = lab.submit(f"-W depend=afterok:{first} ok.sh")
    assert lab.job(second)["job_state"] == "H" and lab.job(second)["substate"] == 22
    lab.run(f"qrls {first}")
    for number, name in ((second, "depend_failed"), (first, "failed")):
        found, expected = lab.when(number, lambda job: job["job_state"] == "F"), recorded_job(name)
        assert list(found) == list(expected) and found["substate"] == expected["substate"]
        assert found.get("Exit_status") == expected.get("Exit_status")
        assert form(found["depend"]) == form(expected["depend"])


@pytest.mark.parametrize(("name", "arguments"), [("array", "-J 1-4 ok.sh"), ("array_failed", "-J 1-3 fail.sh")])
def test_what_is_told_of_an_array(lab: Lab, name: str, arguments: str) -> None:
    number = lab.submit(arguments)
    lab.when(number, lambda job: job["job_state"] == "F")
    found = json.loads(lab.run(f"qstat -f -F json -x -t '{number}'").stdout)["Jobs"]
    expected = json.loads(answer(f"qstat_json_{name}").stdout)["Jobs"]
    assert [re.sub(r"^\d+", "N", key) for key in found] == [
        re.sub(r"^\d+", "N", key).replace("pbslab", "emulated") for key in expected
    ]
    for mine, theirs in zip(found.values(), expected.values(), strict=True):
        assert list(mine) == list(theirs)
        assert {key: mine.get(key) for key in ("substate", "Exit_status", "array_index")} == {
            key: theirs.get(key) for key in ("substate", "Exit_status", "array_index")
        }
        assert form(mine["comment"]) == form(theirs["comment"])


@pytest.mark.parametrize("name", ["qstat_json_unknown", "qstat_json_finished_nox"])
def test_jobs_that_are_not_listed(lab: Lab, name: str) -> None:
    number = "99999.emulated"
    if name == "qstat_json_finished_nox":
        number = lab.submit("ok.sh")
        lab.when(number, lambda job: job["job_state"] == "F")
    history = "" if "nox" in name else "-x"
    done, said = lab.run(f"qstat -f -F json {history} {number}"), answer(name)
    assert (done.returncode, form(done.stderr)) == (said.returncode, form(said.stderr))
    assert list(json.loads(done.stdout)) == list(json.loads(said.stdout))


REFUSALS = {
    "acl": "-q acl ok.sh",
    "bad_name_slash": "-N /bin/date ok.sh",
    "bad_name_space": "-N 'a b' ok.sh",
    "bad_select": "-l select=0 fail.sh",
    "bad_server": "-q workq@nosuchhost ok.sh",
    "bad_value": "-l walltime=abc ok.sh",
    "badopt": "-Y ok.sh",
    "both_nodes_select": "-l select=1 -l nodes=1 ok.sh",
    "disabled_queue": "-q off ok.sh",
    "long_name": f"-N {300 * 'a'} ok.sh",
    "max_queued": "-q lim long.sh",
    "nofile": "nosuchfile.sh",
    "over_queue_max": "-q short -l walltime=01:00:00 ok.sh",
    "over_queue_ncpus": "-q short -l select=1:ncpus=9 ok.sh",
    "unknown_chunk_resource": "-l select=1:foo=1 ok.sh",
    "unknown_queue": "-q nosuch ok.sh",
    "unknown_resource": "-l foo=1 ok.sh",
}


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_refusals_of_qsub(lab: Lab, name: str) -> None:
    first = lab.submit("-q lim long.sh") if name == "max_queued" else ""
    done, said = lab.run(f"qsub {REFUSALS[name]}"), answer(f"qsub_ref_{name}")
    lab.run(f"qdel {first}")
    expected = said.stderr.replace("pbslab", "emulated")
    assert (done.returncode, done.stdout, done.stderr) == (said.returncode, said.stdout, expected)


# What was seen on an OpenPBS of 2026, beside the recordings.
SEEN = [
    ("qsub -l select=1:ngpus=1 ok.sh", 187, "qsub: Unknown resource: ngpus\n"),
    ("qsub -l ngpus=1 ok.sh", 187, "qsub: Unknown resource Resource_List.ngpus\n"),
    ("qsub -l select=x ok.sh", 166, "qsub: Illegal attribute or resource value\n"),
    ("qsub -l place=foo ok.sh", 166, "qsub: Illegal attribute or resource value\n"),
    ("qsub .", 1, "qsub: script not a file\n"),
    ("printf 'true\\r\\n' >dos.sh; qsub dos.sh", 1, "qsub: script contains cr, lf\n"),
    ("qstat -f garbage", 170, "qstat: Unknown queue destination garbage\n"),
]


@pytest.mark.parametrize(("line", "code", "said"), SEEN)
def test_refusals_that_are_not_recorded(lab: Lab, line: str, code: int, said: str) -> None:
    done = lab.run(line)
    assert (done.returncode, done.stderr) == (code, said)


def test_priority_that_is_none(lab: Lab) -> None:
    done = lab.run("qsub -p 5000 ok.sh")
    assert done.returncode == 2 and done.stderr.startswith("qsub: illegal -p value\nusage: ")


@pytest.mark.parametrize("name", [".hidden", "_private"])
def test_names_may_begin_with(lab: Lab, name: str) -> None:
    number = lab.submit(f"-h -N {name} ok.sh")
    assert lab.job(number)["Job_Name"] == name
    lab.run(f"qdel {number}")


def test_jobs_that_have_ended_are_not_held_or_released(lab: Lab) -> None:
    number = lab.submit("ok.sh")
    lab.when(number, lambda job: job["job_state"] == "F")
    for program in ("qhold", "qrls"):
        done = lab.run(f"{program} {number}")
        assert (done.returncode, done.stderr) == (35, f"{program}: Job has finished \n")


def test_comment_of_a_job_that_is_held_by_hand(lab: Lab) -> None:
    number = lab.submit("-q stopped ok.sh")
    lab.run(f"qhold {number}")
    held = lab.job(number)
    assert held["job_state"] == "H" and str(held["comment"]).startswith("Job held by ")
    lab.run(f"qrls {number}")
    assert "held" not in lab.job(number).get("comment", "")
    lab.run(f"qdel {number}")


def test_users_may_not_rerun_jobs(lab: Lab) -> None:
    number = lab.submit("long.sh")
    lab.when(number, lambda job: job["job_state"] == "R")
    done = lab.run(f"qrerun {number}")
    assert (done.returncode, done.stderr) == (159, f"qrerun: Unauthorized Request  {number}\n")
    lab.run(f"qdel {number}")


def test_deleted_with_its_history_while_it_runs(lab: Lab) -> None:
    number = lab.submit("long.sh")
    lab.when(number, lambda job: job["job_state"] == "R")
    assert lab.run(f"qdel -x {number}").returncode == 0
    assert lab.run(f"qstat -x {number}").returncode == 153


def test_shell_and_variables_are_told(lab: Lab) -> None:
    environment = {"COMMA": "a,b", "QUOTE": "it's"}
    done = lab.run("qsub -h -V -S /bin/sh ok.sh", **environment)
    number = done.stdout.strip()
    told = lab.run(f"qstat -f {number}").stdout.replace("\n\t", "")
    assert "    Shell_Path_List = /bin/sh\n" in told
    assert r"COMMA=a\,b," in told and r"QUOTE=it\'s," in told
    lab.run(f"qdel {number}")


@pytest.mark.parametrize("name", ["finished", "unknown", "garbage", "running", "queued", "force", "x_finished"])
def test_what_qdel_says(lab: Lab, name: str) -> None:
    number = {"unknown": "99999.emulated", "garbage": "notajob"}.get(name)
    if number is None:
        arguments = {"finished": "ok.sh", "x_finished": "ok.sh", "queued": "-q stopped long.sh"}.get(name, "long.sh")
        number = lab.submit(arguments)
        letter = {"finished": "F", "x_finished": "F", "queued": "Q"}.get(name, "R")
        lab.when(number, lambda job: job["job_state"] == letter)
    option = {"force": "-W force", "x_finished": "-x"}.get(name, "")
    done, said = lab.run(f"qdel {option} {number}"), answer(f"qdel_{name}")
    assert (done.returncode, done.stdout, form(done.stderr)) == (said.returncode, said.stdout, form(said.stderr))


@pytest.mark.parametrize("name", ["qstat_f", "qstat_dsv"])
def test_text_is_written_as_the_recorded_one(name: str) -> None:
    job = recorded_job("finished")
    written = pbs_show.dsv if name == "qstat_dsv" else lambda number, told: pbs_show.in_text("Job Id", number, told)
    assert written("30.pbslab", job) == answer(name).stdout


def test_the_server_is_written_as_the_recorded_one() -> None:
    told = json.loads(answer("qstat_B_json").stdout)["Server"]["pbslab"]
    assert pbs_show.in_text("Server", "pbslab", told) == answer("qstat_B").stdout


def test_json_is_written_as_the_recorded_one() -> None:
    said = answer("qstat_json_finished").stdout
    whole = json.loads(said)
    assert pbs_show.in_json("pbslab", whole["timestamp"], "Jobs", whole["Jobs"]) == said


def test_tables_have_the_recorded_columns(lab: Lab) -> None:
    number = lab.submit("-h long.sh")
    for options, name in (("", "qstat_plain"), ("-x", "qstat_plain_x"), ("-Q", "qstat_Q")):
        mine, theirs = lab.run(f"qstat {options}").stdout.splitlines(), answer(name).stdout.splitlines()
        assert mine[:2] == theirs[:2]
        assert len({len(line) for line in mine[2:]} | {len(theirs[2])}) == 1
    lab.run(f"qdel {number}")


LSF_SAYS = [
    ("bsub -q nosuch true", 255, "", "nosuch: No such queue. Job not submitted.\n"),
    ("bsub -q off true", 255, "", "off: Queue has been closed. Job not submitted.\n"),
    ("bsub -q short -W 2:00 true", 255, "", "RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.\n"),
    ("bsub -q short -n 9 true", 255, "", "Too many tasks requested. Job not submitted.\n"),
    ("bsub -R 'span[' true", 255, "", "Bad resource requirement syntax. Job not submitted.\n"),
    ("bkill 99999", 255, "", "Job <99999>: No matching job found\n"),
    ("bjobs 99999", 255, "", "Job <99999> is not found\n"),
    ("bhist -l 99999", 255, "", "No matching job found\n"),
]


@pytest.mark.parametrize(("command", "code", "out", "err"), LSF_SAYS)
def test_what_lsf_says(lsf: Lab, command: str, code: int, out: str, err: str) -> None:
    done = lsf.run(command)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_the_life_of_a_job_of_lsf(lsf: Lab) -> None:
    assert lsf.run("bjobs").stderr == "No unfinished job found\n"
    said = lsf.run("bsub -H sleep 300").stdout
    number = re.fullmatch(r"Job <(\d+)> is submitted to default queue <normal>\.\n", said)
    assert number is not None
    fields = "jobid stat exit_code exit_reason pend_reason"

    def record() -> dict[str, str]:
        found = json.loads(lsf.run(f"bjobs -json -o '{fields}' -a {number[1]}").stdout)
        assert list(found) == ["COMMAND", "JOBS", "RECORDS"] and found["COMMAND"] == "bjobs" and found["JOBS"] == 1
        return dict(found["RECORDS"][0])

    assert list(record()) == [name.upper() for name in fields.split()] and record()["STAT"] == "PSUSP"
    assert lsf.run(f"bresume {number[1]}").stdout == f"Job <{number[1]}> is being resumed\n"
    while record()["STAT"] != "RUN":
        time.sleep(0.05)
    assert lsf.run(f"bkill {number[1]}").stdout == f"Job <{number[1]}> is being terminated\n"
    while record()["STAT"] != "EXIT":
        time.sleep(0.05)
    assert record()["EXIT_CODE"] == "130" and record()["EXIT_REASON"].startswith("TERM_OWNER: ")
    done = lsf.run(f"bkill {number[1]}")
    assert (done.returncode, done.stderr) == (255, f"Job <{number[1]}>: Job has already finished\n")
    history = lsf.run(f"bhist -l {number[1]}", LSB_DISPLAY_YEAR="Y").stdout
    assert "TERM_OWNER" in history.replace("\n" + 21 * " ", "") and max(map(len, history.splitlines())) <= 80
