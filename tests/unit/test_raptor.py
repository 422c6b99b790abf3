"""RAPTOR: its configurations, the room that it leaves, and the tasks that it cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from asyncflow_hpc.backends.radical_pilot import PilotPool, RadicalExecutionBackend
from asyncflow_hpc.backends.radical_pilot.dispatching import TaskEvent
from asyncflow_hpc.backends.radical_pilot.masters import ALL_WORKERS, Lanes
from asyncflow_hpc.backends.radical_pilot.pilots import Pilot
from asyncflow_hpc.backends.radical_pilot.raptor import (
    RaptorSettings,
    raptor_settings,
    room_left,
    rp_masters,
    server_text,
    why_not,
)
from asyncflow_hpc.backends.radical_pilot.settings import Room
from asyncflow_hpc.errors import ConfigurationError
from asyncflow_hpc.task import TaskDescription


@pytest.mark.parametrize(
    ("config", "masters"),
    [
        ({}, ((1,),)),
        ({"workers": 3}, ((1, 1, 1),)),
        ({"masters": 2, "workers": 2, "cores_per_worker": 4}, ((4, 4), (4, 4))),
        ({"masters": [{"ranks": 1, "workers": [{"ranks": 2, "worker_type": "DefaultWorker"}]}]}, ((1, 1),)),
        ({"masters": [{"workers": [{"cores_per_rank": 3}, {}]}, {"workers": [{}]}]}, ((3, 1), (1,))),
    ],
)
def test_settings(config: dict[str, Any], masters: tuple[tuple[int, ...], ...]) -> None:
    assert raptor_settings(config) == RaptorSettings(masters)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"worker": 1}, "unknown key 'worker' in raptor_config; did you mean 'workers'"),
        ({"workers": 0}, r"raptor_config\['workers'\] must be a whole number from 1 on, not 0"),
        ({"masters": True}, r"\['masters'\] must be a whole number"),
        ({"cores_per_worker": "2"}, r"\['cores_per_worker'\] must be a whole number"),
        ({"masters": []}, r"\['masters'\] is empty"),
        ({"masters": [{"workers": [{}]}], "workers": 2}, r"\['workers'\] does not go with a list of masters"),
        ({"masters": [3]}, r"\['masters'\]\[0\] must be a dict"),
        ({"masters": [{"workers": []}]}, r"\['workers'\] must be a list of one worker"),
        ({"masters": [{"ranks": 2, "workers": [{}]}]}, r"\['ranks'\] must be 1"),
        ({"masters": [{"executable": "/x", "workers": [{}]}]}, r"\[0\]\['executable'\] cannot be set"),
        (
            {"masters": [{"workers": [{"gpus": 1}]}]},
            r"unknown key 'gpus' in .*\['masters'\]\[0\]\['workers'\]",
        ),
        ({"masters": [{"workers": [{"worker_type": "MPIWorker"}]}]}, "must be 'DefaultWorker', not 'MPIWorker'"),
    ],
)
def test_configurations_that_cannot_be(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RadicalExecutionBackend({"cores": 16}, config)


@pytest.mark.parametrize(
    ("room", "masters", "left"),
    [
        (Room(1, 4, 2), ((2,),), Room(1, 1, 2)),
        (Room(4, 8), ((6,),), Room(3, 8)),
        (Room(2, 4), ((3,), (2,)), Room(1, 1)),
        (Room(1, None), ((2,),), Room(1, None)),
    ],
)
def test_room_left(room: Room, masters: tuple[tuple[int, ...], ...], left: Room) -> None:
    assert room_left(room, RaptorSettings(masters)) == left
    assert room_left(room, None) == room


def test_no_room_for_it() -> None:
    with pytest.raises(ConfigurationError, match="need 9 cores, 8 of them on one node, and a pilot has 1 x 8"):
        PilotPool({"cores": 8}, {"cores_per_worker": 8})
    with pytest.raises(ConfigurationError, match="take all 2 cores of a pilot, and tasks that RAPTOR cannot run need"):
        PilotPool({"cores": 2}, {})
    with pytest.raises(ConfigurationError, match="give it to the PilotPool"):
        RadicalExecutionBackend(pool=PilotPool({"cores": 4}), raptor_config={})


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ({}, None),
        ({"cwd": "/", "walltime": 3, "environment": {"OMP_NUM_THREADS": "1"}}, None),
        ({"ranks": 2}, "ranks is 2"),
        ({"cores_per_rank": 2}, "cores_per_rank is 2"),
        ({"gpus_per_rank": 1}, "gpus_per_rank is 1"),
        ({"mem_per_rank": 5}, "mem_per_rank is 5"),
        ({"launcher": "srun"}, "launcher is 'srun'"),
        ({"pre_exec": ["setup", "export X=1"]}, "shell lines of its own"),
        ({"post_exec": ["true"]}, "shell lines of its own"),
        ({"environment": {"LD_PRELOAD": "x"}}, "LD_PRELOAD is read when a process starts"),
    ],
)
def test_what_raptor_cannot_run(description: dict[str, Any], reason: str | None) -> None:
    known = TaskDescription.from_dict({"pre_exec": ["setup"], **description})
    task: Any = {"function": print}
    found = why_not(task, known, {"timeout": 3}, ("setup",))
    assert found is None if reason is None else reason in (found or "")


def test_other_tasks_that_raptor_cannot_run() -> None:
    description = TaskDescription.from_dict({})
    commands: Any = {"executable": "true"}
    service: Any = {"function": print, "is_service": True}
    assert why_not(commands, description, {}) == "it is no function"
    assert why_not(service, description, {}) == "it is a service"
    assert "'priority'" in (why_not({"function": print}, description, {"priority": 3}) or "")  # type: ignore[typeddict-item]


def test_masters_go_first_and_each_worker_has_its_master() -> None:
    described = rp_masters(RaptorSettings(((2, 1), (1,))), "pilot.x", "/file.py")
    assert [part["uid"] for parts in described.values() for part in parts] == [
        "pilot.x.m0", "pilot.x.m0.w0", "pilot.x.m0.w1", "pilot.x.m1", "pilot.x.m1.w0",
    ]  # fmt: skip
    worker = described["pilot.x.m0"][1]
    assert (worker["cores_per_rank"], worker["raptor_id"], worker["pilot"]) == (2, "pilot.x.m0", "pilot.x")


def test_what_a_site_sets_up_comes_before_the_server() -> None:
    lines = server_text("/opt/my python", ("module load x",)).splitlines()
    assert lines[:2] == ["{ module load x", "} >&2 || exit"] and lines[2].startswith("exec '/opt/my python' -c ")


@pytest.fixture
def heard() -> Iterator[list[TaskEvent]]:
    yield []


def lanes_with(number: int, heard: list[TaskEvent]) -> tuple[Lanes, list[dict[str, Any]]]:
    """Two masters of two workers each, in one pilot, and calls."""
    lanes, pilot = Lanes(Room(1, 1), raptor_settings({"masters": 2, "workers": 2})), Pilot("pilot.x")
    lanes.begin([pilot], "/file.py")
    for at in range(number):
        lanes.put({"uid": f"call.{at}", "raptor_id": ""}, 1, heard.append)
    return lanes, lanes.give([pilot])


def test_calls_go_to_the_master_with_most_room(heard: list[TaskEvent]) -> None:
    _, given = lanes_with(4, heard)
    assert sorted(task["raptor_id"] for task in given) == ["pilot.x.m0"] * 2 + ["pilot.x.m1"] * 2
    assert {task["pilot"] for task in given} == {"pilot.x"}


def tell(told: Any) -> None:
    for listener, event in told:
        listener(event)


def test_the_end_of_a_worker_is_told_to_the_calls_of_its_master(heard: list[TaskEvent]) -> None:
    lanes, given = lanes_with(4, heard)
    mine = {task["uid"] for task in given if task["raptor_id"] == "pilot.x.m0"}
    tell(lanes.part_told("pilot.x.m0.w1", "AGENT_EXECUTING", ""))
    assert not heard
    tell(lanes.part_told("pilot.x.m0.w1", "FAILED", "why"))
    assert {event.uid for event in heard} == mine and {event.worker for event in heard} == {"pilot.x.m0.w1"}
    assert "FAILED of pilot.x.m0.w1 why" in heard[0].text and lanes.has_masters
    heard.clear()
    # The last one is the end of its master, which gets no calls any more.
    tell(lanes.part_told("pilot.x.m0.w0", "FAILED", "why"))
    assert {event.uid for event in heard} == mine and {event.worker for event in heard} == {ALL_WORKERS}
    lanes.put({"uid": "later", "raptor_id": ""}, 1, heard.append)
    assert [task["raptor_id"] for task in lanes.give([Pilot("pilot.y")])] == ["pilot.x.m1"]


def test_calls_that_wait_are_told_when_no_master_is_left(heard: list[TaskEvent]) -> None:
    lanes, given = lanes_with(200, heard)
    assert len(given) < 200
    for master in ("pilot.x.m0", "pilot.x.m1"):
        tell(lanes.part_told(master, "FAILED", ""))
    assert {event.uid for event in heard} == {f"call.{at}" for at in range(200)} and len(heard) == 200
    assert not lanes.has_masters and len(lanes) == 0


def test_calls_end_with_their_pilot(heard: list[TaskEvent]) -> None:
    lanes, _ = lanes_with(4, heard)
    (pilot,) = {master.pilot for master in lanes._masters.values()}
    assert set(lanes.take_from(pilot)) == {f"call.{at}" for at in range(4)} and not lanes.has_masters
