"""The engine's side of the journal: what is recorded of its tasks, and which of them an earlier driver has run."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cache import Cache, entry_of, lay_out
from .components import FUNCTION
from .earlier import Earlier, Past, past_of
from .errors import SessionError
from .events import SCHEMA, SessionClosed, SessionOpened, TaskEnded, TaskReady, TaskRunning, TaskSubmitted
from .imported import imported_files
from .journal import Journal, journal_path, read_events
from .lease import LEASE, Lease, this_host
from .masking import masked
from .outcome import text_of
from .recognition import KEYS, Recognition
from .session import Session, make_session
from .states import FINAL, TaskState

if TYPE_CHECKING:
    from .futures import TaskFuture
    from .lanes import Lane
    from .task import Task

__all__ = ["Recording"]

log = logging.getLogger(__name__)

# Characters of an error that the journal keeps.
_TEXT = 500


class Recording:
    """Records one driver's part of a session.

    Args:
        session: whose directory is made when the first task runs.
        past: what earlier drivers have recorded, if it is resumed.
        lease: of a session that is resumed; another one gets it with its directory.
    """

    def __init__(self, session: Session, past: Past | None = None, lease: Lease | None = None) -> None:
        self.session = session
        self.past = past
        self._lease = lease
        self._journal: Journal | None = None
        self._opening = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None
        self.recognition = Recognition()
        self.cache: Cache | None = None
        self._entering: set[asyncio.Future[None]] = set()

    @classmethod
    async def resume(cls, path: Path) -> Recording:
        """Take over a session.

        Raises:
            JournalError: it has no journal that can be read.
            SessionError: another driver has it.
        """
        recording = await asyncio.get_running_loop().run_in_executor(None, cls._resume, path)
        # Its backends may take longer to start than a lease lasts.
        recording._keep()
        return recording

    @classmethod
    def _resume(cls, path: Path) -> Recording:
        # Without one there is nothing to resume, and the lease would make an empty one.
        next(read_events(path), None)
        make_session(path, resumed=True)
        lease = Lease(journal_path(path))
        try:
            past = past_of(read_events(path))
            if past is not None:
                _refuse_other_keys(past, path)
        except BaseException:
            lease.close()
            raise
        # A driver that died before its first line had begun nothing.
        return cls(Session(path), None, lease) if past is None else cls(Session(path, past.opened.secret), past, lease)

    async def open(self) -> None:
        """Begin to write; what was recorded so far is written first.

        Raises:
            SessionError: its directory or its journal cannot be used.
        """
        async with self._opening:
            if self._journal is not None:
                return
            loop = asyncio.get_running_loop()
            if self._lease is None:
                self._lease = await loop.run_in_executor(None, self._begin)
            modules = await loop.run_in_executor(None, imported_files)
            self._journal = Journal(journal_path(self.session.path), self._lease.still_ours)
            self._journal.append(self._opened(modules))
            self._warn_of_changes(modules)
            self._keep()

    def _begin(self) -> Lease:
        make_session(self.session.path)
        return Lease(journal_path(self.session.path))

    def _warn_of_changes(self, modules: Mapping[str, str]) -> None:
        changed = [] if self.past is None else self.past.changed(modules)
        if changed:
            log.warning(
                "imported modules have changed since tasks of session %s ran: %s; results of finished tasks are reused"
                " nevertheless, as the code of imported modules is not part of a task's key; to run all tasks with the"
                " new code, start a new session",
                self.session.path,
                ", ".join(changed),
            )

    def _opened(self, modules: dict[str, str]) -> SessionOpened:
        from . import __version__

        return SessionOpened(
            time=time.time(),
            schema=SCHEMA,
            uid=self.session.path.name,
            secret=self.session.secret,
            host=this_host(),
            pid=os.getpid(),
            script=tuple(masked(str(word)) for word in sys.argv),
            version=__version__,
            python=platform.python_version(),
            resumed=self.past is not None,
            keys=KEYS,
            modules=modules,
        )

    def _keep(self) -> None:
        if self._renewing is None and self._lease is not None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew(), name="lease of the session")

    async def _renew(self) -> None:
        assert self._lease is not None
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LEASE / 3)
            if not await loop.run_in_executor(None, self._lease.still_ours):
                log.error("another driver has taken over session %s", self.session.path)
                return

    async def end_forgotten(self, lanes: Mapping[str, Lane]) -> None:
        """Let backends take over what may still run of an earlier driver, and what nobody has called since."""
        for lane in lanes.values():
            left = [] if self.past is None else [item for item in self.past.left() if item.backend == lane.name]
            if left and lane.recorded:
                log.warning("not called any more, so ended: %s", ", ".join(item.uid for item in left))
                await lane.backend.end_forgotten([earlier_task(item) for item in left])

    @property
    def resumable(self) -> Path | None:
        """The directory of the session; None if nothing has been recorded in it yet."""
        return self.session.path if self._journal is not None or self.past is not None else None

    async def close(self, detached: bool = False) -> None:
        """Record the end, and let go of the session."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await asyncio.gather(*self._entering, return_exceptions=True)
        if self._journal is not None:
            self._journal.append(SessionClosed(time=time.time(), detached=detached))
        self.abandon()

    def abandon(self) -> None:
        """Let go of the session, whose end nobody has awaited."""
        self.recognition.close()
        journal, self._journal = self._journal, None
        lease, self._lease = self._lease, None
        if journal is not None:
            journal.close()
        if lease is not None:
            lease.close()

    def identify(self, future: TaskFuture) -> Earlier | None:
        """Give a task that is about to be submitted its key.

        Returns:
            The task of an earlier driver that it is.
        """
        key = self.recognition.identify(future)
        if self.past is None:
            return None
        task, spec = future.task, future._spec
        earlier = self.past.claim(key) if key else None
        if earlier is None:
            self._tell_new(future)
            return None
        task["earlier"] = earlier
        task["attempt"] = earlier.attempt
        if earlier.state in (TaskState.FAILED, TaskState.CANCELED):
            log.info("%s '%s' is run again: it was %s before", earlier.uid, spec.name, earlier.state)
            _start_over(task)
        elif earlier.cached:
            # Nothing of it is in this session, so the cache is asked again.
            log.info("%s '%s' had the cached result of %s", earlier.uid, spec.name, earlier.cached)
            _start_over(task)
        return earlier

    def _tell_new(self, future: TaskFuture) -> None:
        assert self.past is not None
        why = "it cannot be recognized"
        if future.task["key"]:
            why = self.past.difference(future._spec.name, future.task["parts"])
        log.info("%s '%s' is run: %s", future.uid, future._spec.name, why)

    @staticmethod
    def elsewhere(lane: Lane, earlier: Earlier) -> SessionError | None:
        """Say why a task of an earlier driver cannot go to a backend now: another one may still run it."""
        if earlier.backend == lane.name or not earlier.unfinished:
            return None
        return SessionError(
            f"{earlier.uid} '{earlier.name}' may still run on backend '{earlier.backend}', and is called for"
            f" '{lane.name}' now: resume the session with the backends that it had"
        )

    async def admit(self, lane: Lane, tasks: Sequence[Task]) -> list[Task]:
        """Record that tasks are about to be submitted, and let the backend take over what an earlier driver had.

        Returns:
            Those that are to be submitted.

        Raises:
            SessionError: they cannot be recorded, so they must not be submitted.
        """
        if self._journal is None:
            await self.open()
            assert self._journal is not None
        known = [task for task in tasks if task.get("earlier") is not None]
        fresh = [task for task in tasks if task.get("earlier") is None] if known else list(tasks)
        if known:
            fresh += await self._reattach(lane, known)
        for task in fresh:
            self._journal.append(_ready(task, lane.name))
        if lane.outlives_driver and fresh:
            await self._journal.commit()
        else:
            # What ends with this machine needs to outlive this process only.
            self._journal.flush()
            if self._journal.failure is not None:
                raise self._journal.failure
        return fresh

    async def answer(self, lane: Lane, tasks: Sequence[Task]) -> list[Task]:
        """Take from the cache what it has, and record it as done.

        Returns:
            The tasks that are done by that.

        Raises:
            SessionError: it cannot be recorded.
        """
        asked = [task for task in tasks if task.get("earlier") is None and not task.get("attempts")]
        if self.cache is None or not asked:
            return []
        await self.open()
        assert self._journal is not None
        loop = asyncio.get_running_loop()
        find = self.cache.find
        found = await loop.run_in_executor(None, lambda: [(task, find(task)) for task in asked])
        hits = [(task, entry) for task, entry in found if entry is not None]
        # Known to a later driver before their sandboxes are there, which else would be in the way of others.
        for task, entry in hits:
            self._journal.append(_ready(task, lane.name, entry.origin))
        self._journal.flush()
        if self._journal.failure is not None:
            raise self._journal.failure
        path = self.session.path
        laid = await loop.run_in_executor(None, lambda: [lay_out(entry, task, path) for task, entry in hits])
        for (task, entry), there in zip(hits, laid, strict=True):
            if there:
                log.info("%s '%s' has the cached result of %s", task["uid"], task["name"], entry.origin)
                self._journal.append(_ended(task, TaskState.DONE))
            else:
                _start_over(task)
        self._journal.flush()
        return [task for (task, _), there in zip(hits, laid, strict=True) if there]

    def _enter(self, task: Task, cache: Cache) -> None:
        """Enter a result in the cache; the entry is made at once, as its files may be gone in the next moment."""
        try:
            entry = entry_of(task, self.session.path)
        except Exception as error:
            log.info("the result of %s is not cached: %s", task["uid"], error)
            return
        if entry is not None:
            writing = asyncio.get_running_loop().run_in_executor(None, cache.write, entry)
            self._entering.add(writing)
            writing.add_done_callback(self._entering.discard)

    async def _reattach(self, lane: Lane, tasks: list[Task]) -> list[Task]:
        taken = await lane.backend.reattach(tasks)
        left = [task for task in tasks if task["uid"] not in taken]
        for task in left:
            log.info("%s '%s' is run again: what it left cannot be used", task["uid"], task["name"])
            _start_over(task)
        return left

    def note(self, task: Task, state: TaskState | None) -> None:
        """Record what a backend has reported; None is for what says nothing."""
        if self._journal is None:
            return
        uid, attempt = task["uid"], task.get("attempt", 0)
        if state is None:
            return
        if state in FINAL:
            if self.cache is not None and state is TaskState.DONE:
                self._enter(task, self.cache)
            known = task.get("earlier")
            if known is None or known.ended is None:
                self._journal.append(_ended(task, state))
        else:
            event = TaskRunning if state is TaskState.RUNNING else TaskSubmitted
            self._journal.append(event(time=time.time(), uid=uid, attempt=attempt, native_id=task.get("native_id")))


