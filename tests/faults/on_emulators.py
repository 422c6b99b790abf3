"""What the fault tests on emulated batch systems have in common."""

from __future__ import annotations

import subprocess
from typing import Any

from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.testing import Emulation

KINDS = ("pbs", "pbs_classic", "lsf")

# Command for each thing that people do to jobs.
SUBMIT = {"pbs": "qsub", "pbs_classic": "qsub", "lsf": "bsub"}
STATUS = {"pbs": "qstat", "pbs_classic": "qstat", "lsf": "bjobs"}
LIST = {"pbs": "qselect", "pbs_classic": "qselect", "lsf": "bjobs"}
CANCEL = {"pbs": "qdel", "pbs_classic": "qdel", "lsf": "bkill"}
RELEASE = {"pbs": "qrls", "pbs_classic": "qrls", "lsf": "bresume"}
HISTORY = {"pbs": "qstat", "pbs_classic": None, "lsf": "bhist"}

HELD: dict[str, dict[str, Any]] = {
    "pbs": {"pbs": {"h": True}},
    "pbs_classic": {"pbs": {"h": True}},
    "lsf": {"lsf": {"H": True}},
}

QUICK: dict[str, Any] = {"kill_delay": 10.0, "walltime_delay": 0.2}


def backend(emulated: Emulation, **more: Any) -> PsijExecutionBackend:
    """A backend in a hurry."""
    settings = {"poll_interval": 1.0, "submit_rate": 200.0, "grace": 5.0, "patience": 2}
    return PsijExecutionBackend(emulated.kind, **{**settings, **more})


def call(*words: str) -> str:
    """Call a command as a user does; it must not fail."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
