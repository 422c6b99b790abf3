"""The environment of a scheduler's commands: the user's, without what would make of them something else.

What a user sets for the submit command, such as SBATCH_ACCOUNT, holds. What goes is what the scheduler set in the
driver's own job, if the driver runs in one, and what would change which jobs are submitted, listed or cancelled.

Sources: sbatch(1), srun(1), scancel(1), squeue(1), sacct(1), sections on environment variables; PBS Professional
Reference Guide, "PBS environment variables"; Torque Administrator Guide, qsub; IBM Spectrum LSF 10.1, "Environment
variables".
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

__all__ = ["clean_environment", "own_job_variables"]


def _names(text: str) -> re.Pattern[str]:
    """Make a pattern of names; "*" stands for any end of a name."""
    return re.compile("|".join(re.escape(word).replace(r"\*", r"\w*") for word in text.split()))


# By the variables that tell that the driver runs in a job: what the scheduler sets in one.
_OF_A_JOB = (
    (
        ("SLURM_JOB_ID", "SLURM_JOBID"),
        _names(
            """
            SLURM_JOB* SLURM_STEP* SLURM_ARRAY_* SLURM_NODE* SLURM_NNODES SLURM_NTASKS* SLURM_NPROCS SLURM_TASK_PID
            SLURM_TASKS_PER_NODE* SLURM_CPUS_* SLURM_CPU_BIND* SLURM_CPU_FREQ_REQ SLURM_MEM_* SLURM_GPU* SLURM_SHARDS_*
            SLURM_TRES_* SLURM_GTIDS SLURM_PROCID SLURM_LOCALID SLURM_CLUSTER_NAME SLURM_WORKING_CLUSTER SLURM_SUBMIT_*
            SLURM_TOPOLOGY_* SLURM_PRIO_PROCESS SLURM_UMASK SLURM_DIST* SLURM_HINT SLURM_GET_USER_ENV SLURM_HET_*
            SLURM_PACK_* SLURM_LAUNCH_NODE_IPADDR SLURM_SRUN_COMM_* SLURM_PTY_* SLURM_RESTART_COUNT SLURM_RESV_PORTS
            SLURM_PROFILE SLURM_ACCTG_FREQ SLURM_OVERCOMMIT SLURM_THREADS_PER_CORE SLURM_CONTAINER* SLURM_OOM_KILL_STEP
            SLURM_SPANK_* SLURM_SCRIPT_CONTEXT SLURM_SEGMENT_SIZE SLURM_OPEN_MODE SLURM_NETWORK SLURMD_* SRUN_DEBUG
            SBATCH_CPU_BIND* SBATCH_MEM_BIND* PMI_FD PMI_JOBID PMI_RANK PMI_SIZE PMIX_RANK PMIX_NAMESPACE PMIX_SERVER_*
            """
        ),
    ),
    (
        ("PBS_JOBID",),
        _names(
            """
            PBS_ENVIRONMENT PBS_JOB* PBS_NODEFILE PBS_NODENUM PBS_O_* PBS_QUEUE PBS_TASKNUM PBS_MOMPORT PBS_ARRAY*
            PBS_NUM_* PBS_NP PBS_VNODENUM PBS_WALLTIME PBS_GPUFILE PBS_MICFILE PBS_VERSION PBS_TMPDIR
            """
        ),
    ),
    (
        ("LSB_JOBID",),
        _names(
            """
            LSB_JOB* LSB_HOSTS LSB_MCPU_HOSTS LSB_DJOB_* LSB_QUEUE LSB_SUB_HOST LSB_SUB_USER LSB_SUB_RES_REQ
            LSB_EFFECTIVE_RSRCREQ LSB_BATCH_JID LSB_BIND_* LSB_CHKFILENAME LSB_ERRORFILE LSB_OUTPUTFILE LSB_INPUTFILE
            LSB_EXEC* LSB_EEXEC_* LSB_EXIT_* LSB_ACCT_FILE LSB_AFFINITY_* LSB_INTERACTIVE LSB_MAX_NUM_PROCESSORS
            LSB_OLD_JOBID LSB_PROJECT_NAME LSB_RES_GET_FANOUT_INFO LSB_RESTART* LSB_SUSP_* LSB_TRAPSIGS
            LSB_UNIXGROUP_INT LSB_XFJOB LS_JOBPID LS_SUBCWD LS_EXEC_T
            """
        ),
    ),
)

# What would make of a submission, or of the ranks that a job starts, something that nobody asked for.
_CHANGING = _names(
    """
    SBATCH_ARRAY* SBATCH_CHDIR SBATCH_CLUSTERS SBATCH_DEBUG SBATCH_ERROR SBATCH_EXPORT* SBATCH_GET_USER_ENV SBATCH_INPUT
    SBATCH_JOB_NAME SBATCH_NO_REQUEUE SBATCH_OPEN_MODE SBATCH_OUTPUT SBATCH_PARSABLE SBATCH_QUIET SBATCH_REQUEUE
    SBATCH_SIGNAL SBATCH_TEST_ONLY SBATCH_VERBOSE SBATCH_WAIT SBATCH_WORKDIR SBATCH_WRAP
    SLURM_EXIT_ERROR SLURM_EXIT_IMMEDIATE SLURM_EXPORT_ENV SLURM_IMMEDIATE SLURM_LABELIO SLURM_MULTI_PROG
    SLURM_REMOTE_CWD SLURM_SRUN_MULTI SLURM_STDERRMODE SLURM_STDINMODE SLURM_STDOUTMODE SLURM_TIMELIMIT
    SLURM_WORKING_DIR SRUN_CHDIR SRUN_ERROR SRUN_EXPORT_ENV SRUN_INPUT SRUN_OUTPUT
    PBS_DPREFIX PBS_QSTAT_EXECONLY
    BSUB_BLOCK BSUB_CHK_RESREQ BSUB_QUIET* BSUB_STDERR
    """
)

# What would hide jobs from a question, or keep some from being cancelled; none of it concerns a submission.
_HIDING = _names("SCANCEL_* SQUEUE_* SACCT_* LSB_BJOBS_*")

# Most variables have no such name, and need no further look.
_SUSPECT = ("SLURM", "SBATCH_", "SRUN_", "SCANCEL_", "SQUEUE_", "SACCT_", "PMI", "PBS_", "LSB_", "LS_", "BSUB_")


def clean_environment(
    without: Collection[str] = (), asking: bool = False, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the environment of a command of the scheduler, or of what is started in a job of its own.

    Args:
        without: further variables that go.
        asking: the command asks for jobs, or cancels them.
        environment: the driver's.
    """
    own = own_job_variables(environment)
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_SUSPECT)
        or not (name in own or name in without or _CHANGING.fullmatch(name) or (asking and _HIDING.fullmatch(name)))
    }


def own_job_variables(environment: Mapping[str, str]) -> set[str]:
    """Return the names of what a scheduler set in the driver's own job; none where the driver runs in no job."""
    patterns = [pattern for telling, pattern in _OF_A_JOB if any(name in environment for name in telling)]
    return {name for pattern in patterns for name in environment if pattern.fullmatch(name)}
