"""What an engine asks of an execution backend."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .data import InputFile
from .session import Session
from .states import TaskStatesMap
from .task import Task, TaskDescription, describe

__all__ = ["BackendCapabilities", "BaseExecutionBackend", "Session", "StateCallback"]

StateCallback = Callable[..., None]
BackendT = TypeVar("BackendT", bound="BaseExecutionBackend")


@dataclass(frozen=True, slots=True)
class BackendCapabilities:
    """What a backend can do; an engine refuses at the call what is not in here.

    Attributes:
        functions, executables, prompts: the kinds of tasks it runs.
        ranks: more than one rank a task.
        gpus: GPUs can be asked for.
        nodes: more than one node a task.
        staging: it moves files between sandboxes.
        services: tasks that are ready before they end.
        reattach: tasks of an earlier driver can be taken over; only then is what they do recorded.
        outlives_driver: what it has submitted goes on when the driver is gone.
        cancel_running: a running task can be stopped.
        contextvars: function tasks see the context variables of their caller.
        native_keys: keys of a task description that it takes beside the common ones.
    """

    functions: bool = True
    executables: bool = True
    prompts: bool = False
    ranks: bool = False
    gpus: bool = False
    nodes: bool = False
    staging: bool = False
    services: bool = False
    reattach: bool = False
    outlives_driver: bool = False
    cancel_running: bool = False
    contextvars: bool = False
    native_keys: frozenset[str] = frozenset()


class BaseExecutionBackend(ABC):
    """Runs tasks and reports their states.

    A backend is awaitable and an async context manager; both start it. Its callback may be called from any thread.

    Attributes:
        name: under which an engine knows it.
        capabilities: what it can do.
        session: where its files go; set by the engine that it is attached to.
        is_attached, attached_to: whether an engine uses it now, and the uids of all that did.
    """

    capabilities = BackendCapabilities()

    def __init__(self, name: str) -> None:
        self.name = name
        self.session = Session(Path.cwd())
        self.is_attached = False
        self.attached_to: list[str] = []
        self._started = False
        self._callback: StateCallback = _ignore

    @property
    def supports_implicit_data_linking(self) -> bool:
        """Flag that radical.asyncflow reads."""
        return self.capabilities.staging

    @property
    def supports_explicit_data_linking(self) -> bool:
        """Flag that radical.asyncflow reads."""
        return self.capabilities.staging

    @property
    def _work_dir(self) -> str:
        return str(self.session.path)

    @_work_dir.setter
    def _work_dir(self, path: str | os.PathLike[str]) -> None:
        # radical.asyncflow's engine tells a backend its directory by this name.
        self.session = Session(Path(path))

    def __await__(self: BackendT) -> Generator[Any, None, BackendT]:
        return self._start_once().__await__()

    async def __aenter__(self: BackendT) -> BackendT:
        return await self._start_once()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    async def _start_once(self: BackendT) -> BackendT:
        if not self._started:
            await self.start()
            self._started = True
        return self

    async def start(self) -> None:  # noqa: B027
        """Get ready for tasks; called once, by `await backend`."""

    def register_callback(self, func: StateCallback) -> None:
        """Set the function that is called as `func(task, state)` on each change of a task's state."""
        self._callback = func

    def get_task_states_map(self) -> TaskStatesMap:
        """Return the words for states that the callback gets."""
        return TaskStatesMap()

    def state(self) -> str:
        """Return the backend's own state in one word."""
        return "RUNNING" if self._started else "NEW"

    def task_state_cb(self, task: Task, state: str) -> None:
        """Pass a change of state on to the engine."""
        self._callback(task, state)

    def moved_input(self, task: Task) -> str | None:
        """Return an input that the last attempt of a task has moved into its sandbox, so that another one lacks it."""
        return None

    def check_description(self, description: TaskDescription) -> None:  # noqa: B027
        """Refuse, when it is called, a task that this backend could never run.

        Raises:
            UnsupportedTaskError: says what it lacks.
        """

    def describe(self, task: Task) -> TaskDescription:
        """Return what a task asks for, with the backend's own defaults where it says nothing."""
        return describe(task)

    def build_task(self, uid: str, task_desc: Task, task_specific_kwargs: dict[str, Any]) -> Any:
        """Translate one task into what the machine runs, without submitting it."""
        return None

    def link_implicit_data_deps(self, src_task: Task, dst_task: Task) -> Any:
        """Let all files that one task leaves appear in the sandbox of another."""
        return None

    def link_explicit_data_deps(
        self,
        src_task: Task | None = None,
        dst_task: Task | None = None,
        file_name: str | None = None,
        file_path: str | None = None,
        *,
        item: InputFile | None = None,
    ) -> Any:
        """Let one file, of a task or from a path, appear in the sandbox of a task.

        Args:
            src_task: whose output it is; None for a path.
            dst_task: that gets it.
            file_name: of the output, relative to the sandbox of `src_task`.
            file_path: path or URL, where `src_task` is None.
            item: how it was declared; None under an engine that says no more than the above.
        """
        return None

    async def recover(self) -> None:  # noqa: B027
        """End what an earlier driver of the session left running and nobody can take over.

        Called with `session` set, before the backend is started, unless it was already, and before all tasks.

        Raises:
            SessionError: nobody can say that it has ended.
        """

    async def reattach(self, tasks: Sequence[Task]) -> Collection[str]:
        """Take over tasks of an earlier driver.

        Args:
            tasks: each with `earlier`, which says in what state that driver knew it (`earlier.Earlier`).

        Returns:
            The uids of those that are, or will be, reported as if they had been submitted here. The others are run
            again in a new attempt: they never ran, what they left is not usable, or they were ended.
        """
        return ()

    async def end_forgotten(self, tasks: Sequence[Task]) -> None:
        """See to it that tasks of an earlier driver end with the shutdown that follows: nobody has called them.

        Args:
            tasks: as for `reattach`.
        """
        await self.reattach(tasks)

    async def detach(self) -> None:
        """Shut down, but leave to a later driver what can go on without this one."""
        await self.shutdown()

    def abandon(self) -> None:  # noqa: B027
        """End all tasks without waiting: the loop or the process is about to end."""

    @abstractmethod
    async def submit_tasks(self, tasks: Sequence[Task]) -> Any:
        """Take tasks that are ready to run; returns before they end.

        A task that was reported FAILED may come again, with the number of its new attempt in `task["attempt"]`: it
        gets a sandbox of its own, and nothing that is left of an earlier attempt counts for it.

        A task that cannot be taken is reported FAILED, with the reason in `task["exception"]`. An exception means that
        none was taken but those already reported RUNNING.
        """

    @abstractmethod
    async def cancel_task(self, uid: str) -> bool:
        """Stop a task.

        Returns:
            Whether it will be reported CANCELED (or with its true end, if that came first).
        """

    @abstractmethod
    async def shutdown(self) -> None:
        """Stop all tasks and leave nothing behind; safe to call twice."""


def _ignore(*_: Any) -> None:
    """Stand in for the callback of a backend that no engine has yet."""
