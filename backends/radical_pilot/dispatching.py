"""Which task goes to which pilot, and whose it is; no lock, no process: the pool sees to both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from asyncflow_hpc.states import FailureCause

from .settings import Room

__all__ = ["Dispatch", "Listener", "Place", "TaskEvent", "Waiting"]

# Cores of tasks that a pilot is given beyond those that it has, so that it never waits for us.
_AHEAD = 32

# RADICAL-Pilot keeps a list for each priority that it has ever seen, and tries each that is not empty again and again.
_LEVELS, _WAITING = 4096, 32


class TaskEvent(NamedTuple):
    """What a backend is told of one of its tasks.

    Attributes:
        state: in RADICAL-Pilot's word; "" when its pilot has ended, or could not take it.
        cause: why its pilot ended.
        pilot: which one it was.
        worker: of RAPTOR, that has ended: what it ran has ended, too, and what it had not begun never will.
    """

    uid: str
    state: str
    text: str = ""
    exit_code: int | None = None
    cause: FailureCause | None = None
    pilot: str = ""
    worker: str = ""


class Place(Protocol):
    """Where tasks go: a pilot, or a master of RAPTOR in one."""

    busy: int

    @property
    def state(self) -> str:
        """The pilot's."""

    @property
    def address(self) -> dict[str, str]:
        """What a description says of it."""


Listener = Callable[[TaskEvent], None]


class Waiting(NamedTuple):
    """A task on its way: RADICAL-Pilot's description, and who is told of it."""

    described: Mapping[str, Any]
    cores: int
    listener: Listener


class Dispatch:
    """Gives tasks to pilots in the order in which they came.

    Args:
        room: of each pilot.
    """

    def __init__(self, room: Room) -> None:
        cores = room.nodes * (room.cores or 1)
        ahead = max(cores, _AHEAD)
        self._enough, self._alike = cores + ahead, max(1, ahead // _WAITING)
        self._queue: dict[str, Waiting] = {}
        self._given: dict[str, tuple[Waiting, Place]] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether no task waits for a pilot or is in one."""
        return not self._queue and not self._given

    def put(self, described: Mapping[str, Any], cores: int, listener: Listener) -> None:
        """Let a task wait for a pilot."""
        self._queue[described["uid"]] = Waiting(described, cores, listener)

    def give(self, pilots: Sequence[Place]) -> list[dict[str, Any]]:
        """Give pilots as much as they run soon; what waits can still go to any of them.

        Args:
            pilots: one at least.

        Returns:
            What RADICAL-Pilot is told.
        """
        described = []
        while self._queue:
            pilot = min(pilots, key=lambda pilot: (pilot.busy, pilot.state != "PMGR_ACTIVE"))
            if pilot.busy >= self._enough:
                break
            uid, task = next(iter(self._queue.items()))
            del self._queue[uid]
            self.given(task, pilot)
            # Of those that wait, RADICAL-Pilot runs the last first, unless it is told otherwise.
            order = _LEVELS * task.described.get("priority", 0) - self._sequence // self._alike % _LEVELS
            self._sequence += 1
            described.append({**task.described, **pilot.address, "priority": order})
        return described

    def given(self, task: Waiting, pilot: Place) -> None:
        """Note that a pilot has a task."""
        pilot.busy += task.cores
        self._given[task.described["uid"]] = (task, pilot)

    def drop(self, uid: str) -> None:
        """Forget a task, if it still waits."""
        self._queue.pop(uid, None)

    def holder(self, uid: str, ended: bool) -> tuple[Listener, Place] | None:
        """Say who is to be told of a task that a pilot was given, and which pilot has it.

        Args:
            ended: it has ended, so its pilot has room again.
        """
        found = self._given.get(uid)
        if found is None:
            return None
        task, pilot = found
        if ended:
            del self._given[uid]
            pilot.busy -= task.cores
        return task.listener, pilot

    def held_by(self, pilot: Place) -> dict[str, Listener]:
        """Say which tasks a pilot has."""
        return {uid: task.listener for uid, (task, its) in self._given.items() if its is pilot}

    def take_from(self, pilot: Place) -> dict[str, Listener]:
        """Take all tasks from a pilot."""
        theirs = self.held_by(pilot)
        for uid in theirs:
            del self._given[uid]
        return theirs

    def take_waiting(self) -> dict[str, Listener]:
        """Take all tasks that no pilot was given."""
        queue, self._queue = self._queue, {}
        return {uid: task.listener for uid, task in queue.items()}
