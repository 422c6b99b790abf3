"""The batch scripts that tasks are submitted as, held in tests/unit/golden: what a preview shows.

To write them anew: `ASYNCFLOW_WRITE_GOLDEN=1 pytest tests/unit/test_psij_golden.py`, and read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.backends.psij.jobs import BatchJob
from asyncflow_hpc.backends.psij.placing import Placing
from asyncflow_hpc.backends.runner_text import RUNNER
from asyncflow_hpc.backends.staging import Plan
from asyncflow_hpc.task import TaskDescription

GOLDEN = Path(__file__).parent / "golden"
BACKENDS = Path(__file__).resolve().parents[2] / "backends"

COMMON: dict[str, Any] = {"walltime": "01:30:00", "queue": "batch", "account": "proj1"}
TASKS: dict[str, dict[str, Any]] = {
    "cpu": {**COMMON, "cores_per_rank": 4, "mem_per_rank": "2GB"},
    "mpi": {**COMMON, "ranks": 8, "nodes": 2, "cores_per_rank": 2, "exclusive": True},
    "gpu": {**COMMON, "gpus_per_rank": 1, "cores_per_rank": 8, "mem_per_rank": "16GB"},
}


def preview_on(backend: PsijExecutionBackend, description: TaskDescription) -> str:
    """Write the batch script of a task, and its task.sh."""
    session, name = "/scratch/me/my runs/session.000001", "session.000001.task.000001"
    task: Any = {"uid": "task.000001", "name": "simulate", "command": ["./simulate", "in put.dat"]}
    task["description"] = description
    job = BatchJob(task, backend.describe(task), Plan(), name, session, f"{session}/task.000001", "0" * 32)
    batch, *_, scripts = Placing(backend, 60.0).preview(job).partition("\n\n")
    task_script = scripts.rpartition("#!/bin/sh")[2].partition(RUNNER)[0].rstrip("\n")
    text = f"{batch}\n\n# {job.sandbox}/.asyncflow/task.sh\n#!/bin/sh{task_script}\n"
    text = re.sub(r"runner\.[0-9a-f]{12}", "runner", text)
    # Quoted where this checkout has a space in its path.
    return re.sub(rf"'?{re.escape(str(BACKENDS))}([\w/.]*)'?", r"BACKENDS\1", text)


def preview(scheduler: str, values: dict[str, Any]) -> str:
    backend = PsijExecutionBackend(scheduler, python="/usr/bin/python3")
    return preview_on(backend, TaskDescription.from_dict(values))


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "pbs_classic", "lsf"])
def test_scripts(scheduler: str, task: str) -> None:
    path, text = GOLDEN / scheduler / f"{task}.sh", preview(scheduler, TASKS[task])
    if os.environ.get("ASYNCFLOW_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
