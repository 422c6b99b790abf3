"""What tests see of the machine and of the environment in which they are called: the same everywhere."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

__all__ = ["MPIEXEC", "make_known"]

# An MPI that is installed, or empty; xdist's processes no longer find it.
MPIEXEC = os.environ.setdefault("ASYNCFLOW_TEST_MPIEXEC", shutil.which("mpiexec") or "")

_LAUNCHERS = ("mpiexec", "mpiexec.hydra", "mpiexec.openmpi", "mpirun", "mpirun.openmpi", "orterun", "prterun", "prun")

# What a batch job, or a user of this package, has in the environment, but for what scripts/test and developers set.
_OF_THE_CALLER = re.compile(
    r"(SBATCH|SLURM|SRUN|SALLOC|SCANCEL|SQUEUE|SINFO|SACCT|SCONTROL|PBS|LSB|LSF|OMPI|PMI|PMIX|RADICAL|PSIJ|ASYNCFLOW)_"
)
_KEPT = re.compile(r"SLURM_CONF$|ASYNCFLOW_(TEST_|WRITE_GOLDEN$)")


def make_known() -> None:
    """Take away from this process what tests do not expect."""
    for name in [name for name in os.environ if _OF_THE_CALLER.match(name) and not _KEPT.match(name)]:
        del os.environ[name]
    # The caller's own profiles of sites. Tests that have some say where.
    os.environ["XDG_CONFIG_HOME"] = os.path.join(tempfile.gettempdir(), "asyncflow-tests-have-no-configuration")
    os.umask(0o022)
    # A shell starts what it puts in the background with SIGINT ignored, and so would the drivers that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _hide_mpi()


def _hide_mpi() -> None:
    """Put links to all other programs in place of the directories of PATH that hold an MPI.

    With one there, ranks are not started by our own code, but by one that refuses root, or finds too few slots.
    """
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if any(_holds_mpi(directory) for directory in directories):
        place = Path(tempfile.mkdtemp(prefix="asyncflow-programs-", dir="/tmp"))
        # Jobs of other users look for programs there, too.
        place.chmod(0o755)
        atexit.register(_remove, place, os.getpid())
        os.environ["PATH"] = os.pathsep.join(
            _without_mpi(directory, place / str(number)) if _holds_mpi(directory) else directory
            for number, directory in enumerate(directories)
        )


def _holds_mpi(directory: str) -> bool:
    return any(os.access(os.path.join(directory, name), os.X_OK) for name in _LAUNCHERS)


def _without_mpi(directory: str, links: Path) -> str:
    links.mkdir()
    for name in os.listdir(directory):
        if name not in _LAUNCHERS:
            (links / name).symlink_to(os.path.join(os.path.abspath(directory), name))
    return str(links)


def _remove(place: Path, made_by: int) -> None:
    if os.getpid() == made_by:
        shutil.rmtree(place, ignore_errors=True)
