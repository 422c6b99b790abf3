"""PsijExecutionBackend: tasks as batch jobs, submitted through PSI/J and judged by evidence."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.backend import BackendCapabilities
from asyncflow_hpc.errors import ConfigurationError, is_plain_line
from asyncflow_hpc.states import FailureCause, TaskState
from asyncflow_hpc.task import Task, TaskDescription

from ..base import SandboxBackend
from ..evidence import spool_of
from ..sandbox import attempt_name, make_session, sandbox_of
from ..services import Services
from ..spool import SpoolWatcher
from ..staging.downloads import remote
from ..staging.fetching import Fetching
from ..staging.plan import make_plan
from .commands import Answer, run_command
from .ending import Ending
from .jobs import BatchJob, Phase
from .kinds import kind_of
from .loading import load_psij
from .placing import Placing
from .queue_news import QueueNews
from .site import check_seconds, settings_for
from .submitting import Pace, Submitting
from .taking_over import TakingOver
from .watching import QueueWatcher

if TYPE_CHECKING:
    from asyncflow_hpc.site_model import Site

__all__ = ["PsijExecutionBackend"]

log = logging.getLogger(__name__)

# Which look at what jobs have left.
_THREADS = 6


class PsijExecutionBackend(SandboxBackend):
    """Runs tasks as batch jobs.

    Args:
        scheduler: "slurm", "pbs" (PBS Pro, OpenPBS), "pbs_classic" (Torque), "lsf"; the site's or "slurm" where None.
        site: name of a machine's profile, path of its YAML file, or a loaded one; what is said here goes before it.
        defaults: task description that holds where a task says nothing else.
        work_dir: for PSI/J's own files; in the session where None.
        submit_rate: jobs a second at most; the site's where None, else 20.
        max_queued: jobs in the queue at most, the others wait in the driver; the site's where None, else 1000.
        poll_interval: seconds between two looks at the queue at most; the site's where None, else 10.
        command_timeout: seconds that a command of the scheduler may take.
        grace: seconds after which a job that the scheduler does not know, and that left no record, counts as lost.
        patience: seconds to wait for a file on a shared file system.
        python: interpreter for function tasks on the nodes; the site's where None, else the driver's.
        fail_unrunnable: fail a task whose job can never run as it is, instead of only saying so.
        name: under which an engine knows it; the scheduler's where None.
    """

    capabilities = BackendCapabilities(
        ranks=True,
        gpus=True,
        nodes=True,
        staging=True,
        services=True,
        reattach=True,
        outlives_driver=True,
        cancel_running=True,
        contextvars=True,
    )

    def __init__(
        self,
        scheduler: str | None = None,
        *,
        site: str | os.PathLike[str] | Site | None = None,
        defaults: Mapping[str, Any] | None = None,
        work_dir: str | Path | None = None,
        submit_rate: float | None = None,
        max_queued: int | None = None,
        poll_interval: float | None = None,
        command_timeout: float = 60.0,
        grace: float = 60.0,
        patience: int = 10,
        python: str | None = None,
        fail_unrunnable: bool = False,
        name: str | None = None,
    ) -> None:
        settings = settings_for(
            site,
            scheduler,
            defaults,
            submit_rate=submit_rate,
            max_queued=max_queued,
            poll_interval=poll_interval,
            python=python,
        )
        self.scheduler, self.dialect = kind_of(settings.scheduler)
        super().__init__(name or settings.scheduler)
        self._rules = settings.rules
        if work_dir is not None and not is_plain_line(os.fspath(work_dir)):
            raise ConfigurationError(f"work_dir {os.fspath(work_dir)!r} must be a path without control characters")
        self._work_dir_of_psij = work_dir
        self._pace = Pace(settings.submit_rate, 4, settings.max_queued, 600.0)
        self._poll_intervals = settings.shortest_interval, settings.poll_interval
        check_seconds(command_timeout=command_timeout, grace=grace, patience=patience)
        self._timeout = command_timeout
        self.grace = grace
        # sh counts in whole ones.
        self.patience = math.ceil(patience)
        self.python = settings.python
        self._fail_unrunnable = fail_unrunnable
        self._jobs: dict[str, BatchJob] = {}
        self._spools: dict[Path, SpoolWatcher] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._leaving = False

    async def start(self) -> None:
        """Look for the scheduler's commands, and begin to watch."""
        for command in self.scheduler.commands:
            if shutil.which(command) is None:
                raise ConfigurationError(
                    f"backend '{self.name}' needs the command {command}, which is not on PATH here: run the script on a"
                    " login node, or load the scheduler's module"
                )
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncflow-psij")
        await asyncio.get_running_loop().run_in_executor(self.threads, load_psij)
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._fetching = Fetching[BatchJob](self._fetched)
        self._placing = Placing(self, self._timeout, self._pace.at_once)
        self._ending = Ending(self)
        self._services = Services(self)
        news = QueueNews(self, self._ending, self._fail_unrunnable)
        self.queue = QueueWatcher(
            self.scheduler,
            *self._poll_intervals,
            self._timeout,
            lambda: bool(self._jobs),
            news.ended_wanted,
            news.take,
        )
        self.queue.start()
        self._submitting = Submitting(
            self._pace,
            self._placing.submit,
            self._placing.find,
            self._placing.withdraw,
            self._submitted,
            self._not_submitted,
        )
        self._submitting.start()
        self._taking_over = TakingOver(self, self._submitting, self._ending)

    def check_description(self, description: TaskDescription) -> None:
        """Refuse what cannot be translated, and what the site would not take."""
        completed = self._rules.complete(description)
        self.dialect.options(completed, "name", "/", "")
        self._rules.check(completed)

    async def submit_tasks(self, tasks: Sequence[Task]) -> None:
        """Take tasks; they are submitted in order, as fast as the pace allows."""
        if not self._started:
            await self._start_once()
        if self._closed:
            raise ConfigurationError(f"backend '{self.name}' was shut down")
        await self._watch_session()
        for task in tasks:
            try:
                self._take(task)
            except Exception as error:
                task["exception"] = error
                task["state"] = TaskState.FAILED
                self.task_state_cb(task, TaskState.FAILED)

    async def _watch_session(self) -> None:
        session = self.session.path
        if session not in self._spools:
            make_session(session)
            self._rules.check_place(session)
            watcher = SpoolWatcher(spool_of(session), self._marker)
            await watcher.start()
            self._spools[session] = watcher

    async def reattach(self, tasks: Sequence[Task]) -> Collection[str]:
        """Take over jobs that an earlier driver submitted, or was about to submit."""
        await self._watch_session()
        return await self._taking_over.take(tasks)

    @property
    def jobs(self) -> list[BatchJob]:
        """Those that have not ended."""
        return list(self._jobs.values())

    def enter(self, job: BatchJob) -> None:
        """Count a job among those that have not ended."""
        self._jobs[job.uid] = job
        self._all_ended.clear()

    def _take(self, task: Task) -> None:
        job = self.job_of(task)
        self.refuse_what_no_sandbox_holds(task, job.description)
        # Not every engine has asked before.
        self._rules.check(job.description)
        self.begin(job)

    def begin(self, job: BatchJob) -> None:
        """Let a job wait for its submission, once what it needs from elsewhere is there."""
        self.enter(job)
        if remote(job.plan):
            self._fetching.begin(job, Path(job.session))
        else:
            self._submitting.add(job)

    def job_of(self, task: Task) -> BatchJob:
        """Make the job of a task, without submitting it."""
        session = str(self.session.path)
        plan = make_plan(task, session, lambda directory: Path(directory).stat().st_dev)
        uid, attempt = task["uid"], task.get("attempt", 0)
        name = self.dialect.job_name(f"{self.session.path.name}.{attempt_name(uid, attempt)}")
        sandbox, nonce = sandbox_of(session, uid, attempt), self.session.nonce(uid, attempt)
        return BatchJob(task, self.describe(task), plan, name, session, sandbox, nonce, attempt)

    def preview(self, task: Task) -> str:
        """Return the batch script that a task would be submitted as, and the run script that it starts."""
        return Placing(self, self._timeout).preview(self.job_of(task))

    def _fetched(self, job: BatchJob, failure: Exception | None) -> None:
        if failure is None:
            self._submitting.add(job)
            return
        job.task["exception"] = str(failure)
        self.ended(job, TaskState.FAILED, FailureCause.STAGING)

    def chore(self, work: Any) -> None:
        """Do something beside; the backend waits for it when it is shut down."""
        chore: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def _submitted(self, job: BatchJob) -> None:
        job.submitted = asyncio.get_running_loop().time()
        job.task["native_id"] = job.native_id
        self.report(job.task, TaskState.SUBMITTED)
        if job.asked is not None:
            self._ending.cancel(job)
        self.queue.expect_change()

    def _not_submitted(self, job: BatchJob, error: Exception) -> None:
        if self._jobs.get(job.uid) is not job:
            # Its record was faster, and the task's dict may be of another attempt by now.
            return
        if job.asked is FailureCause.CANCELLED:
            self.ended(job, TaskState.CANCELED, FailureCause.CANCELLED)
            return
        job.task["exception"] = error
        self.ended(job, TaskState.FAILED, FailureCause.SUBMIT)

    def _marker(self, uid: str, attempt: int) -> None:
        job = self._jobs.get(uid)
        if job is not None and attempt == job.attempt:
            self._ending.look_at(job, sure=True)

    def running(self, job: BatchJob) -> None:
        """Report that a job runs, if nobody has yet."""
        if job.phase is not Phase.QUEUED:
            return
        job.phase = Phase.RUNNING
        job.started = asyncio.get_running_loop().time()
        job.task["sandbox"] = job.sandbox
        self.report(job.task, TaskState.RUNNING)
        if job.task.get("is_service"):
            self._services.watch(job)

    def ended(self, job: BatchJob, state: TaskState, cause: FailureCause | None = None) -> None:
        """Report a task that has ended."""
        if self._jobs.get(job.uid) is not job:
            return
        del self._jobs[job.uid]
        if job.phase in (Phase.QUEUED, Phase.RUNNING):
            self._submitting.left_queue()
        job.phase = Phase.ENDED
        self._services.forget(job)
        self.report(job.task, state, cause)
        if not self._jobs:
            self._all_ended.set()

    def was_ready(self, job: BatchJob) -> bool:
        """Tell whether a service has ever been ready."""
        return job.uid in self._services.ready

    def psij_directory(self, session: str) -> Path:
        """Say where PSI/J keeps its own files."""
        return Path(self._work_dir_of_psij or f"{session}/.asyncflow/psij")

    def _forget_psij(self, session: str) -> None:
        place = self.psij_directory(session)
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            place.parent.rmdir()

    def forget_marker(self, job: BatchJob) -> None:
        """Remove the marker of a job that has been settled."""
        self._spools[Path(job.session)].forget(job.uid, job.attempt)

    async def cancel_task(self, uid: str) -> bool:
        """Cancel a task; one that was submitted is reported CANCELED when its job has ended."""
        job = self._jobs.get(uid)
        if job is None:
            return False
        self._fetching.stop(uid)
        if self._submitting.remove(job):
            self.ended(job, TaskState.CANCELED, FailureCause.CANCELLED)
            return True
        if job.asked is None:
            job.asked = FailureCause.CANCELLED
            if job.phase in (Phase.QUEUED, Phase.RUNNING):
                self._ending.cancel(job)
        return True

    async def detach(self) -> None:
        """Leave the jobs to a later driver, and stop watching them."""
        self._leaving = True
        await self.shutdown()

    async def _shut(self) -> None:
        if not self._started:
            return
        if not self._leaving:
            for uid in list(self._jobs):
                await self.cancel_task(uid)
        self._placing.close()
        await self._submitting.close()
        try:
            await asyncio.wait_for(self._all_ended.wait(), 0 if self._leaving else 2 * self.grace)
        except (asyncio.TimeoutError, TimeoutError):
            how = "left to a resume" if self._leaving else "that did not end in time"
            log.warning("jobs %s: %s", how, ", ".join(str(job.native_id) for job in self._jobs.values()))
        await self.queue.close()
        await self._services.close()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._fetching.close()
        for watcher in self._spools.values():
            await watcher.close()
        if self._work_dir_of_psij is None:
            for session in self._spools:
                await asyncio.get_running_loop().run_in_executor(self.threads, self._forget_psij, str(session))
        self.threads.shutdown(wait=False, cancel_futures=True)

    def abandon(self) -> None:
        """Ask the scheduler to end all jobs, without waiting."""
        self._closed = True
        if self._started:
            jobs = [job for job in self._jobs.values() if not job.anothers]
            self._ending.abandon([job.native_id for job in jobs if job.native_id is not None])

    async def command(self, argv: Sequence[str]) -> Answer:
        """Run a command of the scheduler, with the time limit of all of them."""
        return await run_command(argv, self._timeout)
