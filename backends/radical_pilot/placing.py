"""Making ready what a pilot is given: the sandbox of a task, its run script, and its description for RADICAL-Pilot."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import shlex
import shutil
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.command import argv_of
from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.errors import ConfigurationError, SessionError
from asyncflow_hpc.task import command_of

from ..away import PickledCall, runner_argv
from ..call_files import CALL
from ..forked_call import Request, leave_request
from ..local.ranks import GPU_VARIABLES
from ..numbering import started_by
from ..pickling import FunctionPickles
from ..psij.commands import clean_environment
from ..psij.mpi import RANKS
from ..psij.slurm_dialect import SlurmDialect
from ..readiness import note_ready_file
from ..run_script import RunScript, script_path, write_script
from ..sandbox import current_umask, make_sandbox, sandbox_of, thread_variables
from ..task_script import TaskScript
from .jobs import PilotJob
from .raptor import call_task, server_text, why_not
from .translation import native_options, plain_name, rp_task

if TYPE_CHECKING:
    from .backend import RadicalExecutionBackend

__all__ = ["Placing"]

log = logging.getLogger(__name__)

# What runs a task, as it calls itself: the job, the step and the node of Slurm, and the process.
_STEP, _PROCESS = "$SLURM_JOB_ID.$SLURM_STEP_ID@$SLURMD_NODENAME:$$", "$$"

# A session of its own, so that what a command leaves behind can be ended without the agent's scripts around it.
_APART = ("setsid", "--wait")

# The first of the processes that hold the nodes of a task runs its script; the others wait until it has ended.
_HOLD = """\
if [ "${SLURM_PROCID:-0}" = 0 ]; then exec "$@"; fi
until [ -e "$0/.asyncflow/exit.json" ]; do sleep 1; done"""

# The ranks start in the room that the task holds already.
_SRUN = (
    'exec srun --overlap --job-name="$RP_TASK_ID" --nodelist="$SLURM_STEP_NODELIST" --nodes="$SLURM_STEP_NUM_NODES"'
    ' --mem=0 "$@"'
)


# Seconds for which the loop may be held up at a time while calls are pickled.
_SLICE = 0.005

# Tasks whose files are left before RADICAL-Pilot is told of them.
_TOGETHER = 32


class Placing:
    """Places the tasks of one backend, in the order in which they come."""

    def __init__(self, backend: RadicalExecutionBackend) -> None:
        self._backend = backend
        self._pickles = FunctionPickles()
        self._uids, self._numbers = uuid.uuid4().hex[:8], itertools.count()
        self._waiting: deque[PilotJob] = deque()
        self._placer: asyncio.Task[None] | None = None

    def add(self, job: PilotJob) -> None:
        """Let a task wait until it is placed."""
        self._waiting.append(job)
        if self._placer is None or self._placer.done():
            self._placer = asyncio.get_running_loop().create_task(self._place_waiting())

    def remove(self, job: PilotJob) -> None:
        """Take out a task, if it still waits."""
        with suppress(ValueError):
            self._waiting.remove(job)

    async def close(self) -> None:
        """Wait until nothing is being placed any more."""
        if self._placer is not None:
            if not self._backend.pool.was_opened:
                # It still waits for a pilot, which may be in a queue for hours.
                self._placer.cancel()
            await asyncio.gather(self._placer, return_exceptions=True)

    async def _place_waiting(self) -> None:
        backend, loop = self._backend, asyncio.get_running_loop()
        if not await self._can_place():
            return
        while self._waiting:
            calls = self._pickled(loop.time() + _SLICE)
            # In a thread, as a file system may be slow.
            outcomes = await loop.run_in_executor(backend.threads, self._place_all, calls)
            placed = []
            for (job, _), outcome in zip(calls, outcomes, strict=True):
                # One that was cancelled meanwhile is gone.
                if not backend.holds(job):
                    continue
                if isinstance(outcome, Exception):
                    backend.refused(job, outcome)
                else:
                    placed.append((job, outcome))
            backend.give(placed)

    async def _can_place(self) -> bool:
        """Wait for the first pilot, which a resume starts only now; where there will be none, the tasks are told."""
        if not self._backend.pool.was_opened:
            try:
                await self._backend.pool.open()
            except ConfigurationError as error:
                while self._waiting:
                    self._backend.refused(self._waiting.popleft(), error)
                return False
        return True

    def _pickled(self, until: float) -> list[tuple[PilotJob, PickledCall | None]]:
        """Take some that wait, with their calls: None for a command, and where the first attempt has left it."""
        loop, calls = asyncio.get_running_loop(), list[tuple[PilotJob, "PickledCall | None"]]()
        while self._waiting and len(calls) < _TOGETHER and (not calls or loop.time() < until):
            job = self._waiting.popleft()
            job.rp_uid = f"{self._uids}.{next(self._numbers):06}"
            first = job.task.get("function") is not None and job.attempt == job.first
            try:
                calls.append((job, PickledCall.of(job.task, self._pickles) if first else None))
            except Exception as error:
                self._backend.refused(job, error)
        return calls

    def _place_all(self, calls: Sequence[tuple[PilotJob, PickledCall | None]]) -> list[dict[str, Any] | Exception]:
        outcomes: list[dict[str, Any] | Exception] = []
        for job, call in calls:
            try:
                outcomes.append(self._place(job, call))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _place(self, job: PilotJob, call: PickledCall | None) -> dict[str, Any]:
        pool, cwd = self._backend.pool, job.description.cwd
        if cwd is not None and pool.settings.kind == "local" and not os.path.isdir(cwd):
            raise SessionError(f"directory {cwd} of {job.uid} is not there")
        make_sandbox(job.sandbox)
        if job.task.get("function") is not None:
            _leave_call(job, call)
        native = native_options(job.description, job.task.get("task_backend_specific_kwargs") or {})
        try:
            starter = pool.starter(clean_environment())
            job.by_raptor = self._goes_to_raptor(job, native)
            if job.by_raptor:
                return self._request(job, starter)
            write_script(self.script(job))
            note_ready_file(job.task, job.description, job.sandbox)
        except OSError as error:
            raise SessionError(f"the run script of {job.uid} cannot be written: {error}") from error
        argv = [*_APART, "/bin/sh", starter, script_path(job.sandbox)]
        if job.shape.holders > 1:
            argv = ["/bin/sh", "-c", _HOLD, job.sandbox, *argv]
        return rp_task(job.rp_uid, job.task["name"], argv, job.shape, pool.settings.room, native)

    def _goes_to_raptor(self, job: PilotJob, native: Mapping[str, Any]) -> bool:
        if not self._backend.pool.calls_functions:
            return False
        reason = why_not(job.task, job.description, native, self._backend.setup)
        log.debug("%s runs %s", job.uid, "in a worker of RAPTOR" if reason is None else f"as executable: {reason}")
        return reason is None

    def _request(self, job: PilotJob, starter: str) -> dict[str, Any]:
        """Leave what a worker of RAPTOR has to know; returns what RADICAL-Pilot is told."""
        pool, plan = self._backend.pool, job.plan
        request = Request(
            uid=job.uid,
            session=job.session,
            sandbox=job.sandbox,
            nonce=job.nonce,
            attempt=job.attempt,
            environment=self._environment(job),
            plan=plan if plan.stages_in or plan.promised or plan.deliveries else None,
            cwd=job.description.cwd,
            patience=int(self._backend.patience),
            durable=pool.settings.kind != "local",
            umask=current_umask(),
            step=pool.settings.kind == "slurm",
        )
        leave_request(request)
        text = server_text(self._backend.python, self._backend.setup)
        script = pool.kept(f"calls.{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}.sh", text)
        return call_task(job.rp_uid, plain_name(job.task["name"]), [job.sandbox, starter, script])

    def _environment(self, job: PilotJob) -> dict[str, str]:
        hides = self._backend.pool.settings.room.gpus and not job.description.gpus_per_rank
        hidden = dict.fromkeys(GPU_VARIABLES, "") if hides else {}
        return {**hidden, **thread_variables(job.description), **job.description.environment}

    def script(self, job: PilotJob) -> RunScript:
        """Return the run script of a task."""
        task, description, settings = job.task, job.description, self._backend.pool.settings
        if task.get("function") is not None:
            argv = runner_argv(self._backend.python, job.sandbox)
        else:
            argv = argv_of(command_of(task), description.shell)
        line, environment = self._launch_line(argv, job), self._environment(job)
        return RunScript(
            task=TaskScript.of(task, description, job.session, job.sandbox, job.attempt, line, environment),
            nonce=job.nonce,
            plan=job.plan,
            umask=current_umask(),
            native_id=_STEP if settings.kind == "slurm" else _PROCESS,
            patience=int(self._backend.patience),
            # On this machine the record dies with those who read it.
            durable=settings.kind != "local",
            claim=True,
        )

    def _launch_line(self, argv: list[str], job: PilotJob) -> list[str]:
        description, settings = job.description, self._backend.pool.settings
        words = shlex.split(description.launcher or "")
        # A plain srun would wait for the room that its own task holds.
        by_srun = settings.by_step and words[:1] in ([], ["srun"])
        if words and not by_srun:
            return started_by(words, description.ranks, argv)
        if description.ranks == 1:
            return argv
        if by_srun:
            line = SlurmDialect().launch_line(argv, replace(description, launcher=None), self._backend.python)
            at = line.index("srun")
            return [*line[:at], "/bin/sh", "-c", _SRUN, "srun", *words[1:], *line[at + 1 :]]
        gpus = str(description.gpus_per_rank)
        return [self._backend.python, "-I", "-S", RANKS, str(description.ranks), gpus, *argv]


def _leave_call(job: PilotJob, call: PickledCall | None) -> None:
    if call is not None:
        call.leave(job.sandbox)
        return
    # As it was when the task was submitted: the script's own objects may have changed.
    first = sandbox_of(job.session, job.uid, job.first)
    os.mkdir(f"{job.sandbox}/{BOOKKEEPING}", 0o700)
    shutil.copy2(f"{first}/{BOOKKEEPING}/{CALL}", f"{job.sandbox}/{BOOKKEEPING}/{CALL}")
