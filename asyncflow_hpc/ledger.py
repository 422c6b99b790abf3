"""The unfinished components of an engine, and what the end of one does to the others."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

from .components import Components
from .errors import DependencyFailureError
from .futures import ServiceFuture, TaskFuture
from .graph import DependencyGraph
from .outcome import dependency_failure

__all__ = ["Ledger"]

log = logging.getLogger(__name__)


class Ledger:
    """Keeps futures until they are settled, and settles those that depend on them.

    All of it happens on the engine's loop.

    Args:
        on_ready: called with a component that waits for nothing any more.
    """

    def __init__(self, on_ready: Callable[[TaskFuture], None]) -> None:
        self.live: dict[str, TaskFuture] = {}
        self.graph = DependencyGraph()
        self.components = Components(self.live)
        self._on_ready = on_ready

    def admit(self, future: TaskFuture, dependencies: Collection[TaskFuture]) -> None:
        """Take a new component; it gets ready when its dependencies are done."""
        self.live[future.uid] = future
        if future._spec.is_service:
            future.add_done_callback(self._service_ready)
        if dependencies:
            self._let_wait(future, dependencies)
        else:
            self._on_ready(future)

    def rename(self, future: TaskFuture, uid: str) -> None:
        """Give a component that waits for nothing the uid that it had in an earlier run."""
        del self.live[future.uid]
        future.uid = future.description["uid"] = uid
        if future._brief is not None:
            future._brief["uid"] = uid
        self.live[uid] = future

    def _let_wait(self, future: TaskFuture, dependencies: Collection[TaskFuture]) -> None:
        waits = []
        for dependency in dependencies:
            if not dependency.done():
                waits.append(self._key(future, dependency))
            elif dependency.cancelled():
                self.cancel(future)
                return
            elif (error := dependency.exception()) is not None:
                self.fail(future, self._dependency_failure(future, error))
                return
        if waits:
            self.graph.add(future._node, waits)
        else:
            self._on_ready(future)

    def _key(self, future: TaskFuture, dependency: TaskFuture) -> str:
        if dependency.engine is future.engine:
            return dependency._node
        key = f"{dependency.engine.uid}/{dependency._node}"
        if not self.graph.has_dependents(key):
            dependency.add_done_callback(partial(self._settled_elsewhere, key))
        return key

    def _settled_elsewhere(self, key: str, dependency: Any) -> None:
        if dependency.cancelled():
            for future in self._still_live(self.graph.drop(key)):
                self.cancel(future)
        elif (error := dependency.exception()) is not None:
            for future in self._still_live(self.graph.drop(key)):
                self.fail(future, self._dependency_failure(future, error))
        else:
            self._release(key)

    def succeed(self, future: TaskFuture, result: Any) -> None:
        """Set a result, and make ready what waited for it alone."""
        self._retire(future, "DONE")
        if not future.done():
            future.set_result(result)
        self._release(future._node)

    def _service_ready(self, future: Any) -> None:
        # Its dependents may run, while it goes on; where it will never be ready, they cannot.
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._release(future._node)
            return
        for dependent in self._still_live(self.graph.drop(future._node)):
            self.fail(dependent, self._dependency_failure(dependent, error))

    def _release(self, key: str) -> None:
        if not self.graph.has_dependents(key):
            return
        for future in self._still_live(self.graph.done(key)):
            self._on_ready(future)

    def _still_live(self, uids: Iterable[str]) -> Iterator[TaskFuture]:
        # One that was settled by hand while it waited is gone already.
        for uid in uids:
            future = self.live.get(uid)
            if future is not None:
                yield future

    def fail(self, future: TaskFuture, error: BaseException) -> None:
        """Set an exception, and fail all that depends on it, however far away."""
        failing = deque([(future, error)])
        failed: list[tuple[TaskFuture, bool]] = []
        watched = False
        while failing:
            future, error = failing.popleft()
            self._retire(future, "FAILED")
            dependents = self.graph.drop(future._node)
            if not future.done():
                failed.append((future, bool(dependents)))
                watched = watched or bool(future._callbacks)
                future.set_exception(error)
            elif isinstance(future, ServiceFuture):
                log.warning("service %s '%s' failed after it was ready: %s", future.uid, _name(future), error)
            for dependent in self._still_live(dependents):
                failing.append((dependent, self._dependency_failure(dependent, error)))
        for future, has_dependents in failed:
            # asyncio complains of errors that nobody looks at. One who waits for any of these is told the root cause;
            # where nobody does, only the last in line complains.
            if watched or has_dependents:
                future.exception()

    def cancel(self, future: TaskFuture, msg: Any | None = None) -> None:
        """Mark a component as cancelled, and all that depends on it."""
        cancelling = deque([future])
        while cancelling:
            future = cancelling.popleft()
            self._retire(future, "CANCELLED")
            future.cancel_now(msg)
            cancelling.extend(self._still_live(self.graph.drop(future._node)))

    def _dependency_failure(self, future: TaskFuture, error: BaseException) -> DependencyFailureError:
        dependencies = future._found.futures if future._found is not None else ()
        failed = [
            _name(other)
            for other in dependencies
            if other.done() and not other.cancelled() and other.exception() is not None
        ]
        return dependency_failure(_name(future), failed, error)

    def _retire(self, future: TaskFuture, state: str) -> None:
        future.state = state
        self.live.pop(future.uid, None)
        self.components.finished(future, state)
        future._found = None
        if future._scope is not None:
            future._scope.members.discard(future)


def _name(future: TaskFuture) -> str:
    return future._spec.name
