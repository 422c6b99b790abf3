"""Putting a job into the queue: its sandbox, its scripts, its submission through PSI/J."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.command import argv_of
from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.errors import SessionError, SubmitError
from asyncflow_hpc.task import command_of

from ..away import PickledCall, runner_argv
from ..pickling import FunctionPickles
from ..readiness import note_ready_file
from ..run_script import RunScript, claimed_by, forbid, script_path, write_script
from ..sandbox import current_umask, make_sandbox, thread_variables
from ..shortage import is_short
from ..task_script import TaskScript
from .commands import CommandTimeoutError
from .jobs import BatchJob, is_of, recorded
from .scheduler import Transient
from .submitting import NotBegunError, TransientError
from .translation import batch_script, job_spec

if TYPE_CHECKING:
    from .backend import PsijExecutionBackend

__all__ = ["Placing"]

# Seconds within which what comes of submissions is told to the loop together: to be woken up for each of them is a
# third of what it does for a job.
_TOGETHER = 0.01

# Whose an attempt is that nobody may run; see `forbid`.
_NOBODY = "none"


class Placing:
    """Submits the jobs of one backend.

    A job is submitted in one go of one thread: a change of threads fewer is worth more than that the next command is
    ready when one ends.

    Args:
        timeout: seconds that a command of the scheduler may take.
        at_once: submit commands at the same time at most.
    """

    def __init__(self, backend: PsijExecutionBackend, timeout: float, at_once: int = 1) -> None:
        self._backend = backend
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="asyncflow-submit")
        self._results = _Results()
        self._closing = False
        self._pickles = FunctionPickles()
        # By session; making one takes PSI/J longer than all else that it does for a job.
        self._submitters: dict[str, Any] = {}

    async def submit(self, job: BatchJob) -> None:
        """Submit a job.

        Raises:
            NotBegunError: meanwhile it is not wanted any more, or the backend leaves.
            TransientError: it may be submitted another time.
            AsyncFlowError: it cannot be submitted.
        """
        if self._closing:
            raise NotBegunError
        calls = not job.placed and job.task.get("function") is not None
        call = PickledCall.of(job.task, self._pickles) if calls else None
        submitted = asyncio.get_running_loop().create_future()
        self._threads.submit(self._place, job, call, submitted)
        job.native_id = await submitted

    def close(self) -> None:
        """Begin no more submissions; those that have begun are carried through."""
        self._closing = True
        self._threads.shutdown(wait=False)

    def _place(self, job: BatchJob, call: PickledCall | None, submitted: asyncio.Future[str]) -> None:
        """Leave what a job needs, if it is not there yet, and submit it; in a thread."""
        try:
            if self._closing or job.asked is not None:
                raise NotBegunError
            if not job.placed:
                self._leave_files(job, call)
                job.placed = True
            native_id = self._submit(job)
        except BaseException as error:
            self._results.tell(submitted, error)
        else:
            self._results.tell(submitted, native_id)

    def _leave_files(self, job: BatchJob, call: PickledCall | None) -> None:
        try:
            self._fill_sandbox(job, call)
        except (OSError, SessionError) as error:
            if is_short(error):
                raise TransientError(str(error)) from error
            raise

    def _fill_sandbox(self, job: BatchJob, call: PickledCall | None) -> None:
        if not (job.boxed or (job.unclear and Path(job.sandbox).is_dir())):
            make_sandbox(job.sandbox)
        job.boxed = True
        if call is not None:
            call.leave(job.sandbox)
        try:
            write_script(self._script(job))
            note_ready_file(job.task, job.description, job.sandbox)
        except OSError as error:
            raise SessionError(f"the run script of {job.uid} cannot be written: {error}") from error

    def _script(self, job: BatchJob) -> RunScript:
        task, description = job.task, job.description
        if task.get("function") is not None:
            argv = runner_argv(self._backend.python, job.sandbox)
        else:
            argv = argv_of(command_of(task), description.shell)
        dialect = self._backend.dialect
        line = dialect.launch_line(argv, description, self._backend.python)
        environment = {**thread_variables(description), **description.environment}
        return RunScript(
            task=TaskScript.of(task, description, job.session, job.sandbox, job.attempt, line, environment),
            nonce=job.nonce,
            plan=job.plan,
            umask=current_umask(),
            native_id=dialect.native_id,
            patience=self._backend.patience,
            apart=dialect.apart,
            forward=dialect.forward,
            hurry=dialect.hurry,
            daemons=dialect.daemons,
            durable=True,
            timer="/usr/bin/time",
            claim=True,
        )

    def preview(self, job: BatchJob) -> str:
        """Return the scripts of a job: what is submitted, the words of its runner, the task, and the runner."""
        return f"{batch_script(self._backend.dialect, self._spec(job))}\n{self._script(job).shown()}"

    def _spec(self, job: BatchJob) -> Any:
        dialect, description = self._backend.dialect, job.description
        options = dialect.options(description, job.name, job.sandbox, f"asyncflow_hpc {job.task['name']}")
        return job_spec(dialect, description, options, job.name, script_path(job.sandbox), job.sandbox)

    def _submit(self, job: BatchJob) -> str:
        import psij

        executor = self._submitter(job.session)
        psij_job = psij.Job(self._spec(job))
        try:
            executor.submit(psij_job)
        except CommandTimeoutError as error:
            raise TransientError(str(error), unclear=True) from error
        except psij.SubmitException as error:
            job.printed = executor.now.printed
            raise self._failure(job, str(error), executor.now.returncode) from error
        except (OSError, subprocess.SubprocessError) as error:
            if is_short(error):
                # What PSI/J does beside the command may have failed as well.
                raise TransientError(str(error), unclear=True) from error
            raise SubmitError(f"{job.uid} '{job.task['name']}' cannot be submitted: {error}") from error
        finally:
            _put_away(f"{executor.place}/{psij_job.id}.job", job)
        if not psij_job.native_id:
            raise TransientError("the scheduler told no id", unclear=True)
        return str(psij_job.native_id)

    def _submitter(self, session: str) -> Any:
        from .executors import submitter

        if session not in self._submitters:
            place = self._backend.psij_directory(session)
            made = submitter(self._backend.scheduler, self._backend.dialect, place, self._timeout)
            self._submitters.setdefault(session, made)
        return self._submitters[session]

    def _failure(self, job: BatchJob, text: str, returncode: int) -> Exception:
        failure = self._backend.scheduler.submit_failure(text, returncode)
        # With an id, whatever went wrong may have done so after the submission.
        unclear = failure.unclear or job.printed is not None
        if isinstance(failure, Transient):
            transient = TransientError.of(failure)
            transient.unclear = unclear
            return transient
        words = f"{failure.text}; {failure.advice}" if failure.advice else failure.text
        if unclear:
            return TransientError(words, unclear=True, refused=True)
        return SubmitError(f"{job.uid} '{job.task['name']}' was not submitted: {words}")

    async def find(self, job: BatchJob) -> bool:
        """Look for a job that may have been submitted: in the queue, in its sandbox, and by the id that was printed.

        Raises:
            TransientError: nobody can say.
        """
        report = await self._backend.queue.report()
        for status in report or ():
            if status.name == job.name and is_of(status, job):
                job.native_id = status.native_id
                return True
        if report is None or not report.complete:
            raise TransientError("nobody knows whether it is in the queue already", unclear=True)
        loop = asyncio.get_running_loop()
        native_id = await loop.run_in_executor(self._backend.threads, _ran_already, job)
        if native_id is None and job.printed is not None and await self._accounted(job, job.printed):
            native_id = job.printed
        if native_id is not None:
            job.native_id = native_id
        return native_id is not None

    async def _accounted(self, job: BatchJob, native_id: str) -> bool:
        """Tell whether the scheduler's records have a job by its id."""
        scheduler = self._backend.scheduler
        command = scheduler.accounting_command([native_id])
        if not command:
            return False
        try:
            _, out, err = await self._backend.command(command)
        except (OSError, CommandTimeoutError):
            return False
        found = scheduler.parse_accounting(out, err).by_id.get(native_id, ())
        return any(status.name == job.name and is_of(status, job) for status in found)

    async def withdraw(self, job: BatchJob) -> bool:
        """See to it that a job that may have been submitted runs nothing; returns False if it may have begun."""
        return await asyncio.get_running_loop().run_in_executor(self._backend.threads, forbid, job.sandbox)


