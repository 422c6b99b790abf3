"""WorkflowEngine: calls of decorated functions become tasks and blocks, futures become dependencies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import signals
from .attempts import Attempts
from .closing import cancel_running, finish, report, resume_hint, unfinished
from .components import BLOCK, FUNCTION
from .decorators import Decorators
from .handing_over import HandingOver
from .inbox import Inbox
from .lanes import Lane
from .ledger import Ledger
from .logging import Profiler
from .opening import Opening, check_arguments, open_engine
from .outcome import failure
from .preparing import Preparing
from .states import FINAL, TaskState
from .task import REPORTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .futures import TaskFuture
    from .recording import Recording
    from .retries import RetryPolicy
    from .session import Session
    from .site_model import Site
    from .task import Task

__all__ = ["WorkflowEngine"]

log = logging.getLogger(__name__)

_DONE = TaskState.DONE

# Seconds that the bodies of blocks may take to clean up at a shutdown.
BODY_TIMEOUT = 5


class WorkflowEngine(Decorators):
    """Runs tasks and blocks on one or more backends; made by `create`.

    Attributes:
        uid: of the session.
        loop: on which it runs.
        backend: the default one.
        dry_run, implicit_data, work_dir: as given to `create`.
        session_dir: `<work_dir>/<uid>`; made when the first task runs.
        components: what is unfinished, and the last 1,000 that finished.
        task_states_map: the default backend's words for states.
        log, prof: for scripts that log through their engine.
    """

    def __init__(
        self,
        backends: Sequence[Any],
        *,
        dry_run: bool,
        implicit_data: bool,
        session: Session,
        retries: RetryPolicy,
        max_failures: int | None,
        on_exit: str,
        on_error: str,
        recording: Recording | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.uid = session.path.name
        self.session_dir = session.path
        self.work_dir = str(self.session_dir.parent)
        self.dry_run = dry_run
        self.implicit_data = implicit_data
        self.on_exit = on_exit
        self.on_error = on_error
        self.log = log
        self.prof = Profiler(log)
        self._ledger = Ledger(self._ready)
        self._preparing = Preparing(self)
        self._attempts = Attempts(self, self._ledger, self._preparing, retries, max_failures)
        self._handing_over = HandingOver(self._ledger, self._attempts, recording, lambda: self.closing)
        self._inbox = Inbox(self.loop, self._take, self._attempts.end_unknown)
        self.lanes = {backend.name: Lane(backend) for backend in backends}
        self._recording = recording
        past = None if recording is None else recording.past
        self.numbers = itertools.count(1 if past is None else past.last + 1)
        for lane in self.lanes.values():
            lane.attach(self.uid, session, self._inbox.post)
        self.default_lane = next(iter(self.lanes.values()))
        self.task_states_map = self.backend.get_task_states_map()
        self._chores: set[asyncio.Task[Any]] = set()
        self.closing = False
        self._closed: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._running = self.loop.create_task(self.run(), name=f"{self.uid} run")

    @classmethod
    def create(
        cls,
        backend: Any = None,
        dry_run: bool = False,
        implicit_data: bool = True,
        uid: str | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        site: str | os.PathLike[str] | Site | None = None,
        *,
        retries: RetryPolicy | int | None = None,
        max_failures: int | None = None,
        resume: str | os.PathLike[str] | None = None,
        on_exit: str = "cancel",
        on_error: str = "cancel",
        cache: str | os.PathLike[str] | None = None,
    ) -> Opening:
        """Open an engine: `await` it, or use it in `async with`.

        Args:
            backend: a backend or its name, or a list of them, of which the first is the default. None: the name in
                ASYNCFLOW_BACKEND, else that of the site, else local.
            dry_run: with no backend given, run nothing: every task is done at once.
            implicit_data: let all files of a task appear in the sandboxes of those that depend on it.
            uid: of the session; made up where None.
            work_dir: where the session's directory is made; the current directory where None.
            site: name of a machine's profile, path of its YAML file, or a loaded one; it holds for backends given by
                name. None: that of ASYNCFLOW_SITE, else of `./asyncflow.yaml`, where there is one and it fits them.
            retries: for tasks that do not say it themselves: a policy, or how often to try again whatever they failed
                of. None: twice after a failure of the machine, never after one of the task itself.
            max_failures: number of failed attempts at which the engine stops submitting; None: it never does.
            resume: an earlier session, by its directory or by its uid in `work_dir`: what it has done is not done
                again. None: the one in ASYNCFLOW_RESUME, if that is set.
            on_exit: what a shutdown does with batch jobs: "cancel", or "detach", which leaves them to a resume.
            on_error: what becomes of unfinished tasks when the body of `async with` raises an exception: "cancel", or
                "finish", which lets all that was called run to its end first.
            cache: a directory in which sessions leave results to each other; None: each runs all of its tasks.

        Raises:
            ArgumentError, ConfigurationError, SessionError: when it is awaited.
        """
        settings = {name: value for name, value in locals().items() if name not in ("cls", "backend")}
        return Opening(open_engine(cls, backend, settings))

    def __reduce__(self) -> Any:
        raise TypeError("an engine and the tasks that it makes stay in the driver: pass results as arguments instead")

    async def __aenter__(self) -> WorkflowEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._error = None if isinstance(error, GeneratorExit) else error
        try:
            if isinstance(error, Exception) and self.on_error == "finish" and not self.closing:
                await finish(self._ledger.live, error)
        finally:
            await self.shutdown()

    @property
    def backend(self) -> Any:
        """The default backend."""
        return self.default_lane.backend

    @property
    def components(self) -> Any:
        """A mapping uid -> dict of `type`, `future`, `description`."""
        return self._ledger.components

    @property
    def dependencies(self) -> dict[str, Sequence[dict[str, str]]]:
        """Unfinished components: uid -> uid and name of each dependency."""
        return {uid: future.description["metadata"]["dependencies"] for uid, future in self._ledger.live.items()}

    @property
    def running(self) -> set[str]:
        """Uids of the components that run."""
        return {uid for uid, future in self._ledger.live.items() if future.state == "RUNNING"}

    @property
    def resolved(self) -> set[str]:
        """Uids of the components that finished, as far as they are remembered."""
        return set(self._ledger.components.recent())

    def admit(self, future: TaskFuture, dependencies: Collection[TaskFuture]) -> None:
        """Take a component that a call has made; from any thread."""
        if threading.get_ident() == self.thread_id:
            self._ledger.admit(future, dependencies)
        else:
            self.loop.call_soon_threadsafe(self._ledger.admit, future, dependencies)

    def waiting_for(self, future: TaskFuture) -> Iterator[str]:
        """Walk over the uids of all that can run only after a component has ended."""
        return self._ledger.graph.descendants(future.uid)

    def _ready(self, future: TaskFuture) -> None:
        spec = future._spec
        if future._found is not None:
            if spec.kind != BLOCK and spec.lane.recorded and self._recording is not None:
                self._recording.recognition.look_at(future)
            if not self._preparing.fill_in(future):
                return
        if spec.kind == FUNCTION:
            spec.lane.add(future.task)
        else:
            self._preparing.start(future)

    async def run(self) -> None:
        """Submit what gets ready until the engine is shut down; started by `create`."""
        lanes = [
            self.loop.create_task(lane.run(self._handing_over.submit), name=f"{self.uid} {lane.name}")
            for lane in self.lanes.values()
        ]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            if not self.closing:
                hint = resume_hint(self._recording)
                log.warning("the loop ends before engine %s was shut down; ending its tasks%s", self.uid, hint)
                self.closing = True
                self.abandon()
                signals.forget(self)

    async def submit(self, objects: Sequence[Task]) -> None:
        """Submit tasks and blocks that are ready.

        Args:
            objects: descriptions of components of this engine.
        """
        futures = [self._ledger.live[item["uid"]] for item in objects if item["uid"] in self._ledger.live]
        batches: dict[Lane, list[Task]] = {}
        for future in futures:
            if future._spec.kind == BLOCK:
                self._preparing.start(future)
            else:
                batches.setdefault(future._spec.lane, []).append(future.task)
        await asyncio.gather(*(self._handing_over.submit(lane, batch) for lane, batch in batches.items()))

    async def execute_block(self, block_fut: TaskFuture, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Run a block's body and settle its future with what comes of it."""
        await self._preparing.run_block(block_fut, func, args, kwargs)

    def task_callbacks(self, task: Any, state: str, service_callback: Callable[..., Any] | None = None) -> None:
        """Take a task's new state; from any thread.

        Args:
            task: the dict of the task, or an object with `as_dict()`.
            state: in the words of the task's backend.
            service_callback: called on the loop with future, task and state; it resolves a service's future.
        """
        self._inbox.post(task, state, service_callback)

    def _take(self, reported: Any, state: str, service_callback: Callable[..., Any] | None) -> None:
        task = reported if isinstance(reported, dict) else reported.as_dict()
        future = self._ledger.live.get(task["uid"])
        if future is None:
            log.debug("%s reported '%s' after it was settled", task["uid"], state)
            return
        lane = future._spec.lane
        meaning = lane.meaning.get(state)
        if task is not future.task:
            own: dict[str, Any] = future.task  # type: ignore[assignment]
            own.update({key: value for key, value in task.items() if key in REPORTED})
        if lane.recorded and self._recording is not None and (meaning in FINAL or lane.outlives_driver):
            self._recording.note(future.task, meaning)
        if service_callback is not None:
            service_callback(future, reported, state)
        if future._cancelling and meaning in FINAL:
            # Whoever was told that it will be cancelled counts on it, even where its end came first.
            future.task["state"] = meaning
            self._ledger.cancel(future)
        elif meaning is _DONE:
            future.task["state"] = _DONE
            self._ledger.succeed(future, task.get(future._spec.result_key))
        elif meaning is TaskState.RUNNING:
            future.state = "RUNNING"
            future.task["state"] = TaskState.RUNNING
        elif meaning is TaskState.FAILED:
            self._attempts.failed(future)
        elif meaning is TaskState.CANCELED and not self._attempts.was_withdrawn(future):
            self.handle_task_cancellation(task, future)
        elif meaning is TaskState.SUBMITTED:
            future.state = "PENDING"
            future.task["state"] = TaskState.SUBMITTED

    def handle_task_success(self, task: Any, task_fut: TaskFuture) -> None:
        """Resolve the future of a task that is done."""
        task_fut.description["state"] = _DONE
        self._ledger.succeed(task_fut, task.get(task_fut._spec.result_key))

    def handle_task_failure(
        self, task: Any, task_fut: TaskFuture, override_error_message: BaseException | str | None = None
    ) -> None:
        """Fail the future of a task, and what depends on it.

        Args:
            task: its dict, as the backend left it.
            task_fut: its future.
            override_error_message: stands for the task's own error.
        """
        task_fut.description["state"] = TaskState.FAILED
        self._ledger.fail(task_fut, failure(task, override_error_message))

    def handle_task_cancellation(self, task: Any, task_fut: TaskFuture) -> None:
        """Cancel the future of a task, and what depends on it."""
        task_fut.description["state"] = TaskState.CANCELED
        self._ledger.cancel(task_fut)

    def cancel(self, future: TaskFuture, msg: Any | None = None) -> bool:
        """Cancel a component; `TaskFuture.cancel` comes here."""
        if future.uid not in self._ledger.live:
            return False
        if threading.get_ident() != self.thread_id:
            self.loop.call_soon_threadsafe(self.cancel, future, msg)
            return True
        if future._spec.kind == BLOCK or not future._submitted:
            members = self._preparing.stop(future)
            self._ledger.cancel(future, msg)
            for member in members:
                member.cancel(msg)
        elif not future._cancelling and not self.closing:
            future._cancelling = future.description["is_service"] is False
            self.chore(self._handing_over.cancel(future))
        return True

    def chore(self, work: Any) -> None:
        """Do something beside; the engine waits for it when it is shut down."""
        chore = self.loop.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def abandon(self) -> None:
        """End all tasks without waiting: the loop or the process is about to end."""
        for lane in self.lanes.values():
            if self.on_exit != "detach" or not lane.outlives_driver:
                lane.abandon()
        if self._recording is not None:
            self._recording.abandon()

    async def shutdown(self, skip_execution_backend: bool = False) -> None:
        """End all that runs, then the backends; unfinished futures are cancelled. Safe to call twice.

        Args:
            skip_execution_backend: cancel the tasks, but leave the backends open for another engine.
        """
        if self.loop.is_closed():
            self.closing = True
            self.abandon()
            return
        if self._closed is None:
            check_arguments({"skip_execution_backend": (skip_execution_backend, bool)})
            self.closing = True
            self._closed = self.loop.create_task(self._stop(skip_execution_backend), name=f"{self.uid} shutdown")
        await asyncio.shield(self._closed)

    async def _stop(self, skip_backends: bool) -> None:
        bodies = self._preparing.cancel_all()
        self._attempts.close()
        # Futures are settled last, all in one turn: a script that wakes up then finds nothing running behind it.
        self._inbox.hold()
        try:
            detach = self.on_exit == "detach"
            if self._recording is not None and not detach:
                await self._recording.end_forgotten(self.lanes)
            if skip_backends:
                self._inbox.empty()
                await cancel_running(self._ledger.live)
            else:
                await asyncio.gather(*(lane.close(detach) for lane in self.lanes.values()))
            self._running.cancel()
            await asyncio.gather(self._running, *self._chores, return_exceptions=True)
        finally:
            reason, lost = signals.received() or self._error, unfinished(self._ledger.live)
            signals.stopped(self)
            self._inbox.empty()
            report(self.uid, lost, reason, self._recording)
            if self._recording is not None:
                await self._recording.close(self.on_exit == "detach")
            for lane in self.lanes.values():
                lane.detach()
            for future in list(self._ledger.live.values()):
                self.handle_task_cancellation(future.description, future)
        if bodies:
            _, stubborn = await asyncio.wait(bodies, timeout=BODY_TIMEOUT)
            if stubborn:
                names = ", ".join(sorted(body.get_name() for body in stubborn))
                log.warning("bodies that do not end although they were cancelled: %s", names)
