"""The future that a call of a task or block returns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from .blocks import BlockScope, current_scope
from .errors import ArgumentError, CycleError

if TYPE_CHECKING:
    from contextvars import Context

    from .arguments import Found
    from .components import Spec
    from .engine import WorkflowEngine
    from .task import Task

__all__ = ["ServiceFuture", "TaskFuture"]


class TaskFuture(asyncio.Future[Any]):
    """Result of a task or block to come.

    Attributes:
        uid: such as "task.000001"; unique within the engine.
        state: PENDING, RUNNING, DONE, FAILED or CANCELLED.
        task: the dict that crosses to the backend (of a task).
        block: the description (of a block).
        description: `task` or `block`, whichever it is.
    """

    # The private slots belong to the engine: kept here, they cost no dict of their own per task.
    __slots__ = (
        "_brief", "_cancelling", "_context", "_found", "_node", "_scope", "_spec", "_submitted", "block",
        "description", "state", "task", "uid",
    )  # fmt: skip

    _brief: dict[str, str] | None
    _cancelling: bool
    _context: Context | None
    _found: Found | None
    # Its name in the graph: the uid that it was called with, which a resume may change.
    _node: str
    _scope: BlockScope | None
    _spec: Spec
    _submitted: bool
    block: Task
    description: Task
    state: str
    task: Task
    uid: str

    @property
    def id(self) -> str:
        """The number in the uid, such as "000001"."""
        return self.uid.rpartition(".")[2]

    @property
    def engine(self) -> WorkflowEngine:
        """The engine that it belongs to."""
        return self._spec.engine

    @property
    def brief(self) -> dict[str, str]:
        """Uid and name; one dict for all dependents."""
        if self._brief is None:
            self._brief = {"uid": self.uid, "name": self._spec.name}
        return self._brief

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel what has not finished.

        What waits is cancelled at once. For what runs the backend is asked, and the future is cancelled when the
        backend has confirmed it.

        Returns:
            False if it has finished already.
        """
        return self.engine.cancel(self, msg)

    def cancel_now(self, msg: Any | None = None) -> bool:
        """Mark the future as cancelled, without asking anybody."""
        return super().cancel(msg)

    def __await__(self) -> Generator[Any, None, Any]:
        scope = current_scope.get()
        while scope is not None:
            if scope.future is self:
                raise CycleError(f"block '{self._spec.name}' ({self.uid}) waits for itself and would never end")
            scope = scope.parent
        return super().__await__()

    __iter__ = __await__

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} stays in the driver: pass it as an argument of a task, which then gets its value")

    def __str__(self) -> str:
        # A command with this text in it would run, and end well.
        if not self.done():
            raise ArgumentError(
                f"{self!r} has no value yet, and its text is of no use in a command or an argument: await it, or pass"
                " it as an argument, which then is its value; %r and !r show it as it is"
            )
        return repr(self)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        try:
            return f"<{type(self).__name__} {self.uid} '{self._spec.name}' {self.state}>"
        except AttributeError:
            return super().__repr__()


class ServiceFuture(TaskFuture):
    """Future of a service: resolved when the service is ready, while it goes on running."""

    __slots__ = ()

    def set_result(self, result: Any) -> None:
        """Say that the service is ready; may be called from any thread."""
        self._set(super().set_result, result)

    def set_exception(self, exception: type | BaseException) -> None:
        """Say that the service will not get ready; may be called from any thread."""
        self._set(super().set_exception, exception)

    def _set(self, method: Any, value: Any) -> None:
        if self.engine.thread_id == threading.get_ident():
            method(value)
        else:
            self.get_loop().call_soon_threadsafe(lambda: None if self.done() else method(value))
