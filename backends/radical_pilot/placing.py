"""Making ready what a pilot is given: the sandbox of a task, its run script, and its description for RADICAL-Pilot."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.command import argv_of
from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.errors import SessionError
from asyncflow_hpc.task import command_of

from ..away import PickledCall, runner_argv
from ..call_files import CALL
from ..local.ranks import GPU_VARIABLES
from ..pickling import FunctionPickles
from ..psij.commands import clean_environment
from ..psij.mpi import RANKS
from ..psij.slurm_dialect import SlurmDialect
from ..run_script import RunScript, script_path, write_script
from ..sandbox import make_sandbox, sandbox_of
from .jobs import PilotJob
from .translation import native_options, rp_task

if TYPE_CHECKING:
    from .backend import RadicalExecutionBackend

__all__ = ["Placing"]

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


class Placing:
    """Places the tasks of one backend."""

    def __init__(self, backend: RadicalExecutionBackend) -> None:
        self._backend = backend
        self._pickles = FunctionPickles()

    def place(self, job: PilotJob) -> dict[str, Any]:
        """Leave the files of a task in a new sandbox.

        Returns:
            What RADICAL-Pilot is told.

        Raises:
            AsyncFlowError: its files cannot be written, or its call cannot be pickled.
        """
        pool, cwd = self._backend.pool, job.description.cwd
        if cwd is not None and pool.settings.kind == "local" and not os.path.isdir(cwd):
            raise SessionError(f"directory {cwd} of {job.uid} is not there")
        make_sandbox(job.sandbox)
        if job.task.get("function") is not None:
            self._leave_call(job)
        try:
            write_script(self.script(job))
            starter = pool.starter(clean_environment())
        except OSError as error:
            raise SessionError(f"the run script of {job.uid} cannot be written: {error}") from error
        argv = [*_APART, "/bin/sh", starter, script_path(job.sandbox)]
        if job.shape.holders > 1:
            argv = ["/bin/sh", "-c", _HOLD, job.sandbox, *argv]
        native = native_options(job.description, job.task.get("task_backend_specific_kwargs") or {})
        return rp_task(job.rp_uid, job.task["name"], argv, job.shape, pool.settings.room, native)

    def _leave_call(self, job: PilotJob) -> None:
        if job.attempt == job.first:
            PickledCall.of(job.task, self._pickles).leave(job.sandbox)
            return
        # As it was when the task was submitted: the script's own objects may have changed.
        first = sandbox_of(job.session, job.uid, job.first)
        os.mkdir(f"{job.sandbox}/{BOOKKEEPING}", 0o700)
        shutil.copy2(f"{first}/{BOOKKEEPING}/{CALL}", f"{job.sandbox}/{BOOKKEEPING}/{CALL}")

    def script(self, job: PilotJob) -> RunScript:
        """Return the run script of a task."""
        task, description, settings = job.task, job.description, self._backend.pool.settings
        if task.get("function") is not None:
            argv = runner_argv(self._backend.python, job.sandbox)
        else:
            argv = argv_of(command_of(task), description.shell)
        hidden = dict.fromkeys(GPU_VARIABLES, "") if settings.room.gpus and not description.gpus_per_rank else {}
        return RunScript(
            uid=job.uid,
            name=task["name"],
            session=job.session,
            sandbox=job.sandbox,
            nonce=job.nonce,
            attempt=job.attempt,
            argv=self._launch_line(argv, job),
            environment={**hidden, **description.environment},
            plan=job.plan,
            cwd=description.cwd,
            pre_exec=description.pre_exec,
            post_exec=description.post_exec,
            native_id=_STEP if settings.kind == "slurm" else _PROCESS,
            patience=int(self._backend.patience),
            sweep=True,
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
            return [*words, "-n", str(description.ranks), *argv]
        if description.ranks == 1:
            return argv
        if by_srun:
            line = SlurmDialect().launch_line(argv, replace(description, launcher=None), self._backend.python)
            at = line.index("srun")
            return [*line[:at], "/bin/sh", "-c", _SRUN, "srun", *words[1:], *line[at + 1 :]]
        gpus = str(description.gpus_per_rank)
        return [self._backend.python, "-I", "-S", RANKS, str(description.ranks), gpus, *argv]
