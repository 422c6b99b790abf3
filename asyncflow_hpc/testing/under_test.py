"""What the contract suite is told about a backend, and the features by which its tests are picked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .leftovers import processes_here

__all__ = ["FEATURES", "BackendUnderTest"]

FEATURES = {
    "executables": "commands",
    "functions": "function tasks",
    "prompts": "prompt tasks",
    "ranks": "more than one rank a task",
    "gpus": "GPUs, two at least",
    "nodes": "more than one node a task",
    "staging": "files between sandboxes",
    "services": "services",
    "reattach": "taking over tasks of an earlier driver",
    "cancel_running": "stopping a running task",
    "contextvars": "context variables of the caller in function tasks",
    "execution": "what is submitted really runs",
    "sandbox": "each task runs in a directory of its own that the driver can read",
    "processes": "functions run in other processes than the driver, each with its sandbox as directory",
    "walltime": "a task is ended when its walltime is over",
    "driver_environment": "tasks inherit the environment of the driver",
    "cores": "tasks beyond a known number wait",
}
"""Feature -> what a test that needs it relies on."""


@dataclass(frozen=True)
class BackendUnderTest:
    """A backend as the contract suite sees it.

    Attributes:
        make: returns a new backend that is not started; called once or more for each test.
        skips: feature, or name of a test -> why the backend cannot fulfil it.
        cores: how many tasks of one core it runs at once; None where that is not known, or too many to fill.
        gpus: how many GPUs it hands out.
        walltime: seconds; the shortest time limit that it can hold a task to.
        patience: by which the suite's own time limits are multiplied.
        leftovers: what still runs that a task below a directory has started, on whatever machine.
        lag: seconds after a task's end in which its processes may still be seen.
    """

    make: Callable[[], Any]
    skips: Mapping[str, str] = field(default_factory=dict)
    cores: int | None = None
    gpus: int = 0
    walltime: float = 1.0
    patience: float = 1.0
    leftovers: Callable[[Path], Sequence[Any]] = processes_here
    lag: float = 0.0

    def __post_init__(self) -> None:
        for name, reason in self.skips.items():
            if name not in FEATURES and not name.startswith("test_"):
                raise ValueError(f"skips: {name!r} is neither a test nor one of the features {', '.join(FEATURES)}")
            if not isinstance(reason, str) or not reason.strip():
                raise ValueError(f"skips: {name!r} needs a reason")

    def lacks(self, feature: str, backend: Any) -> str | None:
        """Say why a backend cannot do something; None if it can.

        Args:
            feature: one of `FEATURES`.
            backend: made by `make`.
        """
        if feature in self.skips:
            return self.skips[feature]
        # A backend written for another engine declares nothing: it is tried.
        if getattr(getattr(backend, "capabilities", None), feature, True) is False:
            return f"capabilities.{feature} is False"
        if feature == "cores" and self.cores is None:
            return "how many cores it has is not told"
        if feature == "gpus" and self.gpus < 2:
            return f"it hands out {self.gpus} GPUs"
        return None
