"""What an earlier driver of a session has left in its journal, by the keys of the tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .errors import JournalError
from .events import Event, SessionOpened, TaskEnded, TaskReady, TaskRunning, TaskSubmitted
from .recognition import PARTS
from .states import TaskState

__all__ = ["Earlier", "Past", "past_of"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Earlier:
    """One task as an earlier driver knew it.

    Attributes:
        uid, name, backend, key, parts: as in its `TaskReady`.
        attempt: the last one.
        state: of that attempt: PENDING where nobody knows whether it was submitted.
        native_id: what the scheduler called it.
        ended: its last event, if it has ended.
        cached: whose result it got from a cache, so that nothing was run; else "".
    """

    uid: str
    name: str
    backend: str
    key: str
    parts: tuple[str, ...]
    attempt: int = 0
    state: TaskState = TaskState.PENDING
    native_id: str | None = None
    ended: TaskEnded | None = None
    cached: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether it may still be in a queue, or run."""
        return self.ended is None and not self.cached


@dataclass(slots=True)
class Past:
    """All that is known of a session's past.

    Attributes:
        opened: its first line.
        drivers: how many have driven it.
        tasks: by key; those without one are in `unknown`.
        last: the highest number of a task or block.
        keys: versions of the way in which its drivers have made keys.
        modules: names of the modules that they had imported, with the digests of their files.
    """

    opened: SessionOpened
    drivers: int = 1
    tasks: dict[str, Earlier] = field(default_factory=dict)
    unknown: dict[str, Earlier] = field(default_factory=dict)
    last: int = 0
    keys: set[int] = field(default_factory=set)
    modules: dict[str, set[str]] = field(default_factory=dict)
    _names: dict[str, list[Earlier]] | None = None

    def begun(self, opened: SessionOpened) -> None:
        """Take note of a driver."""
        self.keys.add(opened.keys)
        for name, found in opened.modules.items():
            self.modules.setdefault(name, set()).add(found)

    def changed(self, modules: Mapping[str, str]) -> list[str]:
        """Return the names of modules that were not the same for all drivers, this one included.

        Args:
            modules: names and digests of those of this driver.
        """
        return sorted(name for name, found in modules.items() if not self.modules.get(name, {found}) <= {found})

    def claim(self, key: str) -> Earlier | None:
        """Take out the task with a key; it is handed out once."""
        return self.tasks.pop(key, None)

    def left(self) -> Iterator[Earlier]:
        """Walk over the tasks that nobody has claimed and that may still run."""
        for earlier in [*self.tasks.values(), *self.unknown.values()]:
            if earlier.unfinished:
                yield earlier

    def difference(self, name: str, parts: tuple[str, ...]) -> str:
        """Say in which way a call differs from the nearest one of the same function that nobody has claimed."""
        if self._names is None:
            self._names = {}
            for earlier in self.tasks.values():
                self._names.setdefault(earlier.name, []).append(earlier)
        best: tuple[int, Earlier] | None = None
        for earlier in self._names.get(name, [])[:_MOST]:
            same = sum(a == b for a, b in zip(parts, earlier.parts, strict=False))
            if earlier.key in self.tasks and (best is None or same > best[0]):
                best = same, earlier
        if best is None:
            return "it was not called in this way before"
        old = best[1]
        changed = [word for word, a, b in zip(PARTS, parts, old.parts, strict=False) if a != b]
        return f"its {' and '.join(changed) or 'arguments'} changed since {old.uid}"


# Calls of one function among which the nearest is looked for.
_MOST = 1000


def past_of(events: Iterable[Event]) -> Past | None:
    """Make the past of a session of its events; None where there are none.

    Raises:
        JournalError: they do not begin as a session does.
    """
    events = iter(events)
    opened = next(events, None)
    if opened is None:
        return None
    if not isinstance(opened, SessionOpened):
        raise JournalError(
            "the journal does not begin with the line of a session: it is none, or its first line is lost"
        )
    past = Past(opened)
    past.begun(opened)
    found: dict[str, Earlier] = {}
    for event in events:
        if isinstance(event, TaskReady):
            # A further attempt of the same driver does not say them again.
            parts = event.parts or (found[event.uid].parts if event.uid in found else ())
            found[event.uid] = Earlier(
                event.uid, event.name, event.backend, event.key, parts, event.attempt, cached=event.cached
            )
        elif isinstance(event, SessionOpened):
            past.drivers += 1
            past.begun(event)
        elif isinstance(event, (TaskSubmitted, TaskRunning, TaskEnded)):
            _apply(event, found)
    for uid, earlier in found.items():
        past.last = max(past.last, int(uid.rpartition(".")[2]))
        if earlier.key:
            past.tasks[earlier.key] = earlier
        else:
            past.unknown[uid] = earlier
    return past


def _apply(event: TaskSubmitted | TaskRunning | TaskEnded, found: dict[str, Earlier]) -> None:
    earlier = found.get(event.uid)
    if earlier is None or event.attempt < earlier.attempt:
        log.debug("an event of %s, attempt %d, comes without a beginning", event.uid, event.attempt)
        return
    if event.attempt > earlier.attempt:
        # Its backend has given it to another pilot, say, by itself.
        earlier.attempt, earlier.native_id, earlier.ended = event.attempt, None, None
    earlier.native_id = event.native_id or earlier.native_id
    if isinstance(event, TaskEnded):
        earlier.state, earlier.ended = TaskState(event.state), event
    elif isinstance(event, TaskRunning):
        earlier.state = TaskState.RUNNING
    else:
        earlier.state = TaskState.SUBMITTED
