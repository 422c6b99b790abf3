"""The pure parts of the backend on RADICAL-Pilot: states, settings, shapes of tasks, verdicts."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.backends.evidence import Record
from asyncflow_hpc.backends.radical_pilot.dispatching import TaskEvent
from asyncflow_hpc.backends.radical_pilot.environment import is_installed, is_plain, starter_text
from asyncflow_hpc.backends.radical_pilot.jobs import PilotJob, take_claim, verdict_of
from asyncflow_hpc.backends.radical_pilot.settings import MB, Room, settings_for
from asyncflow_hpc.backends.radical_pilot.site import resources_of
from asyncflow_hpc.backends.radical_pilot.states import PILOT_STATES, TASK_STATES
from asyncflow_hpc.backends.radical_pilot.translation import Shape, native_options, rp_task, shape_of
from asyncflow_hpc.backends.site import SiteRules, site_for
from asyncflow_hpc.backends.staging import Plan
from asyncflow_hpc.errors import ConfigurationError, TaskDescriptionError, UnsupportedTaskError
from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import TaskDescription

NODE = Room(1, 8, 2, 100 * MB)
NODES = Room(4, 8, 2, 100 * MB, spans=True)


@pytest.mark.skipif(not is_installed(), reason="RADICAL-Pilot is not installed")
def test_every_state_of_the_package_is_known(tmp_path: Path) -> None:
    program = "import radical.pilot.states as s; print([*filter(None, s._task_state_values)])"
    # It writes files when it is imported.
    environment = {**os.environ, "HOME": str(tmp_path), "RADICAL_BASE": str(tmp_path), "RADICAL_REPORT": "FALSE"}
    words = [sys.executable, "-c", f"{program}; print([*filter(None, s._pilot_state_values)])"]
    ran = subprocess.run(words, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    tasks, pilots = map(ast.literal_eval, ran.stdout.splitlines())
    assert set(TASK_STATES) == set(tasks)
    assert set(pilots) <= set(PILOT_STATES)


@pytest.mark.parametrize(
    ("description", "room", "shape"),
    [
        ({}, NODE, (1, 1, 0, 0)),
        ({"ranks": 4, "cores_per_rank": 2}, NODE, (1, 8, 0, 0)),
        ({"ranks": 2, "gpus_per_rank": 1, "mem_per_rank": 3}, NODE, (1, 2, 2, 6)),
        ({"ranks": 9}, NODES, (2, 5, 0, 0)),
        ({"ranks": 4, "gpus_per_rank": 1}, NODES, (2, 2, 2, 0)),
        ({"ranks": 4, "nodes": 4}, NODES, (4, 1, 0, 0)),
        ({"ranks": 4, "ranks_per_node": 2}, NODES, (2, 2, 0, 0)),
        ({"ranks": 3, "mem_per_rank": "60MB"}, NODES, (3, 1, 0, 60 * MB)),
        ({"ranks": 100}, Room(1, None), (1, 100, 0, 0)),
    ],
)
def test_shape(description: dict[str, Any], room: Room, shape: tuple[int, ...]) -> None:
    assert shape_of(TaskDescription.from_dict(description), room) == shape


@pytest.mark.parametrize(
    ("description", "room", "words"),
    [
        ({"ranks": 9}, NODE, "needs 9 cores on a node, and a node of a pilot has 8"),
        ({"gpus_per_rank": 3}, NODE, "3 GPUs"),
        ({"mem_per_rank": "1GB"}, NODE, "bytes of memory"),
        ({"ranks": 2, "nodes": 2}, NODE, "several nodes need"),
        ({"ranks": 33}, NODES, "needs 5 nodes, and a pilot has 4"),
        ({"cores_per_rank": 9}, NODES, "9 cores"),
    ],
)
def test_what_no_pilot_holds(description: dict[str, Any], room: Room, words: str) -> None:
    with pytest.raises(UnsupportedTaskError, match=words):
        shape_of(TaskDescription.from_dict(description), room)


def test_task_of_several_nodes() -> None:
    task = rp_task("u.1", "a b/c", ["/bin/sh", "it's $HOME"], Shape(2, 4, 1, 3 * MB), NODES, {"tags": {}, "timeout": 3})
    assert task == {
        "uid": "u.1",
        "name": "a_b_c",
        "executable": """/bin/sh 'it'"'"'s $HOME'""",
        "ranks": 2,
        "cores_per_rank": 4,
        "gpus_per_rank": 1.0,
        "gpu_type": "CUDA",
        "mem_per_rank": 3,
        "ranks_per_node": 1,
        "use_mpi": True,
        "tags": {},
    }


def test_native_keys_of_both_ways() -> None:
    description = TaskDescription.from_dict({"radical_pilot": {"priority": 3}})
    assert native_options(description, {"ranks": 2, "tags": {"colocate": "x"}}) == {
        "tags": {"colocate": "x"},
        "priority": 3,
    }
    with pytest.raises(TaskDescriptionError, match="did you mean 'priority'"):
        native_options(TaskDescription.from_dict({"radical_pilot": {"prioriti": 3}}), {})
    for key, value in {"priority": "high", "tags": [], "timeout": True, "pre_launch": [3], "post_launch": "x"}.items():
        with pytest.raises(TaskDescriptionError, match=f"{key!r} of RADICAL-Pilot must be"):
            native_options(TaskDescription.from_dict({}), {key: value})


def test_this_machine() -> None:
    settings = settings_for(None, 3, 7 * MB)
    assert settings.room == Room(1, 3, 0, 7 * MB) and settings.kind == "local"
    assert settings.configuration is not None
    assert (settings.configuration["cores_per_node"], settings.configuration["mem_per_node"]) == (3, 7)
    assert settings.description["resource"] == "asyncflow.local" and settings.description["cores"] == 3


def test_slurm() -> None:
    asked = {"resource": "slurm", "nodes": 2, "cores_per_node": 16, "gpus_per_node": 4, "mem_per_node": 100}
    settings = settings_for({**asked, "queue": "q", "project": "p", "runtime": 7, "slurm": {"qos": "high"}}, 1)
    assert settings.options == {
        "nodes": "2", "ntasks": "32", "time": "7", "no-requeue": True, "mem": "100M", "gpus-per-node": "4",
        "partition": "q", "account": "p", "qos": "high",
    }  # fmt: skip
    assert settings.room == Room(2, 16, 4, 100 * MB, spans=True) and settings.by_step and settings.runtime == 420


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"core": 1}, "unknown key 'core' in resources; did you mean 'cores'"),
        ({"cores": 0}, "whole number from 1 on"),
        ({"gpus": -1}, "whole number from 0 on"),
        ({"cores": True}, "whole number"),
        ({"nodes": 2}, "one node"),
        ({"resource": "slurm"}, "cores_per_node"),
        ({"resource": "slurm", "cores_per_node": 1, "nodes": 2, "launch": "fork"}, "on one node 'fork'"),
        ({"resource": "ornl.frontier", "launch": "fork"}, "is for resource 'slurm'"),
        ({"resource": 3}, "must be a name"),
    ],
)
def test_resources_that_cannot_be(resources: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        settings_for(resources, 1)


@pytest.mark.parametrize(("path", "plain"), [("/a/b-c_1.2", True), ("/a b", False), ("/ü", False), ("/a'$b", False)])
def test_plain_paths(path: str, plain: bool) -> None:
    assert is_plain(path) is plain


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_the_starter_sets_the_environment_of_the_driver(value: str) -> None:
    _, text = starter_text({"PATH": "/usr/bin:/bin", "A_B": value, "odd name": "x", "RP_TASK_ID": "not ours"})
    script = 'printf %s "$A_B|$RP_TASK_ID|$PYTHONPATH"'
    ran = subprocess.run(
        ["/bin/sh", "-c", text, "sh", "/dev/stdin"],
        input=script.encode(),
        stdout=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "/of/the/agent", "RP_TASK_ID": "task.1"},
        check=True,
    )
    assert ran.stdout.decode() == f"{value}|task.1|"


def job(tmp_path: Path, **more: Any) -> PilotJob:
    (tmp_path / ".asyncflow").mkdir(exist_ok=True)
    task: Any = {"uid": "task.000001", "name": "t"}
    description = TaskDescription.from_dict({"walltime": 5})
    return PilotJob(task, description, Plan(), Shape(1, 1, 0, 0), "/s", str(tmp_path), "n", **more)


def record(exit_code: int | None = 0, signal: int | None = None, noted: str = "") -> Record:
    return Record("s", "task.000001", 0, "n", "run", exit_code, signal, noted, (), 1, 2, "h", "1", None, None)


def told(state: str = "FAILED", cause: FailureCause | None = None, exit_code: int | None = 1) -> TaskEvent:
    return TaskEvent("u", state, "so it is", exit_code, cause)


ENDED = told("", FailureCause.NODE_FAILURE, None)


@pytest.mark.parametrize(
    ("record", "told", "asked", "expected"),
    [
        (record(), None, None, (TaskState.DONE, None)),
        # Evidence goes before all that is said.
        (record(), ENDED, None, (TaskState.DONE, None)),
        (record(), told("CANCELED"), FailureCause.CANCELLED, (TaskState.DONE, None)),
        (record(3), told("DONE"), None, (TaskState.FAILED, FailureCause.EXIT_CODE)),
        (record(None, 9), None, None, (TaskState.FAILED, FailureCause.SIGNAL)),
        # Something outside ended it: what, will be told.
        (record(None, 15, "TERM"), None, None, None),
        (record(None, 15, "TERM"), told(), None, (TaskState.FAILED, FailureCause.SIGNAL)),
        (record(None, 15, "TERM"), ENDED, None, (TaskState.FAILED, FailureCause.NODE_FAILURE)),
        (record(None, 15, "TERM"), None, FailureCause.CANCELLED, (TaskState.CANCELED, FailureCause.CANCELLED)),
        (record(None, 15, "TERM"), None, FailureCause.WALLTIME, (TaskState.FAILED, FailureCause.WALLTIME)),
        (None, None, None, None),
        # Never DONE without evidence.
        (None, told("DONE", exit_code=0), None, (TaskState.FAILED, FailureCause.LOST)),
        (None, told(), None, (TaskState.FAILED, FailureCause.LOST)),
        (None, told(exit_code=137), None, (TaskState.FAILED, FailureCause.SIGNAL)),
        (None, told("CANCELED"), FailureCause.WALLTIME, (TaskState.FAILED, FailureCause.WALLTIME)),
        (None, ENDED, None, (TaskState.FAILED, FailureCause.NODE_FAILURE)),
        (None, told("", FailureCause.CANCELLED), None, (TaskState.CANCELED, FailureCause.CANCELLED)),
    ],
)
def test_verdict(
    tmp_path: Path,
    record: Record | None,
    told: TaskEvent | None,
    asked: FailureCause | None,
    expected: tuple[TaskState, FailureCause | None] | None,
) -> None:
    verdict = verdict_of(job(tmp_path, told=told, asked=asked), record, "", remote=False)
    assert (None if verdict is None else (verdict.state, verdict.cause)) == expected


def test_a_scheduler_may_end_the_command_before_its_script(tmp_path: Path) -> None:
    assert verdict_of(job(tmp_path), record(None, 15), "", remote=True) is None
    verdict = verdict_of(job(tmp_path, told=ENDED), record(None, 15), "", remote=True)
    assert verdict is not None and verdict.cause is FailureCause.NODE_FAILURE
    segfault = verdict_of(job(tmp_path), record(None, 11), "", remote=True)
    assert segfault is not None and segfault.cause is FailureCause.SIGNAL


def test_only_one_takes_the_claim(tmp_path: Path) -> None:
    one = job(tmp_path)
    assert take_claim(one) is None
    assert take_claim(one) is None
    (tmp_path / ".asyncflow" / "claim").unlink()
    (tmp_path / ".asyncflow" / "claim").symlink_to("4711")
    assert take_claim(one) == "4711"


@pytest.mark.parametrize(
    ("site", "resources", "expected"),
    [
        (
            "dev_cluster",
            {"nodes": 2},
            {"resource": "slurm", "cores_per_node": 16, "mem_per_node": 4000, "queue": "normal", "nodes": 2},
        ),
        (
            "dev_cluster",
            {"queue": "high", "slurm": {"qos": "fast"}},
            {
                "resource": "slurm", "cores_per_node": 16, "mem_per_node": 4000, "queue": "high",
                "slurm": {"qos": "fast"},
            },
        ),
        ("local", None, {"resource": "local"}),
        (None, {"cores": 2}, {"cores": 2}),
    ],
)  # fmt: skip
def test_pilots_of_a_site(site: str | None, resources: Any, expected: Any) -> None:
    assert resources_of(SiteRules(site_for(site, None)), resources) == expected


def test_pilots_of_a_site_with_another_scheduler() -> None:
    with pytest.raises(ConfigurationError, match="'polaris' has the scheduler 'pbs'"):
        resources_of(SiteRules(site_for("polaris", None)), None)
