"""PSI/J's executors without their status layer, their templates, and their commands without a time limit.

PSI/J reports COMPLETED for jobs that the queue no longer lists, and its templates hide a job's exit code from the
scheduler. Here it submits; the completion record and our own watcher say what became of a job.
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutor, BatchSchedulerExecutorConfig
from psij.executors.batch.lsf import LsfExecutorConfig, LsfJobExecutor
from psij.executors.batch.pbs import PBSJobExecutor
from psij.executors.batch.pbs_base import PBSExecutorConfig
from psij.executors.batch.pbs_classic import PBSClassicJobExecutor
from psij.executors.batch.slurm import SlurmExecutorConfig, SlurmJobExecutor

from .commands import run_blocking
from .dialect import Dialect
from .environment import clean_environment
from .scheduler import Scheduler
from .translation import batch_script, options_of

__all__ = ["submitter"]


class _NoPolling:
    """Stands for the thread that asks the queue."""

    def register_job(self, job: Any) -> None:
        """Do nothing."""

    def unregister_job(self, job: Any) -> None:
        """Do nothing."""


class _Submission(threading.local):
    """What one thread submits."""

    returncode = 0
    printed: str | None = None
    directory: Path | None = None
    script: Path | None = None
    unset: frozenset[str] = frozenset()


class _Submitter(BatchSchedulerExecutor):
    """Submits through PSI/J, in several threads at once.

    Attributes:
        place: where PSI/J leaves scripts.
        now: what the calling thread submits, and the exit code of its last command with the id that it printed.
    """

    dialect: Dialect
    scheduler: Scheduler
    timeout: float
    place: str
    now: _Submission

    def _ensure_work_dir(self) -> None:
        # PSI/J tries to make it for each job.
        if not os.path.isdir(self.work_directory):
            super()._ensure_work_dir()

    def _start_queue_poll_thread(self) -> Any:
        return _NoPolling()

    def _set_job_status(self, job: Any, status: Any) -> None:
        # Nobody asks PSI/J what became of a job.
        pass

    def _create_script_context(self, job: Any) -> dict[str, object]:
        return {}

    def generate_submit_script(self, job: Any, context: dict[str, object], submit_file: IO[str]) -> None:
        """Write the script of a job."""
        submit_file.write(batch_script(self.dialect, job.spec))

    def get_submit_command(self, job: Any, submit_file_path: Path) -> list[str]:
        """Return the command that submits a script."""
        path = submit_file_path.absolute()
        submission = self.dialect.submission(str(path), options_of(job.spec))
        self.now.directory, self.now.script = job.spec.directory, path if submission.by_stdin else None
        self.now.unset = submission.unset
        return submission.argv

    def job_id_from_submit_output(self, out: str) -> str:
        """Take the id from what the submit command said."""
        return self.scheduler.parse_submitted(out) or ""

    def _run_command(self, cmd: list[str]) -> str:
        # The job may start in the directory in which it was submitted.
        environment = clean_environment(self.now.unset)
        code, out, err = run_blocking(cmd, self.timeout, self.now.directory, self.now.script, environment)
        self.now.returncode, self.now.printed = code, self.scheduler.parse_submitted(out.decode(errors="replace"))
        if code != 0:
            raise subprocess.CalledProcessError(code, cmd, (err + out).decode(errors="replace"))
        return out.decode(errors="replace")


class _Slurm(_Submitter, SlurmJobExecutor):
    _NAME_ = "slurm"


class _Pbs(_Submitter, PBSJobExecutor):
    _NAME_ = "pbs"


class _PbsClassic(_Submitter, PBSClassicJobExecutor):
    _NAME_ = "pbs_classic"


class _Lsf(_Submitter, LsfJobExecutor):
    _NAME_ = "lsf"


_KINDS: dict[str, tuple[type[_Submitter], type[BatchSchedulerExecutorConfig]]] = {
    "slurm": (_Slurm, SlurmExecutorConfig),
    "pbs": (_Pbs, PBSExecutorConfig),
    "pbs_classic": (_PbsClassic, PBSExecutorConfig),
    "lsf": (_Lsf, LsfExecutorConfig),
}


def submitter(scheduler: Scheduler, dialect: Dialect, work_directory: Path, timeout: float) -> _Submitter:
    """Make an executor that submits jobs.

    Args:
        work_directory: for scripts while they are submitted.
        timeout: seconds that a command may take.
    """
    executor, config = _KINDS[dialect.name]
    made = executor(None, config(work_directory=work_directory))
    made.scheduler, made.dialect, made.timeout = scheduler, dialect, timeout
    made.place = str(made.work_directory)
    made.now = _Submission()
    return made
