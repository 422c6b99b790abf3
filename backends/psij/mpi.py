"""Starting the ranks of a task where the scheduler has no command of its own for it.

With mpiexec on the node's PATH it starts them: Open MPI, MPICH, Intel MPI and Cray PALS learn from PBS and LSF where.
An installation that has not been built for it puts all ranks on one node: then the task or the site names a launcher.
PBS has an mpiexec of its own, a script that only looks for another one along PBS_O_PATH; it is passed over.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from asyncflow_hpc.task import TaskDescription

from ..numbering import FORGET, started_by, telling

__all__ = ["RANKS", "mpi_launch_line"]

# Without any MPI, ranks on one node are started as the local backend does.
RANKS = str(Path(__file__).resolve().parent.parent / "local" / "ranks.py")

_START = """\
{forget}
n=$1 gpus=$2 python=$3 ranks=$4; shift 4
mpiexec=$(
  set -f
  IFS=:
  for directory in $PATH; do
    found=${{directory:-.}}/mpiexec
    [ -f "$found" ] && [ -x "$found" ] && ! grep -q 'no non-PBS mpiexec' "$found" 2>/dev/null || continue
    # By its path alone, Open MPI would take it for an installation of its own on all nodes.
    [ "$found" = "$(command -v mpiexec)" ] && found=mpiexec
    printf %s "$found"
    break
  done
)
if [ -n "$mpiexec" ]; then exec "$mpiexec" -n "$n" {ranked} "$@"; fi
if [ "$({hosts} | sort -u | wc -l)" -gt 1 ]; then
  echo "there is no mpiexec of an MPI on PATH for ranks on several nodes: set launcher, or load an MPI in pre_exec" >&2
  exit 127
fi
[ -n "${{CUDA_VISIBLE_DEVICES:-}}${{ROCR_VISIBLE_DEVICES:-}}" ] || gpus=0
exec "$python" "$ranks" "$n" "$gpus" "$@\""""


def mpi_launch_line(argv: list[str], description: TaskDescription, python: str, hosts: str) -> list[str]:
    """Make the argv that starts a command on all its ranks.

    Args:
        python: interpreter on the nodes.
        hosts: shell command that prints the nodes of the job, one on each line.
    """
    ranks = description.ranks
    if ranks == 1 and description.launcher is None:
        return argv
    if description.launcher is not None:
        return started_by(shlex.split(description.launcher), ranks, argv)
    ranked = shlex.join(["/bin/sh", "-c", f'{telling(ranks)}; exec "$@"', "sh"])
    start = _START.format(forget=FORGET, ranked=ranked, hosts=hosts)
    return ["/bin/sh", "-c", start, "sh", str(ranks), str(description.gpus_per_rank), python, RANKS, *argv]
