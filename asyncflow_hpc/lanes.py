"""The way of ready tasks from an engine to one backend: in batches, one submission at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from .errors import UnsupportedTaskError
from .session import make_session
from .states import TaskState
from .task import KEYS

if TYPE_CHECKING:
    from .arguments import Found
    from .backend import BackendCapabilities
    from .components import Spec
    from .futures import TaskFuture
    from .session import Session
    from .task import Task, TaskDescription

__all__ = ["Lane"]

log = logging.getLogger(__name__)

# Seconds that a foreign backend may take to shut down, or to answer a request to cancel a task.
FOREIGN_TIMEOUT = 60

# Keys of a task description that hold on a foreign backend as well: the engine itself honours them.
_OURS = {"retries", "shell"}

_UNCHECKED = {item.name for item in KEYS} - _OURS


class Lane:
    """One backend of an engine.

    Attributes:
        backend: ours, or one written for radical.asyncflow.
        name: under which decorators pick it.
        capabilities: None for a foreign backend, which then gets every task as it is.
        meaning: what each state in the backend's words is in ours.
        links_implicit, links_explicit: whether the backend wants to be told of data dependencies.
        recorded: what its tasks do goes into the journal.
        outlives_driver: what it has submitted goes on without the driver.
    """

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.name: str = backend.name
        self.capabilities: BackendCapabilities | None = getattr(backend, "capabilities", None)
        words = backend.get_task_states_map()
        self.meaning = {
            words.RUNNING: TaskState.RUNNING,
            words.DONE: TaskState.DONE,
            words.FAILED: TaskState.FAILED,
            words.CANCELED: TaskState.CANCELED,
            TaskState.SUBMITTED: TaskState.SUBMITTED,
        }
        # Backends older than these flags were always asked.
        self.links_implicit = bool(getattr(backend, "supports_implicit_data_linking", True))
        self.links_explicit = bool(getattr(backend, "supports_explicit_data_linking", True))
        self.recorded = self.capabilities is not None and self.capabilities.reattach
        self.outlives_driver = self.capabilities is not None and self.capabilities.outlives_driver
        self.carries_context = self.capabilities is not None and self.capabilities.contextvars
        # Backends of this kind run text as words, or words as text, by this key; their defaults differ.
        self.takes_shell = self.capabilities is None and isinstance(getattr(backend, "executor", None), Executor)
        self._session: Session | None = None
        self._warned: set[str] = set()
        self._batch: list[Task] = []
        self._filled = asyncio.Event()

    def attach(self, engine: str, session: Session, report: Callable[..., None]) -> None:
        """Tell the backend whom it serves.

        Args:
            engine: uid of the engine.
            session: where its files go.
            report: the callback for states.
        """
        backend = self.backend
        backend._work_dir = str(session.path)
        if self.capabilities is not None:
            backend.session = session
        else:
            # Made with the first task: a foreign backend writes into it, and does not make it.
            self._session = session
        backend.is_attached = True
        backend.attached_to = [*getattr(backend, "attached_to", ()), engine]
        backend.register_callback(report)

    def detach(self) -> None:
        """Let another engine have the backend."""
        self.backend.is_attached = False

    def abandon(self) -> None:
        """End all that the backend runs, without waiting."""
        if self.capabilities is not None:
            self.backend.abandon()

    def add(self, task: Task) -> None:
        """Put a ready task into the next batch."""
        self._batch.append(task)
        if len(self._batch) == 1:
            self._filled.set()

    async def run(self, submit: Callable[[Lane, list[Task]], Awaitable[None]]) -> None:
        """Submit batch after batch, each with all that became ready while the one before was taken."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            # Held by no variable here: it would keep the last batch alive until the next one.
            await submit(self, self._take_batch())

    def _take_batch(self) -> list[Task]:
        batch, self._batch = self._batch, []
        return batch

    async def submit(self, tasks: list[Task]) -> None:
        """Submit tasks to the backend.

        Raises:
            SessionError: the session's directory cannot be made.
        """
        if self._session is not None:
            make_session(self._session.path)
            self._session = None
        await self.backend.submit_tasks(tasks)

    async def cancel(self, future: TaskFuture) -> None:
        """Ask the backend to stop a task; it reports by itself when the task has ended."""
        try:
            done = await self._limited(self.backend.cancel_task(future.uid), f"has not cancelled {future.uid}")
        except Exception:
            log.exception("cancel of %s failed on backend '%s'", future.uid, self.name)
            future._cancelling = False
        else:
            if done is False and not future.done():
                future._cancelling = False
                log.warning("backend '%s' cannot cancel %s; it goes on", self.name, future.uid)

    async def close(self, detach: bool = False) -> None:
        """Shut the backend down; with `detach`, what can go on without a driver does."""
        try:
            closing = self.backend.detach() if detach and self.recorded else self.backend.shutdown()
            await self._limited(closing, "has not shut down, so its processes may go on")
        except Exception:
            log.exception("shutdown of backend '%s' failed", self.name)

    async def _limited(self, work: Any, late: str) -> Any:
        """Wait for what a backend does; for a foreign one no longer than a limit."""
        if self.capabilities is not None or not asyncio.iscoroutine(work):
            return await work
        task = asyncio.get_running_loop().create_task(work, name=f"backend {self.name}")
        done, _ = await asyncio.wait([task], timeout=FOREIGN_TIMEOUT)
        if done:
            return task.result()
        task.cancel()
        log.warning("backend '%s' %s: it did not answer within %d s", self.name, late, FOREIGN_TIMEOUT)
        return None

    def warn_of_description(self, name: str, values: Mapping[str, Any]) -> None:
        """Warn, once for each key, that a foreign backend may ignore what a task description asks for."""
        for key in _UNCHECKED & values.keys():
            if values[key] is not None:
                self._warn_once(
                    key, f"'{key}' of task '{name}' is passed on as it is, and nothing tells whether it is honoured"
                )

    def warn_of_files(self, name: str, found: Found) -> None:
        """Warn, once for each kind, of declared files that a foreign backend does not stage or check."""
        if self.capabilities is not None:
            return
        if found.inputs and not self.links_explicit:
            self._warn_once("InputFile", f"it stages no files, so task '{name}' does not find {found.inputs[0]!r}")
        if found.outputs:
            self._warn_once("OutputFile", f"{found.outputs[0]!r} of task '{name}' is not checked or delivered")

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("backend '%s' was not written for asyncflow_hpc: %s", self.name, text)

    def refuse_unsupported(self, spec: Spec, description: TaskDescription) -> None:
        """Check a task against what the backend can do.

        Raises:
            UnsupportedTaskError: names the first thing that it cannot.
        """
        can = self.capabilities
        if can is None:
            return
        wanted = (
            ("functions", spec.kind == "function", can.functions, "a function task"),
            ("executables", spec.kind == "executable", can.executables, "an executable task"),
            ("services", spec.is_service, can.services, "service=True"),
            ("ranks", description.ranks > 1, can.ranks, f"ranks={description.ranks}"),
            ("nodes", (description.nodes or 1) > 1, can.nodes, f"nodes={description.nodes}"),
            ("gpus", description.gpus_per_rank > 0, can.gpus, f"gpus_per_rank={description.gpus_per_rank}"),
        )
        for field, asked, able, text in wanted:
            if asked and not able:
                raise UnsupportedTaskError(
                    f"task '{spec.name}' asks for {text}, but backend '{self.name}' has no capability '{field}'"
                )

    def refuse_unrunnable(self, description: TaskDescription) -> None:
        """Let the backend check a task, when it is called: what the signature says may not be all.

        Raises:
            UnsupportedTaskError, TaskDescriptionError: the backend could never run it.
        """
        if self.capabilities is not None:
            self.backend.check_description(description)
