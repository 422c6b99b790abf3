"""The batch scripts that tasks are submitted as on each site of configs/, held in tests/unit/golden/<site>.

To write them anew: `ASYNCFLOW_WRITE_GOLDEN=1 pytest tests/unit/test_site_golden.py`, and read the difference. Profiles
of no machine (slurm, pbs, pbs_classic, lsf, local) have theirs in test_psij_golden.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import load_site
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.limits import queues_for, unknown_queue
from asyncflow_hpc.registry import SCHEDULERS
from asyncflow_hpc.site_model import Site
from asyncflow_hpc.task import TaskDescription
from tests.unit.scheduler_options import OPTIONS, undocumented
from tests.unit.test_psij_golden import GOLDEN, preview_on

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SITES = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - SCHEDULERS)
WALLTIME = "00:20:00"


def site_of(name: str) -> Site:
    return load_site(CONFIGS / f"{name}.yaml")


def cpu(site: Site) -> dict[str, Any]:
    """One process on four cores."""
    return {"cores_per_rank": 4}


def mpi(site: Site) -> dict[str, Any]:
    """MPI over two nodes, a rank for each core of a small part of them."""
    return {"ranks": 8, "nodes": 2, "ranks_per_node": 4}


def gpu(site: Site) -> dict[str, Any] | None:
    """One process with one GPU, on nodes that have some; None where there are none."""
    kind = next((kind for kind in site.nodes.values() if kind.gpus), None)
    if kind is None:
        return None
    return {"gpus_per_rank": 1, **({} if kind.constraint is None else {"constraint": kind.constraint})}


TASKS = {"cpu": cpu, "mpi": mpi, "gpu": gpu}
CASES = [(site, task) for site in SITES for task in TASKS if TASKS[task](site_of(site)) is not None]


def asked_on(site: Site, task: str) -> dict[str, Any]:
    """Complete a task with an account and, where the default queue would not take it, with one that would."""
    values = {"walltime": WALLTIME, "account": "proj1", **(TASKS[task](site) or {})}
    names = queues_for(site, TaskDescription.from_dict({**site.defaults, **values}))
    default = {site.defaults.get("queue"), site.defaults.get("qos")} - {None}
    if names and not (default & set(names) or (not default and task != "gpu")):
        values[site.queues[names[0]].by] = names[0]
    return values


def script_of(name: str, task: str) -> str:
    """Write the batch script of a task on a site, and what starts it; its limits are held."""
    backend = PsijExecutionBackend(site=CONFIGS / f"{name}.yaml", python="/usr/bin/python3")
    description = TaskDescription.from_dict(asked_on(site_of(name), task))
    backend.check_description(description)
    return preview_on(backend, description)


@pytest.mark.parametrize(("site", "task"), CASES)
def test_scripts(site: str, task: str) -> None:
    path, text = GOLDEN / site / f"{task}.sh", script_of(site, task)
    if os.environ.get("ASYNCFLOW_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"a new profile: ASYNCFLOW_WRITE_GOLDEN=1 pytest {Path(__file__).name}, and read {path}"
    assert text == path.read_text()


def test_none_is_left_of_a_profile_that_is_gone() -> None:
    there = {(path.parent.name, path.stem) for path in GOLDEN.glob("*/*.sh")}
    generic = {(name, task) for name in SCHEDULERS - {"local"} for task in TASKS}
    assert there == {*CASES, *generic}


@pytest.mark.parametrize(("site", "task"), CASES)
def test_the_directives_are_documented_ones(site: str, task: str) -> None:
    scheduler, script = site_of(site).scheduler, script_of(site, task)
    assert script.count(OPTIONS[scheduler][0]) >= 5
    assert undocumented(scheduler, script) == []


@pytest.mark.parametrize("scheduler", sorted(OPTIONS))
def test_those_of_the_generic_profiles_are_documented(scheduler: str) -> None:
    for path in (GOLDEN / scheduler).glob("*.sh"):
        assert undocumented(scheduler, path.read_text()) == []


@pytest.mark.parametrize(
    ("scheduler", "line"),
    [
        ("slurm", "#SBATCH --partitoin=x"),
        ("slurm", "#SBATCH --partition"),
        ("slurm", "#SBATCH --requeue=1"),
        ("slurm", "#SBATCH -p x"),
        ("pbs", "#PBS -n"),
        ("pbs", "#PBS -l"),
        ("pbs", "#PBS -V x"),
        ("pbs_classic", "#PBS -J 1-2"),
        ("lsf", "#BSUB -Wx 3"),
        ("lsf", "#BSUB --queue x"),
    ],
)
def test_what_is_not_documented_is_found(scheduler: str, line: str) -> None:
    assert undocumented(scheduler, f"#!/bin/sh\n{line}\ntrue\n") == [line]


@pytest.mark.parametrize("name", SITES)
def test_the_default_queue_is_known(name: str) -> None:
    site = site_of(name)
    assert unknown_queue(site, TaskDescription.from_dict(site.defaults)) is None
