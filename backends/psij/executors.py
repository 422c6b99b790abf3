"""PSI/J's Slurm executor without its status layer, its template, and its commands without a time limit.

PSI/J reports COMPLETED for jobs that the queue no longer lists, and its template hides a job's exit code from the
scheduler. Here it submits; the completion record and our own watcher say what became of a job.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import IO, Any

from psij.executors.batch.slurm import SlurmExecutorConfig, SlurmJobExecutor

from .slurm import parse_submitted
from .translation import job_script

__all__ = ["CommandTimeoutError", "SlurmSubmitter", "clean_environment", "script_of"]

_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")


class CommandTimeoutError(Exception):
    """A command of the scheduler did not answer in time; what it was to do may have been done."""


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
        try:
            done = subprocess.run(
                cmd,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=self._timeout,
                env=clean_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(f"{cmd[0]} did not answer in {self._timeout:g} s") from None
        out = done.stdout.decode(errors="replace")
        self.returncode = done.returncode
        if done.returncode != 0:
            text = done.stderr.decode(errors="replace") + out
            raise subprocess.CalledProcessError(done.returncode, cmd, text)
        return out


def script_of(spec: Any) -> str:
    """Write the batch script of a PSI/J job."""
    options = {key.partition(".")[2]: value for key, value in (spec.attributes.custom_attributes or {}).items()}
    return job_script(options, [f"exec {spec.executable} {shlex.quote(spec.arguments[0])}"])


def clean_environment() -> dict[str, str]:
    """Return the driver's environment without what Slurm told it about its own job, if it runs in one."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    }
