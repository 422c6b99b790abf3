"""That each rank is given its number, whatever has started it, on every backend."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc.backends.local.launch import launch_line
from asyncflow_hpc.backends.psij.kinds import kind_of
from asyncflow_hpc.task import TaskDescription

# What a launcher sets in rank 2 of 3; beside it, what is there from whoever has started the job or the launcher itself.
RANKS_OF = {
    "srun": {"SLURM_PROCID": "2"},
    "srun --mpi=pmi2": {"SLURM_PROCID": "2", "PMI_RANK": "2"},
    "srun --mpi=pmix": {"SLURM_PROCID": "2", "PMIX_RANK": "2"},
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2"},
    "Open MPI, daemons by srun": {"OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2", "SLURM_PROCID": "0", "PMI_RANK": "0"},
    "Hydra": {"PMI_RANK": "2"},
    "Hydra, daemons by srun": {"PMI_RANK": "2", "SLURM_PROCID": "1", "PMIX_RANK": "1"},
    "PALS": {"PALS_RANKID": "2", "PMI_RANK": "2"},
    "MVAPICH": {"MV2_COMM_WORLD_RANK": "2", "SLURM_PROCID": "0"},
    "jsrun": {"JSM_NAMESPACE_RANK": "2", "OMPI_COMM_WORLD_RANK": "2"},
    "a script of the site": {"ASYNCFLOW_RANK": "2", "SLURM_PROCID": "0"},
}
_INHERITED = {"SLURM_PROCID": "0", "PMI_RANK": "1", "OMPI_COMM_WORLD_RANK": "0", "ASYNCFLOW_RANK": "0"}
_SHOW = ["/bin/sh", "-c", 'echo "$ASYNCFLOW_RANK of $ASYNCFLOW_SIZE"']


def started_with(argv: list[str], tmp_path: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Start ranks by a launcher that starts one of them, with variables."""
    assignments = " ".join(f"{name}={value}" for name, value in variables.items())
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\nuntil [ "$1" = /bin/sh ]; do shift; done\n{assignments} exec "$@"\n')
    launcher.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "ASYNCFLOW_SANDBOX": str(tmp_path), **_INHERITED}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def lines_of(launcher: str, ranks: int = 3) -> dict[str, list[str]]:
    description = TaskDescription(ranks=ranks, launcher=launcher)
    task: Any = {"uid": "u", "command": _SHOW, "function": None, "args": (), "kwargs": {}}
    lines = {"local": launch_line(task, description)}
    for name in ("slurm", "pbs", "pbs_classic", "lsf"):
        lines[name] = kind_of(name).dialect.launch_line(_SHOW, description, "py")
    return lines


@pytest.mark.parametrize("what", RANKS_OF)
@pytest.mark.parametrize("where", ["local", "slurm", "pbs", "pbs_classic", "lsf"])
def test_every_rank_knows_its_number_whatever_starts_it(where: str, what: str, tmp_path: Path) -> None:
    (tmp_path / ".asyncflow").mkdir()
    launcher = str(tmp_path / "launcher")
    found = started_with(lines_of(launcher)[where], tmp_path, RANKS_OF[what])
    assert (found.stdout, found.stderr) == ("2 of 3\n", "")


@pytest.mark.parametrize("where", ["local", "slurm", "pbs", "pbs_classic", "lsf"])
def test_a_rank_that_nobody_numbers_fails(where: str, tmp_path: Path) -> None:
    launcher = str(tmp_path / "launcher")
    found = started_with(lines_of(launcher)[where], tmp_path, {})
    assert found.returncode == 125 and "let it set ASYNCFLOW_RANK" in found.stderr and found.stdout == ""
    # One alone is the first.
    assert started_with(lines_of(launcher, 1)[where], tmp_path, {}).stdout == "0 of 1\n"
