"""The shell lines that give each rank of a task its number, whatever has started it.

Sources: mpirun(1) of Open MPI 4 and 5; the Hydra process manager of MPICH and Intel MPI; mpiexec(1) of Cray PALS; jsrun
of IBM Spectrum MPI; MVAPICH2 user guide; flux-run(1); aprun(1); srun(1).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FORGET", "started_by", "telling"]

# The first that is set counts: those of the launcher that starts the ranks itself come before those that a launcher may
# have inherited, as Open MPI and Hydra start their own daemons by srun. The first of all is for ranks.py, and for
# launchers of a site that set it.
_VARIABLES = (
    *("ASYNCFLOW_RANK", "OMPI_COMM_WORLD_RANK", "JSM_NAMESPACE_RANK", "PALS_RANKID", "MV2_COMM_WORLD_RANK"),
    *("FLUX_TASK_RANK", "ALPS_APP_PE", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"),
)

# Before the ranks are started: what is there may be the number of the job's own script, or of the driver.
FORGET = f"unset {' '.join(_VARIABLES)}"


def telling(ranks: int) -> str:
    """Write the line that sets ASYNCFLOW_RANK and ASYNCFLOW_SIZE in a rank; it ends one that has no number.

    Args:
        ranks: how many there are.
    """
    number = "" if ranks > 1 else "0"
    for name in reversed(_VARIABLES):
        number = f"${{{name}:-{number}}}"
    line = f'export ASYNCFLOW_RANK="{number}" ASYNCFLOW_SIZE={ranks}'
    if ranks == 1:
        return line
    message = f"asyncflow_hpc: the launcher sets no known variable with the rank, of {ranks}: let it set ASYNCFLOW_RANK"
    return f'{line}; [ -n "$ASYNCFLOW_RANK" ] || {{ echo "{message}" >&2; exit 125; }}'


def started_by(launcher: Sequence[str], ranks: int, argv: Sequence[str]) -> list[str]:
    """Make the argv that starts a command on all its ranks by `<launcher> -n <ranks>`."""
    rank = ["/bin/sh", "-c", f'{telling(ranks)}; exec "$@"', "sh"]
    return ["/bin/sh", "-c", f'{FORGET}; exec "$@"', "sh", *launcher, "-n", str(ranks), *rank, *argv]
