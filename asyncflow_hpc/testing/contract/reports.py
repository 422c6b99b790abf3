"""What a backend reports, looked at on its way to the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.states import FINAL, TaskState, may_follow

__all__ = ["Reports", "is_life"]


class Reports:
    """Stands between the backend of an engine and the engine.

    Args:
        flow: the engine; all that is reported reaches it.
        deliver: calls the function that it is given with its arguments, wherever and whenever it likes.

    Attributes:
        states: of each task, in the order of the reports; that it was submitted goes without saying.
    """

    def __init__(self, flow: WorkflowEngine, deliver: Callable[..., object] | None = None) -> None:
        words = flow.backend.get_task_states_map()
        self._meaning = {words.RUNNING: TaskState.RUNNING, words.DONE: TaskState.DONE}
        self._meaning |= {words.FAILED: TaskState.FAILED, words.CANCELED: TaskState.CANCELED}
        self._flow = flow
        self._deliver = deliver
        self._lock = threading.Lock()
        self.states: dict[str, list[TaskState]] = {}
        flow.backend.register_callback(self)

    def __call__(self, task: Any, state: str, *service: Any) -> None:
        uid = task["uid"] if isinstance(task, dict) else task.as_dict()["uid"]
        with self._lock:
            # SUBMITTED, of a task that a scheduler has taken or put back, has no word of its own.
            meaning = self._meaning.get(state) or TaskState(state)
            if meaning is not TaskState.SUBMITTED or uid in self.states:
                self.states.setdefault(uid, []).append(meaning)
            if self._deliver is not None:
                self._deliver(self._flow.task_callbacks, task, state, *service)
                return
        self._flow.task_callbacks(task, state, *service)


def is_life(states: list[TaskState]) -> bool:
    """Tell whether these are the states of one task from its submission to its end."""
    following = zip([TaskState.SUBMITTED, *states], states, strict=False)
    # One that is running may be said to run once more, as a service is when it gets ready.
    return states[-1] in FINAL and all(
        may_follow(old, new) or old is new is TaskState.RUNNING for old, new in following
    )
