"""The clusters that scripts/test starts (scripts/slurm-cluster), and what a test needs in its environment for one."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = [
    "CLUSTER",
    "CLUSTER_FOR_PILOTS",
    "CLUSTER_OF_24_11",
    "CLUSTER_OF_24_11_WITH_ACCOUNTING",
    "CLUSTER_WITH_ACCOUNTING",
    "CLUSTER_WITH_CGROUPS",
    "settings_for",
]

# Their directories; empty where there is none.
CLUSTER = os.environ.get("ASYNCFLOW_TEST_SLURM", "")
CLUSTER_FOR_PILOTS = os.environ.get("ASYNCFLOW_TEST_SLURM_PILOTS", "")
CLUSTER_WITH_ACCOUNTING = os.environ.get("ASYNCFLOW_TEST_SLURM_ACCOUNTING", "")
CLUSTER_WITH_CGROUPS = os.environ.get("ASYNCFLOW_TEST_SLURM_CGROUPS", "")
CLUSTER_OF_24_11 = os.environ.get("ASYNCFLOW_TEST_SLURM_24_11", "")
CLUSTER_OF_24_11_WITH_ACCOUNTING = os.environ.get("ASYNCFLOW_TEST_SLURM_24_11_ACCOUNTING", "")

_PATH = os.environ.get("PATH", os.defpath)


def settings_for(cluster: str, path: str = _PATH) -> dict[str, str]:
    """Return the variables with which the commands of Slurm are those of a cluster.

    Args:
        cluster: its directory.
        path: comes after its own programs, if it is not the distribution's Slurm.
    """
    prefix = json.loads((Path(cluster) / "slurm-cluster.json").read_text())["prefix"]
    return {"SLURM_CONF": f"{cluster}/etc/slurm.conf", "PATH": f"{prefix}/bin:{path}" if prefix else path}