def _refuse_other_keys(past: Past, path: Path) -> None:
    others = past.keys - {KEYS}
    if others and (past.tasks or past.unknown):
        raise SessionError(
            f"session {path} was recorded by asyncflow_hpc {past.opened.version or '(no version)'}, which made the keys"
            f" of tasks in another way (version {min(others)}, and not {KEYS}), so that its tasks cannot be recognized:"
            " resume it with the version that recorded it, or start a new session"
        )


def _start_over(task: Task) -> None:
    task["earlier"] = None
    task["attempt"] = task.get("attempt", 0) + 1


def _ready(task: Task, backend: str, cached: str = "") -> TaskReady:
    return TaskReady(
        time=time.time(),
        uid=task["uid"],
        name=task["name"],
        kind=FUNCTION if task.get("function") is not None else "prompt" if task.get("prompt") else "executable",
        backend=backend,
        attempt=task.get("attempt", 0),
        key=task.get("key", ""),
        parts=task.pop("parts", ()),
        dependencies=tuple([item["uid"] for item in task["metadata"]["dependencies"]]),
        workflow=task.get("workflow_id"),
        service=bool(task.get("is_service")),
        cached=cached,
    )


def _ended(task: Task, state: TaskState) -> TaskEnded:
    error = task.get("exception")
    cause = task.get("cause")
    return TaskEnded(
        time=time.time(),
        uid=task["uid"],
        state=str(state),
        attempt=task.get("attempt", 0),
        cause=None if cause is None else str(cause),
        exit_code=task.get("exit_code"),
        signal=task.get("signal"),
        started=task.get("started"),
        ended=task.get("ended"),
        native_id=task.get("native_id"),
        text=text_of(error)[:_TEXT],
        kept=task.pop("kept", None),
        max_rss=task.get("max_rss"),
        cpu_time=task.get("cpu_time"),
    )


def earlier_task(earlier: Earlier) -> Task:
    """Make the dict of a task that nobody has called any more, so that its backend can end it."""
    return {
        "uid": earlier.uid,
        "name": earlier.name,
        "attempt": earlier.attempt,
        "earlier": earlier,
        "function": None,
        "command": ["false"],
        "args": (),
        "kwargs": {},
        "metadata": {"dependencies": (), "input_files": (), "output_files": ()},
    }
