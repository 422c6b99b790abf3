"""What was made of a task description, kept for the other tasks that share it; no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from asyncflow_hpc.task import TaskDescription

__all__ = ["Remembered"]

_Made = TypeVar("_Made")

# Descriptions; the tasks of a workflow have a few.
_MOST = 64


class Remembered(Generic[_Made]):
    """A pure function of task descriptions that knows its last results; may be called from several threads.

    Args:
        function: whose results nobody changes; what it raises is not kept.
    """

    def __init__(self, function: Callable[[TaskDescription], _Made]) -> None:
        self._function = function
        # With the description, whose id is another's once it is gone.
        self._known: dict[int, tuple[TaskDescription, _Made]] = {}

    def __call__(self, description: TaskDescription) -> _Made:
        """Return what the function makes of a description."""
        known = self._known.get(id(description))
        if known is not None:
            return known[1]
        made = self._function(description)
        if len(self._known) >= _MOST:
            self._known = {}
        self._known[id(description)] = description, made
        return made
