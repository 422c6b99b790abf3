"""What a site takes, and what it refuses with which words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow_hpc.errors import TaskDescriptionError, UnsupportedTaskError
from asyncflow_hpc.limits import check_limits, queues_for, unknown_queue
from asyncflow_hpc.site_model import Site, build
from asyncflow_hpc.task import TaskDescription

GIB = 1024**3

NODES = {
    "cpu": {"cores": 64, "threads_per_core": 2, "memory": "256GB", "count": 100, "constraint": "cpu"},
    "gpu": {"cores": 32, "gpus": 4, "memory": "128GB", "count": 10},
    "fat": {"cores": 64, "memory": "2TB", "count": 2},
}
QUEUES = {
    "debug": {"max_walltime": "00:30:00", "max_nodes": 4, "nodes": ["cpu", "gpu"]},
    "batch": {"max_walltime": "24:00:00", "nodes": ["cpu"]},
    "large": {"max_walltime": "48:00:00", "min_nodes": 20, "nodes": ["cpu"], "exclusive": True},
    "gpu": {"max_walltime": "12:00:00", "max_gpus": 16, "nodes": ["gpu"]},
    "fat": {"nodes": ["fat"], "max_cores": 64},
    "urgent": {"by": "qos", "max_nodes": 2, "max_walltime": "02:00:00"},
}


def site(**more: Any) -> Site:
    values = {"description": "x", "scheduler": "slurm", "nodes": NODES, "queues": QUEUES, **more}
    return build(values, "big", "/etc/big.yaml")


def refusal(where: Site, environment: dict[str, str] | None = None, **asked: Any) -> Exception | None:
    try:
        check_limits(where, TaskDescription.from_dict(asked), environment or {})
    except (TaskDescriptionError, UnsupportedTaskError) as error:
        return error
    return None


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"queue": "debug", "walltime": "00:30:00", "nodes": 4, "ranks": 4},
        # 4 nodes of 128 hardware threads each.
        {"queue": "debug", "ranks": 512},
        {"queue": "batch", "nodes": 100, "ranks": 100},
        {"queue": "large", "nodes": 20, "ranks": 20},
        # It may lie on 20 nodes.
        {"queue": "large", "ranks": 20},
        {"queue": "gpu", "ranks": 16, "gpus_per_rank": 1},
        {"queue": "fat", "mem_per_rank": "1TB"},
        {"queue": "debug", "constraint": "cpu"},
        {"queue": "gpu", "constraint": "rome&ib", "gpus_per_rank": 1},
        {"qos": "urgent", "nodes": 2, "walltime": "02:00:00"},
        {"queue": "batch", "qos": "urgent"},
        # What the profile does not know may be new.
        {"queue": "new", "walltime": "9-00", "nodes": 90, "ranks": 90},
        {"qos": "new"},
        {"mem_per_rank": "256GB"},
        # What native options change is not known.
        {"queue": "large", "slurm": {"nodes": 30}},
        {"queue": "debug", "slurm": {"time": "9"}, "walltime": "9-00"},
        {"queue": "debug", "walltime": "20:00:00", "slurm": {"partition": "batch"}},
    ],
)
def test_taken(asked: dict[str, Any]) -> None:
    assert refusal(site(), **asked) is None


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"queue": "debug", "walltime": "00:30:01"},
        "queue 'debug' takes no more than 00:30:00 of walltime (max_walltime), and this task asks for 00:30:01; it"
        " would go with queue='batch' or queue='gpu' or queue='fat' (from /etc/big.yaml)",
    ),
    (
        {"queue": "debug", "nodes": 5, "ranks": 5},
        "queue 'debug' takes no more than 4 nodes (max_nodes), and this task needs 5; it would go with queue='batch' or"
        " queue='gpu'",
    ),
    ({"queue": "debug", "ranks": 513}, "no more than 4 nodes (max_nodes), and this task needs 5"),
    ({"queue": "debug", "ranks": 10, "ranks_per_node": 2}, "no more than 4 nodes (max_nodes), and this task needs 5"),
    (
        {"queue": "debug", "ranks": 9, "mem_per_rank": "128GB"},
        "no more than 4 nodes (max_nodes), and this task needs 5",
    ),
    (
        {"queue": "debug", "ranks": 17, "gpus_per_rank": 1},
        "and this task needs 5; no other queue of the site would take it",
    ),
    ({"queue": "large", "nodes": 19, "ranks": 19}, "takes 20 nodes and more (min_nodes), and this task has 19"),
    ({"queue": "large", "ranks": 19}, "takes 20 nodes and more (min_nodes), and this task has 19"),
    ({"queue": "gpu", "ranks": 5, "gpus_per_rank": 4}, "no more than 16 gpus (max_gpus), and this task needs 20"),
    ({"queue": "fat", "ranks": 65}, "no more than 64 cores (max_cores), and this task needs 65"),
    (
        {"queue": "batch", "gpus_per_rank": 1},
        "queue 'batch' takes tasks for its nodes (cpu), and none of these has room for one rank with 1 cores, 1 GPUs"
        " each; it would go with queue='debug' or queue='gpu' (from",
    ),
    ({"queue": "batch", "mem_per_rank": "1TB"}, "it would go with queue='fat' (from"),
    ({"qos": "urgent", "nodes": 3, "ranks": 3}, "qos 'urgent' takes no more than 2 nodes"),
    ({"queue": "batch", "qos": "urgent", "walltime": "03:00:00"}, "qos 'urgent' takes no more than 02:00:00"),
    (
        {"constraint": "cpu", "gpus_per_rank": 1},
        "constraint 'cpu' picks nodes (cpu) that have no room for one rank with 1 cores, 1 GPUs each; say another",
    ),
    (
        {"constraint": "cpu", "queue": "gpu"},
        "queue 'gpu' takes tasks for its nodes (gpu), and none of these has room for one rank with 1 cores each with"
        " constraint 'cpu'; it would go with queue='debug' or queue='batch'",
    ),
    ({"queue": "urgent"}, "'urgent' is no queue but a quality of service: say qos='urgent'"),
    ({"slurm": {"partition": "debug"}, "walltime": "1:00"}, "queue 'debug' takes no more than 00:30:00"),
    ({"slurm": {"qos": "urgent"}, "walltime": "3:00"}, "qos 'urgent' takes no more than 02:00:00"),
]


@pytest.mark.parametrize(("asked", "words"), REFUSED)
def test_refused_by_a_queue(asked: dict[str, Any], words: str) -> None:
    error = refusal(site(), **asked)
    assert isinstance(error, TaskDescriptionError)
    assert str(error).startswith("site 'big': ") and words in str(error)


@pytest.mark.parametrize(
    "asked",
    [
        {"cores_per_rank": 129},
        {"gpus_per_rank": 5},
        {"mem_per_rank": "3TB"},
        {"nodes": 101, "ranks": 101},
        {"gpus_per_rank": 1, "mem_per_rank": "200GB"},
        {"ranks": 129, "ranks_per_node": 129},
        {"ranks": 258, "nodes": 2},
    ],
)
def test_refused_by_the_machine(asked: dict[str, Any]) -> None:
    error = refusal(site(), **asked)
    assert isinstance(error, UnsupportedTaskError)
    assert "site 'big' has no nodes for this task, which needs" in str(error)
    assert "cpu: 64 cores, 256 GB, 100 of them; gpu: 32 cores, 4 GPUs, 128 GB, 10 of them" in str(error)
    assert queues_for(site(), TaskDescription.from_dict(asked)) == []


def test_what_a_profile_does_not_say_limits_nothing() -> None:
    huge = {"ranks": 10**6, "walltime": "99-00", "gpus_per_rank": 9, "mem_per_rank": "9TB", "queue": "a", "qos": "b"}
    assert refusal(site(nodes={}, queues={}), **huge) is None
    assert refusal(site(nodes={}, queues={"a": {}, "b": {"by": "qos"}}), **huge) is None
    assert refusal(site(nodes={"n": {"gpus": 9}}, queues={"a": {}}), **huge) is None
    assert refusal(site(nodes={"n": {}}, queues={"a": {}}), gpus_per_rank=1) is not None, "no GPUs unless it says so"


@pytest.mark.parametrize(
    ("scheduler", "asked", "environment"),
    [
        ("slurm", {"account": "a"}, {}),
        ("slurm", {"slurm": {"account": "a"}}, {}),
        ("slurm", {}, {"SBATCH_ACCOUNT": "a"}),
        ("pbs", {"pbs": {"A": "a"}}, {}),
        ("pbs_classic", {"pbs": {"A": "a"}}, {}),
        ("lsf", {"lsf": {"P": "a"}}, {}),
        ("lsf", {}, {"LSB_DEFAULTPROJECT": "a"}),
    ],
)
def test_an_account_that_is_needed(scheduler: str, asked: dict[str, Any], environment: dict[str, str]) -> None:
    where = site(scheduler=scheduler, account_required=True)
    assert refusal(where, environment, **asked) is None
    error = refusal(where, {"ACCOUNT": "a", "": "a"})
    assert isinstance(error, TaskDescriptionError) and "site 'big' needs an account" in str(error)
    assert refusal(site(scheduler=scheduler)) is None


@pytest.mark.parametrize("scheduler", ["pbs", "pbs_classic", "lsf"])
def test_queues_of_native_options(scheduler: str) -> None:
    native = {scheduler.partition("_")[0]: {"q": "debug"}}
    error = refusal(site(scheduler=scheduler), walltime="1:00", **native)
    assert error is not None and "queue 'debug'" in str(error)


def test_a_reservation_of_pbs_is_a_queue_of_its_own() -> None:
    asked = {"queue": "debug", "walltime": "10:00:00", "reservation": "R123"}
    assert refusal(site(scheduler="pbs"), **asked) is None
    assert refusal(site(scheduler="slurm"), **asked) is not None


def test_the_constraint_that_would_do_is_named() -> None:
    nodes = {
        "cpu": {"constraint": "cpu"},
        "gpu": {"gpus": 4, "constraint": "gpu"},
        "big": {"gpus": 8, "constraint": "big"},
    }
    error = refusal(site(nodes=nodes, queues={}), constraint="cpu", gpus_per_rank=2)
    assert isinstance(error, TaskDescriptionError)
    assert "say constraint='big' or constraint='gpu' (from /etc/big.yaml)" in str(error)


def test_a_name_that_is_a_partition_too() -> None:
    where = site(queues={"standard": {"by": "qos", "max_nodes": 2}})
    assert refusal(where, queue="standard", qos="standard") is None


@pytest.mark.parametrize(
    ("asked", "unknown"),
    [
        ({"queue": "new"}, "new"),
        ({"qos": "new"}, "new"),
        ({"queue": "batch", "qos": "newer"}, "newer"),
        ({"slurm": {"partition": "x"}, "queue": "batch"}, "x"),
        ({"queue": "batch"}, None),
        ({}, None),
    ],
)
def test_queues_that_are_not_known(asked: dict[str, Any], unknown: str | None) -> None:
    assert unknown_queue(site(), TaskDescription.from_dict(asked)) == unknown
    # A profile without any cannot know better.
    assert unknown_queue(site(queues={}), TaskDescription.from_dict(asked)) is None


def test_the_default_queue_is_named_first() -> None:
    names = queues_for(site(defaults={"queue": "fat"}), TaskDescription())
    assert names[0] == "fat" and set(names) == {"debug", "batch", "gpu", "fat", "urgent"}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=st.fixed_dictionaries(
        {},
        optional={
            "ranks": st.integers(1, 300),
            "nodes": st.integers(1, 120),
            "ranks_per_node": st.integers(1, 150),
            "cores_per_rank": st.integers(1, 140),
            "gpus_per_rank": st.integers(0, 5),
            "mem_per_rank": st.integers(1, 3000).map(lambda size: size * GIB),
            "walltime": st.integers(1, 200000),
            "queue": st.sampled_from(["batch", "debug", "fat", "gpu", "large", "other"]),
        },
    )
)
def test_the_queues_that_are_named_would_take_it(asked: dict[str, Any]) -> None:
    error = refusal(site(), **asked)
    if error is None:
        assert asked.get("queue") not in QUEUES or asked["queue"] in queues_for(site(), TaskDescription(**asked))
        return
    named = re.findall(r"queue='(\w+)'", str(error).partition("it would go with")[2])
    for name in named:
        assert refusal(site(), **{**asked, "queue": name}) is None
    for name in {*QUEUES} - {*named, "urgent"}:
        assert refusal(site(), **{**asked, "queue": name}) is not None
