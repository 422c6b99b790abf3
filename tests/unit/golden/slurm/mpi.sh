#!/bin/sh
#SBATCH --job-name=session.000001.task.000001
#SBATCH --chdir='/scratch/me/my runs/session.000001/task.000001'
#SBATCH --output=.asyncflow/job.log
#SBATCH --comment='asyncflow_hpc simulate'
#SBATCH --no-requeue
#SBATCH --export=ALL
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=2
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --time=0-01:30:00
#SBATCH --signal=B:USR2@30
#SBATCH --partition=batch
#SBATCH --account=proj1
exec /bin/sh '/scratch/me/my runs/session.000001/task.000001/.asyncflow/run.sh'

# /scratch/me/my runs/session.000001/task.000001/.asyncflow/task.sh
#!/bin/sh
# task.000001 'simulate', attempt 0
cd -- '/scratch/me/my runs/session.000001/task.000001' || exit
export ASYNCFLOW_TASK_UID=task.000001
export ASYNCFLOW_SESSION='/scratch/me/my runs/session.000001'
export ASYNCFLOW_SANDBOX='/scratch/me/my runs/session.000001/task.000001'
export ASYNCFLOW_ATTEMPT=0
export OMP_NUM_THREADS=2
export OPENBLAS_NUM_THREADS=2
export MKL_NUM_THREADS=2
export BLIS_NUM_THREADS=2
export NUMEXPR_NUM_THREADS=2
export VECLIB_MAXIMUM_THREADS=2
exec "$@" /bin/sh -c 'unset ASYNCFLOW_RANK OMPI_COMM_WORLD_RANK JSM_NAMESPACE_RANK PALS_RANKID MV2_COMM_WORLD_RANK FLUX_TASK_RANK ALPS_APP_PE PMI_RANK PMIX_RANK SLURM_PROCID; rm -f -- "$ASYNCFLOW_SANDBOX/.asyncflow/first-failure"; trap : HUP INT TERM USR1 USR2 XCPU; exec 3>&2 2>>"$ASYNCFLOW_SANDBOX/.asyncflow/script.log"; (exec 2>&3 3>&-; exec "$@"); c=$?; f=0; [ "$c" -eq 0 ] || f=$(readlink "$ASYNCFLOW_SANDBOX/.asyncflow/first-failure") || f=$c; exit "$f"' sh srun --ntasks=8 --cpus-per-task=2 --kill-on-bad-exit=1 /bin/sh -c 'export ASYNCFLOW_RANK="${ASYNCFLOW_RANK:-${OMPI_COMM_WORLD_RANK:-${JSM_NAMESPACE_RANK:-${PALS_RANKID:-${MV2_COMM_WORLD_RANK:-${FLUX_TASK_RANK:-${ALPS_APP_PE:-${PMI_RANK:-${PMIX_RANK:-${SLURM_PROCID:-}}}}}}}}}}" ASYNCFLOW_SIZE=8; [ -n "$ASYNCFLOW_RANK" ] || { echo "asyncflow_hpc: the launcher sets no known variable with the rank, of 8: let it set ASYNCFLOW_RANK" >&2; exit 125; }; trap : HUP INT TERM USR1 USR2 XCPU; exec 3>&2 2>>"$ASYNCFLOW_SANDBOX/.asyncflow/script.log"; (exec 2>&3 3>&-; exec "$@"); c=$?; [ "$c" -eq 0 ] || ln -s -- "$c" "$ASYNCFLOW_SANDBOX/.asyncflow/first-failure"; exit "$c"' sh ./simulate 'in put.dat'
