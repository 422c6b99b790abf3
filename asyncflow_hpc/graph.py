"""Which component waits for which: pure bookkeeping, without asyncio and without I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterator

__all__ = ["DependencyGraph"]


class DependencyGraph:
    """Edges between unfinished components, each handled once when it is made and once when it is cut.

    A component without unfinished dependencies and without dependents takes no space here.
    """

    __slots__ = ("_dependents", "_waiting")

    def __init__(self) -> None:
        # A set of one would take four times the space.
        self._waiting: dict[str, set[str] | tuple[str, ...]] = {}
        self._dependents: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, uid: str, dependencies: Collection[str]) -> None:
        """Let a component wait for others.

        Args:
            uid: the component; it was not added before.
            dependencies: unfinished components, each once.
        """
        self._waiting[uid] = set(dependencies) if len(dependencies) > 1 else tuple(dependencies)
        for dependency in dependencies:
            self._dependents.setdefault(dependency, {})[uid] = None

    def done(self, uid: str) -> list[str]:
        """Cut the edges from a component that succeeded.

        Returns:
            The components that wait for nothing any more, in the order in which they were added.
        """
        ready = []
        for dependent in self._dependents.pop(uid, ()):
            waiting = self._waiting.get(dependent)
            if waiting is None:
                continue
            if isinstance(waiting, set) and len(waiting) > 1:
                waiting.discard(uid)
            else:
                del self._waiting[dependent]
                ready.append(dependent)
        return ready

    def drop(self, uid: str) -> list[str]:
        """Take out a component that failed or was cancelled.

        Returns:
            Its direct dependents that still waited, which can never run; they stay until dropped themselves.
        """
        for dependency in self._waiting.pop(uid, ()):
            dependents = self._dependents.get(dependency)
            if dependents is not None:
                dependents.pop(uid, None)
                if not dependents:
                    del self._dependents[dependency]
        return [dependent for dependent in self._dependents.pop(uid, ()) if dependent in self._waiting]

    def has_dependents(self, uid: str) -> bool:
        """Tell whether some unfinished component waits for this one."""
        return uid in self._dependents

    def waiting_for(self, uid: str) -> frozenset[str]:
        """Name the unfinished components that this one waits for directly."""
        return frozenset(self._waiting.get(uid, ()))

    def descendants(self, uid: str) -> Iterator[str]:
        """Walk over all that can run only after this component has ended, nearest first, each once."""
        seen: set[str] = set()
        front = list(self._dependents.get(uid, ()))
        while front:
            found: list[str] = []
            for dependent in front:
                if dependent not in seen:
                    seen.add(dependent)
                    yield dependent
                    found.extend(self._dependents.get(dependent, ()))
            front = found
