"""PSI/J's Slurm executor without its status layer, its template, and its commands without a time limit.

PSI/J reports COMPLETED for jobs that the queue no longer lists, and its template hides a job's exit code from the
scheduler. Here it submits; the completion record and our own watcher say what became of a job.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import IO, Any

from psij.executors.batch.slurm import SlurmExecutorConfig, SlurmJobExecutor

from .commands import run_blocking
from .slurm import parse_submitted
from .translation import job_script

__all__ = ["SlurmSubmitter", "script_of"]


class _NoPolling:
    """Stands for the thread that asks the queue."""

    def register_job(self, job: Any) -> None:
        """Do nothing."""

    def unregister_job(self, job: Any) -> None:
        """Do nothing."""


class SlurmSubmitter(SlurmJobExecutor):
    """Submits to Slurm through PSI/J.

    Args:
        work_directory: for the scripts while they are submitted.
        timeout: seconds that a command may take.

    Attributes:
        returncode: of the last command.
    """

    _NAME_ = "slurm"

    def __init__(self, work_directory: Path, timeout: float) -> None:
        super().__init__(config=SlurmExecutorConfig(work_directory=work_directory))
        self._timeout = timeout
        self.returncode = 0

    def _start_queue_poll_thread(self) -> Any:
        return _NoPolling()

    def _create_script_context(self, job: Any) -> dict[str, object]:
        return {}

    def generate_submit_script(self, job: Any, context: dict[str, object], submit_file: IO[str]) -> None:
        """Write the script of a job."""
        submit_file.write(script_of(job.spec))

    def get_submit_command(self, job: Any, submit_file_path: Path) -> list[str]:
        """Return the command that submits a script."""
        return ["sbatch", "--parsable", str(submit_file_path.absolute())]

    def job_id_from_submit_output(self, out: str) -> str:
        """Take the id from what sbatch said: "id" or "id;cluster"."""
        return parse_submitted(out) or ""

    def _run_command(self, cmd: list[str]) -> str:
        self.returncode, out, err = run_blocking(cmd, self._timeout)
        if self.returncode != 0:
            raise subprocess.CalledProcessError(self.returncode, cmd, (err + out).decode(errors="replace"))
        return out.decode(errors="replace")


def script_of(spec: Any) -> str:
    """Write the batch script of a PSI/J job."""
    options = {key.partition(".")[2]: value for key, value in (spec.attributes.custom_attributes or {}).items()}
    return job_script(options, [f"exec {spec.executable} {shlex.quote(spec.arguments[0])}"])
