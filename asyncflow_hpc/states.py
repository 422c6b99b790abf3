"""Task states, causes of failure, and the map a backend hands to an engine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["FINAL", "FailureCause", "TaskState", "TaskStatesMap", "may_follow"]


class TaskState(str, Enum):
    """State of a task; a string, so that it compares with what foreign backends and scripts use."""

    PENDING = "PENDING"
    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    __str__ = str.__str__
    # Enum's own hash runs in Python, on the path of every task.
    __hash__ = str.__hash__


class FailureCause(str, Enum):
    """Why a task failed, in one normal form for all backends."""

    EXIT_CODE = "EXIT_CODE"
    SIGNAL = "SIGNAL"
    WALLTIME = "WALLTIME"
    MEMORY = "MEMORY"
    NODE_FAILURE = "NODE_FAILURE"
    PREEMPTED = "PREEMPTED"
    CANCELLED = "CANCELLED"
    BOOTSTRAP = "BOOTSTRAP"
    STAGING = "STAGING"
    MISSING_OUTPUT = "MISSING_OUTPUT"
    SUBMIT = "SUBMIT"
    LOST = "LOST"
    BACKEND = "BACKEND"

    __str__ = str.__str__
    # Enum's own hash runs in Python, on the path of every task.
    __hash__ = str.__hash__


FINAL = frozenset({TaskState.DONE, TaskState.FAILED, TaskState.CANCELED})

_ORDER = {TaskState.PENDING: 0, TaskState.SUBMITTED: 1, TaskState.RUNNING: 2}


def may_follow(old: TaskState, new: TaskState) -> bool:
    """Tell whether a task may go from one state to another.

    States go forward only, but for the one step back that schedulers really make: RUNNING to SUBMITTED on a requeue.
    """
    if old in FINAL:
        return False
    if (old, new) == (TaskState.RUNNING, TaskState.SUBMITTED):
        return True
    return _ORDER[old] < _ORDER.get(new, len(_ORDER))


@dataclass(frozen=True)
class TaskStatesMap:
    """How a backend calls the states in its callbacks.

    The names are the contract of radical.asyncflow; a backend with words of its own puts them here.
    """

    RUNNING: str = TaskState.RUNNING
    DONE: str = TaskState.DONE
    FAILED: str = TaskState.FAILED
    CANCELED: str = TaskState.CANCELED

    @property
    def terminal_states(self) -> frozenset[str]:
        """The states after which nothing follows."""
        return frozenset({self.DONE, self.FAILED, self.CANCELED})