class _Results:
    """What came of submissions, on its way from threads to the loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: list[tuple[asyncio.Future[str], str | BaseException]] = []

    def tell(self, submitted: asyncio.Future[str], result: str | BaseException) -> None:
        """Give a submission its native id, or what went wrong; from any thread."""
        with self._lock:
            self._told.append((submitted, result))
            if len(self._told) > 1:
                return
        loop = submitted.get_loop()
        with suppress(RuntimeError):
            # The loop may be closed.
            loop.call_soon_threadsafe(loop.call_later, _TOGETHER, self._settle)

    def _settle(self) -> None:
        with self._lock:
            told, self._told = self._told, []
        for submitted, result in told:
            if submitted.cancelled():
                continue
            if isinstance(result, str):
                submitted.set_result(result)
            else:
                submitted.set_exception(result)


def _put_away(script: str, job: BatchJob) -> None:
    """Put the batch script of a job beside its run script, where people can read it."""
    kept = f"{job.sandbox}/{BOOKKEEPING}/job.sh"
    with suppress(OSError):
        try:
            # Not removed: ext4 takes long to make files where others were just removed.
            os.rename(script, kept)
        except OSError:
            _put_far_away(script, kept)


def _put_far_away(script: str, kept: str) -> None:
    """Put it there from another file system."""
    try:
        shutil.copyfile(script, kept)
    finally:
        os.unlink(script)


def _ran_already(job: BatchJob) -> str | None:
    """Tell from the sandbox whether a job has run that is not in the queue any more; returns its id."""
    first = claimed_by(job.sandbox)
    if first is not None:
        # What runs, or has run, is found out as for every job; what may not run will not.
        return first if first != _NOBODY else None
    if not Path(job.sandbox, BOOKKEEPING, "host").exists():
        return None
    record = recorded(job)
    if record is None or record.native_id is None:
        raise TransientError("it has begun to run, and is not in the queue any more", unclear=True)
    return record.native_id
