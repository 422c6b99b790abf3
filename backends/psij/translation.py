"""From a task and what its scheduler is told to the job that PSI/J submits."""

from __future__ import annotations

import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

from asyncflow_hpc.task import TaskDescription

from .dialect import Dialect, Options

__all__ = ["batch_script", "job_spec"]


def job_spec(
    dialect: Dialect, description: TaskDescription, options: Options, name: str, script: str, sandbox: str
) -> Any:
    """Make the PSI/J job; what its resource specification has no word for goes along as native options."""
    from psij import JobAttributes, JobSpec, ResourceSpecV1

    ranks, memory = description.ranks, description.mem_per_rank
    limit = timedelta(minutes=10) if description.walltime is None else timedelta(seconds=description.walltime)
    return JobSpec(
        executable="/bin/sh",
        arguments=[script],
        directory=Path(sandbox),
        name=name,
        resources=ResourceSpecV1(
            process_count=ranks,
            cpu_cores_per_process=description.cores_per_rank,
            gpu_cores_per_process=description.gpus_per_rank or None,
            exclusive_node_use=description.exclusive,
            memory=None if memory is None else ranks * memory,
        ),
        attributes=JobAttributes(
            duration=limit,
            queue_name=description.queue,
            account=description.account,
            reservation_id=description.reservation,
            custom_attributes={f"{dialect.namespace}.{key}": value for key, value in options.items()},
        ),
    )


def batch_script(dialect: Dialect, spec: Any) -> str:
    """Write the batch script of a PSI/J job."""
    options = {key.partition(".")[2]: value for key, value in (spec.attributes.custom_attributes or {}).items()}
    return dialect.script(options, str(spec.directory), f"exec {spec.executable} {shlex.quote(spec.arguments[0])}")
