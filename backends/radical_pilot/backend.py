"""RadicalExecutionBackend: tasks in pilots of RADICAL-Pilot, judged by evidence."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.backend import BackendCapabilities
from asyncflow_hpc.errors import ConfigurationError, SubmitError, UnsupportedTaskError
from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task, TaskDescription, describe

from ..base import SandboxBackend
from ..evidence import spool_of
from ..forked_call import REFUSED
from ..sandbox import make_session, sandbox_of
from ..services import Services
from ..site import SiteRules, site_for
from ..spool import SpoolWatcher
from ..staging.downloads import remote
from ..staging.fetching import Fetching
from ..staging.plan import make_plan
from .dispatching import TaskEvent
from .ending import Ending
from .environment import refuse_environment
from .jobs import Phase, PilotJob
from .outlived import end_outlived, forget_note, leave_note
from .placing import Placing
from .pool import OnPilotEnd, PilotPool
from .site import resources_of
from .taking_over import TakingOver
from .translation import NATIVE_KEYS, native_options, shape_of

if TYPE_CHECKING:
    from asyncflow_hpc.site_model import Site

__all__ = ["RadicalExecutionBackend"]

log = logging.getLogger(__name__)

# Seconds that the last ends may take.
_ENDING = 40.0


class RadicalExecutionBackend(SandboxBackend):
    """Runs tasks in pilots of RADICAL-Pilot.

    Args:
        resources: what a pilot is, in the words of RADICAL-Pilot's PilotDescription (resource, nodes, cores, gpus,
            runtime in minutes, queue, project ...), and a few of ours; all cores of this machine where None.
        raptor_config: lets workers of RAPTOR run the functions that they can run: how many masters, workers of each
            of them, and cores_per_worker; all functions run as executables where None. See docs/radical_pilot.md.
        pilots: how many at once.
        site: name of a machine's profile, path of its YAML file, or a loaded one: it says what a pilot asks for where
            `resources` does not, and what is set up before each task.
        name: under which an engine knows it.
        on_pilot_end: "fail" the tasks of a pilot that ended, or "resubmit" them to another pilot.
        max_pilots: so many are started in all; with "resubmit" two more than `pilots` where None.
        directory: for the files of RADICAL-Pilot; below the current one where None.
        pool: pilots to use in place of own ones; it is left open when the backend is shut down.
        python: interpreter for function tasks on the nodes; the driver's where None.
        patience: seconds to wait for a file on a shared file system; where None, 0 on this machine and 10 elsewhere.
    """

    capabilities = BackendCapabilities(
        ranks=True,
        gpus=True,
        nodes=True,
        staging=True,
        services=True,
        reattach=True,
        cancel_running=True,
        contextvars=True,
        native_keys=NATIVE_KEYS,
    )

    def __init__(
        self,
        resources: Mapping[str, Any] | None = None,
        raptor_config: Mapping[str, Any] | None = None,
        *,
        site: str | os.PathLike[str] | Site | None = None,
        pilots: int = 1,
        name: str = "radical_pilot",
        on_pilot_end: OnPilotEnd = "fail",
        max_pilots: int | None = None,
        directory: str | os.PathLike[str] | None = None,
        pool: PilotPool | None = None,
        python: str | None = None,
        patience: float | None = None,
    ) -> None:
        super().__init__(name)
        if raptor_config is not None and pool is not None:
            raise ConfigurationError(f"raptor_config of backend '{name}' is for own pilots: give it to the PilotPool")
        self._own_pool = pool is None
        profile = site_for(site, None)
        self.setup = () if profile is None else tuple(profile.environment.setup)
        self.pool = pool or PilotPool(
            resources_of(SiteRules(profile), resources),
            raptor_config,
            pilots=pilots,
            on_pilot_end=on_pilot_end,
            max_pilots=max_pilots,
            directory=directory,
        )
        kind = self.pool.settings.kind
        # A pilot whose job nobody knows cannot be ended by a later driver. Jobs of Slurm outlive this machine.
        self.capabilities = replace(self.capabilities, reattach=kind != "other", outlives_driver=kind == "slurm")
        self.patience = patience if patience is not None else (0.0 if kind == "local" else 10.0)
        self.python = python or (profile.environment.python if profile is not None else None) or sys.executable
        self._jobs: dict[str, PilotJob] = {}
        self._given: dict[str, PilotJob] = {}
        self._spools: dict[Path, SpoolWatcher] = {}
        self._noted: set[Path] = set()
        self._resumes = False
        self._chores: set[asyncio.Task[None]] = set()
        self._heard: deque[TaskEvent] = deque()
        self._hearing = threading.Lock()

    async def start(self) -> None:
        """Start the session and its pilots, and wait until one of them is active; a resume may need none."""
        refuse_environment(self.name)
        self._loop = asyncio.get_running_loop()
        if not self._resumes:
            await self.pool.open()
        self.threads = ThreadPoolExecutor(8, thread_name_prefix="asyncflow-pilot-task")
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._fetching = Fetching[PilotJob](self._fetched)
        self._placing = Placing(self)
        self._ending = Ending(self)
        self._services = Services(self)
        self._taking_over = TakingOver(self)

    def get_nodelist(self) -> list[str]:
        """Return the names of the nodes of all active pilots."""
        return self.pool.nodelist

    def check_description(self, description: TaskDescription) -> None:
        """Refuse a task that no pilot could ever hold."""
        try:
            shape_of(description, self.pool.settings.room)
        except UnsupportedTaskError as error:
            raise UnsupportedTaskError(f"backend '{self.name}' can never run this task: {error}") from None
        native_options(description, {})

    async def submit_tasks(self, tasks: Sequence[Task]) -> None:
        """Take tasks; a pilot gets them as soon as their files are there."""
        if not self._started:
            await self._start_once()
        if self._closed:
            raise ConfigurationError(f"backend '{self.name}' was shut down")
        await self._watch_session()
        await self._begin_pilots()
        for task in tasks:
            try:
                self._take(task)
            except Exception as error:
                task["exception"] = error
                self.report(task, TaskState.FAILED)

    async def _watch_session(self) -> None:
        session = self.session.path
        if session not in self._spools:
            make_session(session)
            watcher = SpoolWatcher(spool_of(session), self._marker)
            await watcher.start()
            self._spools[session] = watcher

    async def _begin_pilots(self) -> None:
        session = self.session.path
        if session not in self._noted:
            await self.pool.begin()
            if self.capabilities.reattach:
                kind = self.pool.settings.kind
                await self._loop.run_in_executor(self.threads, leave_note, session, self.pool.place, kind)
            self._noted.add(session)

    async def recover(self) -> None:
        """End the pilots that earlier drivers have left, and wait until they are gone."""
        self._resumes = True
        spare = self.pool.place if self.pool.idle else None
        await asyncio.get_running_loop().run_in_executor(None, end_outlived, self.session.path, spare)

    async def reattach(self, tasks: Sequence[Task]) -> Collection[str]:
        """Take what tasks of an earlier driver have come to; those that nobody has made ready are run now."""
        await self._watch_session()
        done, waiting = await self._taking_over.take(tasks)
        for job in done:
            self._spools[Path(job.session)].forget(job.uid, job.attempt)
            self.report(job.task, TaskState.DONE)
        if waiting:
            await self.submit_tasks(waiting)
        return {*(job.uid for job in done), *(task["uid"] for task in waiting)}

    async def end_forgotten(self, tasks: Sequence[Task]) -> None:
        """Do nothing: they have ended with their pilots, and a new one must not be started for them."""

    def _take(self, task: Task) -> None:
        job = self.job_of(task)
        self.refuse_what_no_sandbox_holds(task, job.description)
        self._jobs[job.uid] = job
        self._all_ended.clear()
        if remote(job.plan):
            self._fetching.begin(job, Path(job.session))
        else:
            self.place(job)

    def job_of(self, task: Task) -> PilotJob:
        """Make the attempt of a task, without giving it to a pilot."""
        description = describe(task)
        native = native_options(description, task.get("task_backend_specific_kwargs") or {})
        if native.get("timeout") and description.walltime is None:
            description = replace(description, walltime=float(native["timeout"]))
        if self.setup:
            description = replace(description, pre_exec=(*self.setup, *description.pre_exec))
        session = str(self.session.path)
        plan = make_plan(task, session, lambda directory: Path(directory).stat().st_dev)
        shape = shape_of(description, self.pool.settings.room)
        uid, attempt = task["uid"], task.get("attempt", 0)
        sandbox, nonce = sandbox_of(session, uid, attempt), self.session.nonce(uid, attempt)
        return PilotJob(task, description, plan, shape, session, sandbox, nonce, attempt, attempt)

    def preview(self, task: Task) -> str:
        """Return the run script that a task would run as."""
        return Placing(self).script(self.job_of(task)).shown()

    def _fetched(self, job: PilotJob, failure: Exception | None) -> None:
        if failure is None:
            self.place(job)
            return
        job.task["exception"] = str(failure)
        self.ended(job, TaskState.FAILED, FailureCause.STAGING)

    def holds(self, job: PilotJob) -> bool:
        """Tell whether a task has not ended."""
        return self._jobs.get(job.uid) is job

    def place(self, job: PilotJob) -> None:
        """Let a task wait for its turn to be made ready and given to a pilot."""
        self._placing.add(job)

    def give(self, placed: Sequence[tuple[PilotJob, dict[str, Any]]]) -> None:
        """Give tasks to the pilots.

        Args:
            placed: those whose files are there, with what RADICAL-Pilot is told of them.
        """
        for job, _ in placed:
            job.phase = Phase.GIVEN
            job.task["sandbox"] = job.sandbox
            self._given[job.rp_uid] = job
        try:
            self.pool.submit([task for _, task in placed], [job.shape.all_cores for job, _ in placed], self._hear)
        except SubmitError as error:
            for job, _ in placed:
                self._not_submitted(job, str(error))

    def _not_submitted(self, job: PilotJob, text: str) -> None:
        self.refused(job, SubmitError(f"{job.uid} '{job.task['name']}' was not submitted: {text}"))

    def refused(self, job: PilotJob, error: Exception) -> None:
        """Fail a task that no pilot was given."""
        job.task["exception"] = error
        self.ended(job, TaskState.FAILED, FailureCause.SUBMIT if isinstance(error, SubmitError) else None)

    def _hear(self, event: TaskEvent) -> None:
        """Take what the pool tells, in its thread; many events cross to the loop at once."""
        with self._hearing:
            self._heard.append(event)
            first = len(self._heard) == 1
        if first:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._take_events)

    def _take_events(self) -> None:
        while self._heard:
            event = self._heard.popleft()
            job = self._given.get(event.uid)
            if job is None:
                continue
            if event.state == "AGENT_EXECUTING":
                self.running(job)
            elif event.worker:
                self._ending.worker_ended(job, event)
            elif job.by_raptor and event.exit_code == REFUSED:
                log.debug("a worker of RAPTOR was refused %s, which we have taken from it", job.uid)
            elif event.cause is FailureCause.SUBMIT:
                self._not_submitted(job, event.text)
            else:
                job.told = event
                self._ending.look_at(job)

    def chore(self, work: Any) -> None:
        """Do something beside; the backend waits for it when it is shut down."""
        chore: asyncio.Task[None] = self._loop.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def _marker(self, uid: str, attempt: int) -> None:
        job = self._jobs.get(uid)
        if job is not None and job.attempt == attempt:
            self._ending.look_at(job, sure=True)

    def running(self, job: PilotJob) -> None:
        """Report that a task runs, if nobody has yet."""
        if job.phase is not Phase.GIVEN:
            return
        job.phase = Phase.RUNNING
        walltime = job.description.walltime
        if walltime is not None:
            job.walltime = self._loop.call_later(walltime, self._ending.end, job, FailureCause.WALLTIME)
        self.report(job.task, TaskState.RUNNING)
        if job.task.get("is_service"):
            self._services.watch(job)

    def forget(self, job: PilotJob) -> None:
        """Let go of all that belongs to the present attempt of a task."""
        self._given.pop(job.rp_uid, None)
        self.pool.release(job.rp_uid)
        self._spools[Path(job.session)].forget(job.uid, job.attempt)
        self._services.forget(job)
        if job.walltime is not None:
            job.walltime.cancel()

    def ended(self, job: PilotJob, state: TaskState, cause: FailureCause | None = None) -> None:
        """Report a task that has ended."""
        if self._jobs.pop(job.uid, None) is None:
            return
        job.phase = Phase.ENDED
        self.forget(job)
        self.report(job.task, state, cause)
        if not self._jobs:
            self._all_ended.set()

    def was_ready(self, job: PilotJob) -> bool:
        """Tell whether a service has ever been ready."""
        return job.uid in self._services.ready

    async def cancel_task(self, uid: str) -> bool:
        """Cancel a task; one that runs is reported CANCELED when its processes are gone."""
        job = self._jobs.get(uid)
        if job is None:
            return False
        self._fetching.stop(uid)
        if job.phase is Phase.WAITING:
            self._placing.remove(job)
            self.ended(job, TaskState.CANCELED, FailureCause.CANCELLED)
        else:
            self._ending.end(job, FailureCause.CANCELLED)
        return True

    async def _shut(self) -> None:
        if not self._started:
            if self._own_pool:
                await self.pool.close()
            return
        try:
            for uid in list(self._jobs):
                await self.cancel_task(uid)
            with suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), _ENDING)
            if self._jobs:
                log.warning("tasks that did not end in time: %s", ", ".join(self._jobs))
            await self._placing.close()
            await self._services.close()
            for chore in self._chores:
                chore.cancel()
            await asyncio.gather(*self._chores, return_exceptions=True)
            await self._fetching.close()
            for watcher in self._spools.values():
                await watcher.close()
        finally:
            self.threads.shutdown(wait=False)
            if self._own_pool:
                await self.pool.close()
            if self.pool.gone if self._own_pool else not self._jobs:
                for session in self._noted:
                    forget_note(session, self.pool.place)

    def abandon(self) -> None:
        """Let the session close without waiting: what runs in it ends with it."""
        self._closed = True
        if self._own_pool:
            self.pool.abandon()
