"""Executors of PSI/J through which RADICAL-Pilot starts our pilots; loaded in its launching process.

Its own way asks for neither memory nor GPUs nor a job name, and looks at the queue every 30 s.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import IO, Any

from psij.executors.batch.slurm import SlurmExecutorConfig, SlurmJobExecutor
from psij.executors.local import LocalJobExecutor

from ..psij.dialect import directives
from .environment import ERROR, JOB, OPTIONS

__all__ = ["LocalPilots", "SlurmPilots"]

# Seconds between two looks at the queue: a pilot's end is seen by the driver itself.
_POLL = 5

# A session of its own on this machine, so that a pilot can be ended as a whole.
_LEAD = 'echo "$$" >"$1" && shift && exec "$@"'


class LocalPilots(LocalJobExecutor):
    """Starts pilots on this machine."""

    def submit(self, job: Any) -> None:
        """Start a pilot."""
        spec = job.spec
        spec.arguments = ["/bin/sh", "-c", _LEAD, "sh", f"{spec.directory}/{JOB}", spec.executable, *spec.arguments]
        spec.executable = "setsid"
        # Only the launching process knows what environment we gave it; RADICAL-Pilot asks for it by the name "local".
        spec.inherit_environment = True
        super().submit(job)


class SlurmPilots(SlurmJobExecutor):
    """Submits pilots to Slurm."""

    def __init__(self, url: str | None = None, config: Any = None) -> None:
        super().__init__(url, SlurmExecutorConfig(queue_polling_interval=_POLL, initial_queue_polling_delay=_POLL))

    def generate_submit_script(self, job: Any, context: dict[str, object], submit_file: IO[str]) -> None:
        """Write the batch script of a pilot."""
        spec, sandbox = job.spec, Path(job.spec.directory)
        options = json.loads((sandbox.parents[2] / OPTIONS).read_text(encoding="utf-8"))
        options = {"chdir": str(sandbox), "output": spec.stdout_path, "export": "NONE", **options}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in (spec.environment or {}).items()]
        command = shlex.join([spec.executable, *spec.arguments])
        lines = ["#!/bin/bash", *directives(options, "#SBATCH --", "="), "unset SLURM_EXPORT_ENV", *exports]
        submit_file.write("\n".join([*lines, f"exec {command}", ""]))

    def submit(self, job: Any) -> None:
        """Submit a pilot, and note its id."""
        try:
            super().submit(job)
        except Exception as error:
            # RADICAL-Pilot tells only that it failed.
            Path(job.spec.directory, ERROR).write_text(f"{error}\n", encoding="utf-8")
            raise
        Path(job.spec.directory, JOB).write_text(f"{job.native_id}\n", encoding="utf-8")
