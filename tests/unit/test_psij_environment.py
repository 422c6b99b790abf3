"""Which variables of a driver its scheduler's commands get, and the jobs that they submit."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from asyncflow_hpc.backends.psij.commands import run_blocking, run_command
from asyncflow_hpc.backends.psij.environment import clean_environment
from asyncflow_hpc.backends.psij.slurm_dialect import SlurmDialect
from asyncflow_hpc.task import TaskDescription

# What users and their modules set; a driver in a job or not.
USERS = (
    *(
        "SLURM_CONF",
        "SLURM_CLUSTERS",
        "SLURM_MPI_TYPE",
        "SLURM_TASK_PROLOG",
        "SLURM_UNBUFFEREDIO",
        "SRUN_CPUS_PER_TASK",
    ),
    *("SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_TIMELIMIT", "SBATCH_CONSTRAINT", "SBATCH_WCKEY"),
    *("PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT", "PBS_CLIENTRETRY", "PBS_EXEC"),
    *("LSB_DEFAULTQUEUE", "LSB_DEFAULTPROJECT", "LSB_DEFAULT_USERGROUP", "LSB_SUB_PARM", "LSB_CONFDIR", "LSF_ENVDIR"),
    *("LS_COLORS", "PATH", "OMP_NUM_THREADS", "SLURMISH", "PMIX_MCA_psec"),
)

# What each scheduler sets in a job.
JOBS: dict[str, tuple[str, ...]] = {
    "SLURM_JOB_ID": (
        *("SLURM_JOBID", "SLURM_JOB_NAME", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_PROCID", "SLURM_CPUS_PER_TASK"),
        *("SLURM_MEM_PER_CPU", "SLURM_ARRAY_TASK_ID", "SLURM_TRES_PER_TASK", "SLURM_CPU_BIND", "SLURM_DISTRIBUTION"),
        *("SLURM_SUBMIT_DIR", "SLURM_GPUS", "SLURM_STEP_ID", "SLURM_HINT", "SLURMD_NODENAME", "SBATCH_CPU_BIND_TYPE"),
        *("PMI_RANK", "PMIX_NAMESPACE"),
    ),
    "PBS_JOBID": ("PBS_NODEFILE", "PBS_O_PATH", "PBS_ENVIRONMENT", "PBS_ARRAY_INDEX", "PBS_NUM_PPN", "PBS_QUEUE"),
    "LSB_JOBID": ("LSB_HOSTS", "LSB_DJOB_HOSTFILE", "LSB_JOBNAME", "LSB_SUB_RES_REQ", "LSB_QUEUE", "LS_SUBCWD"),
}

# What would change what a job is, whoever has set it.
CHANGING = (
    *("SBATCH_ARRAY_INX", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_INPUT", "SBATCH_EXPORT", "SBATCH_WAIT"),
    *("SBATCH_CLUSTERS", "SBATCH_JOB_NAME", "SBATCH_SIGNAL", "SBATCH_REQUEUE", "SBATCH_NO_REQUEUE", "SLURM_EXIT_ERROR"),
    *("SLURM_EXPORT_ENV", "SLURM_STDOUTMODE", "SLURM_LABELIO", "SLURM_WORKING_DIR", "PBS_DPREFIX", "BSUB_QUIET"),
    *("BSUB_BLOCK", "BSUB_CHK_RESREQ"),
)

HIDING = ("SCANCEL_STATE", "SCANCEL_USER", "SQUEUE_STATES", "SQUEUE_LOCAL", "SACCT_FORMAT", "LSB_BJOBS_FORMAT")


def kept(*names: str, asking: bool = False, without: frozenset[str] = frozenset()) -> set[str]:
    return set(clean_environment(without, asking, dict.fromkeys(names, "x")))


@pytest.mark.parametrize("asking", [False, True])
@pytest.mark.parametrize("telling", [None, *JOBS])
def test_what_users_set_holds(telling: str | None, asking: bool) -> None:
    own = () if telling is None else (telling, *JOBS[telling])
    assert kept(*USERS, *own, asking=asking) == set(USERS)


@pytest.mark.parametrize("telling", JOBS)
def test_only_in_a_job_are_there_variables_of_the_drivers_own_job(telling: str) -> None:
    names = [name for name in JOBS[telling] if name != "SLURM_JOBID"]
    assert kept(*names) == set(names)
    assert kept(telling, *JOBS[telling]) == set()
    others = {name for other, names in JOBS.items() if other != telling for name in names if name != "SLURM_JOBID"}
    assert kept(telling, *others) == others


def test_what_would_change_a_job_or_a_question_goes() -> None:
    assert kept(*CHANGING) == kept(*CHANGING, asking=True) == set()
    assert kept(*HIDING, asking=True) == set() and kept(*HIDING) == set(HIDING)


@pytest.mark.parametrize(
    ("values", "native", "gone", "stays"),
    [
        ({}, {}, {"SBATCH_CPUS_PER_GPU"}, {"SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_QOS"}),
        ({"queue": "q"}, {}, {"SBATCH_PARTITION"}, {"SBATCH_QOS", "SBATCH_ACCOUNT"}),
        ({"account": "a", "qos": "q"}, {}, {"SBATCH_ACCOUNT", "SBATCH_QOS"}, {"SBATCH_PARTITION"}),
        ({"walltime": 60}, {}, {"SBATCH_TIMELIMIT"}, set()),
        ({"mem_per_rank": "1GB"}, {}, {"SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"}, set()),
        ({"gpus_per_rank": 1}, {}, {"SBATCH_GPUS", "SBATCH_GRES", "SBATCH_GPUS_PER_NODE"}, {"SBATCH_MEM_PER_NODE"}),
        ({"exclusive": True}, {}, {"SBATCH_EXCLUSIVE"}, set()),
        ({}, {"threads-per-core": 1}, {"SLURM_HINT", "SBATCH_HINT", "SBATCH_THREADS_PER_CORE"}, {"SBATCH_GRES"}),
        ({}, {"mem": "1G", "wckey": "w"}, {"SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_WCKEY"}, set()),
    ],
)
def test_what_a_task_asks_for_goes_before_variables_of_sbatch(
    values: Any, native: Any, gone: set[str], stays: set[str]
) -> None:
    options = SlurmDialect().options(TaskDescription.from_dict({**values, "slurm": native}), "n", "/s", "")
    unset = SlurmDialect().submission("/script", options).unset
    assert gone <= unset and not stays & unset
    assert kept(*gone, *stays, without=unset) == stays


async def test_commands_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCANCEL_STATE", "SLURM_EXIT_ERROR", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    show = [sys.executable, "-c", "import os; print(*sorted(os.environ))"]
    for answer in (run_blocking(show, 60.0), await run_command(show, 60.0)):
        found = set(answer[1].decode().split())
        assert "SBATCH_ACCOUNT" in found and not found & {"SCANCEL_STATE", "SLURM_EXIT_ERROR"}
