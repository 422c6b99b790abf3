"""The masters of RAPTOR in the pilots, and the calls that go to them; no lock, no process: the pool sees to both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncflow_hpc.states import FailureCause

from .dispatching import Dispatch, Listener, TaskEvent, Waiting
from .pilots import Pilot
from .raptor import RaptorSettings, rp_masters
from .settings import Room

__all__ = ["ALL_WORKERS", "Lanes", "Master"]

log = logging.getLogger(__name__)

ALL_WORKERS = "*"
"""In an event: whichever worker has a call, it has ended."""


@dataclass(eq=False, slots=True)
class Master:
    """A master of RAPTOR in a pilot.

    Attributes:
        workers: those that have not ended.
        busy: cores of all calls that it was given and that have not ended.
    """

    uid: str
    pilot: Pilot
    workers: set[str] = field(default_factory=set)
    busy: int = 0

    @property
    def state(self) -> str:
        """The state of its pilot."""
        return self.pilot.state

    @property
    def address(self) -> dict[str, str]:
        """What a description says of where it goes."""
        return {"pilot": self.pilot.uid, "raptor_id": self.uid}


class Lanes:
    """Where tasks wait: those for RADICAL-Pilot itself, and calls for the masters of RAPTOR.

    Args:
        room: of each pilot, beside its masters and workers.
        raptor: the masters of each pilot; None where there are none.
    """

    def __init__(self, room: Room, raptor: RaptorSettings | None) -> None:
        self._settings = raptor
        self._masters: dict[str, Master] = {}
        self._tasks = Dispatch(room)
        self._calls = Dispatch(Room(1, raptor.calls if raptor is not None else None))

    def __len__(self) -> int:
        return len(self._tasks) + len(self._calls)

    @property
    def idle(self) -> bool:
        """Whether no task waits, or is in a pilot or with a master."""
        return self._tasks.idle and self._calls.idle

    @property
    def has_masters(self) -> bool:
        """Whether calls can go to a master."""
        return bool(self._masters)

    def begin(self, pilots: Sequence[Pilot], file: str) -> list[dict[str, Any]]:
        """Describe the masters and workers of new pilots; see `rp_masters`."""
        parts = []
        for pilot in pilots if self._settings is not None else ():
            assert self._settings is not None
            for uid, (master, *workers) in rp_masters(self._settings, pilot.uid, file).items():
                self._masters[uid] = Master(uid, pilot, {worker["uid"] for worker in workers})
                parts += [master, *workers]
        return parts

    def put(self, described: Mapping[str, Any], cores: int, listener: Listener) -> None:
        """Let a task wait."""
        (self._calls if "raptor_id" in described else self._tasks).put(described, cores, listener)

    def give(self, pilots: Sequence[Pilot]) -> list[dict[str, Any]]:
        """Give pilots, and the masters in them, as much as they run soon; see `Dispatch.give`."""
        masters = list(self._masters.values())
        return [*(self._calls.give(masters) if masters else ()), *self._tasks.give(pilots)]

    def given(self, task: Waiting, pilot: Pilot) -> None:
        """Note that a pilot has a task."""
        self._tasks.given(task, pilot)

    def drop(self, uid: str) -> None:
        """Forget a task, if it still waits."""
        self._tasks.drop(uid)
        self._calls.drop(uid)

    def holder(self, uid: str, ended: bool) -> tuple[Listener, str] | None:
        """Say who is to be told of a task that a pilot was given, and which pilot has it; see `Dispatch.holder`."""
        found = self._tasks.holder(uid, ended) or self._calls.holder(uid, ended)
        return None if found is None else (found[0], found[1].address["pilot"])

    def take_from(self, pilot: Pilot) -> dict[str, Listener]:
        """Take all tasks from a pilot that has ended, and forget its masters."""
        theirs = self._tasks.take_from(pilot)
        for master in [one for one in self._masters.values() if one.pilot is pilot]:
            del self._masters[master.uid]
            theirs |= self._calls.take_from(master)
        # Those that wait could now only wait for another pilot: they get into the other lane as well.
        return theirs if self._masters else theirs | self._calls.take_waiting()

    def take_waiting(self) -> dict[str, Listener]:
        """Take all tasks that no pilot was given."""
        return self._tasks.take_waiting() | self._calls.take_waiting()

    def part_told(self, uid: str, state: str, text: str) -> list[tuple[Listener, TaskEvent]]:
        """Take what is told of a task that may be a master or a worker; returns who is to be told what of calls."""
        if state == "AGENT_EXECUTING":
            return []
        master = next((one for one in self._masters.values() if uid == one.uid or uid in one.workers), None)
        if master is None:
            return []
        master.workers.discard(uid)
        kind = "master" if uid == master.uid else "worker"
        what = f"its RAPTOR {kind} has ended: RADICAL-Pilot says {state} of {uid} {text}".rstrip()
        event = TaskEvent("", "", what, cause=FailureCause.NODE_FAILURE, worker=uid)
        if kind == "worker" and master.workers:
            # Which it had, the calls themselves say.
            return _told(self._calls.held_by(master), event)
        log.warning("no more functions go to RAPTOR master %s: %s", master.uid, what)
        del self._masters[master.uid]
        theirs = self._calls.take_from(master)
        if not self._masters:
            theirs |= self._calls.take_waiting()
        return _told(theirs, event._replace(worker=ALL_WORKERS))


def _told(calls: Mapping[str, Listener], event: TaskEvent) -> list[tuple[Listener, TaskEvent]]:
    return [(listener, event._replace(uid=uid)) for uid, listener in calls.items()]
