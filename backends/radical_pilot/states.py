"""What RADICAL-Pilot's states mean; pure. Source: the package's own list, radical.pilot.states."""

from __future__ import annotations

from typing import NamedTuple

from asyncflow_hpc.states import FailureCause, TaskState

__all__ = ["PILOT_STATES", "TASK_STATES", "PilotMeaning", "TaskMeaning"]


class TaskMeaning(NamedTuple):
    """What a state of a task means; the end of a task is judged by its completion record, and only without one by this.

    Attributes:
        cause: why it ended without a record.
    """

    state: TaskState
    cause: FailureCause | None = None


class PilotMeaning(NamedTuple):
    """What a state of a pilot means.

    Attributes:
        text: for people.
        cause: that its tasks get if it ended by itself.
    """

    text: str
    is_final: bool = False
    cause: FailureCause | None = None


_WAITING = TaskMeaning(TaskState.PENDING)
_RUNNING = TaskMeaning(TaskState.RUNNING)

TASK_STATES = {
    "NEW": _WAITING,
    "TMGR_SCHEDULING_PENDING": _WAITING,
    "TMGR_SCHEDULING": _WAITING,
    "TMGR_STAGING_INPUT_PENDING": _WAITING,
    "TMGR_STAGING_INPUT": _WAITING,
    "AGENT_STAGING_INPUT_PENDING": _WAITING,
    "AGENT_STAGING_INPUT": _WAITING,
    "AGENT_SCHEDULING_PENDING": _WAITING,
    "AGENT_SCHEDULING": _WAITING,
    "AGENT_EXECUTING_PENDING": _WAITING,
    "AGENT_EXECUTING": _RUNNING,
    "AGENT_STAGING_OUTPUT_PENDING": _RUNNING,
    "AGENT_STAGING_OUTPUT": _RUNNING,
    "TMGR_STAGING_OUTPUT_PENDING": _RUNNING,
    "TMGR_STAGING_OUTPUT": _RUNNING,
    # That its script ended well, as far as RADICAL-Pilot knows, is no evidence of what the task did.
    "DONE": TaskMeaning(TaskState.FAILED, FailureCause.LOST),
    "FAILED": TaskMeaning(TaskState.FAILED, FailureCause.LOST),
    "CANCELED": TaskMeaning(TaskState.CANCELED, FailureCause.CANCELLED),
}

PILOT_STATES = {
    "NEW": PilotMeaning("new"),
    "PMGR_LAUNCHING_PENDING": PilotMeaning("about to be submitted"),
    "PMGR_LAUNCHING": PilotMeaning("being submitted"),
    "PMGR_ACTIVE_PENDING": PilotMeaning("queued or bootstrapping"),
    "PMGR_ACTIVE": PilotMeaning("active"),
    "DONE": PilotMeaning("ended", True, FailureCause.CANCELLED),
    "FAILED": PilotMeaning("failed", True, FailureCause.NODE_FAILURE),
    "CANCELED": PilotMeaning("cancelled", True, FailureCause.CANCELLED),
}
