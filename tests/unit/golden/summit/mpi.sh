#!/bin/sh
#BSUB -J session.000001.task.000001
#BSUB -Jd 'asyncflow_hpc simulate'
#BSUB -o /dev/null
#BSUB -e /dev/null
#BSUB -rn
#BSUB -n 8
#BSUB -W 0:20
#BSUB -q batch
#BSUB -P proj1
#BSUB -R 'span[ptile=4]'
exec >>'/scratch/me/my runs/session.000001/task.000001/.asyncflow/job.log' 2>&1
exec /bin/sh '/scratch/me/my runs/session.000001/task.000001/.asyncflow/run.sh'

# /scratch/me/my runs/session.000001/task.000001/.asyncflow/task.sh
#!/bin/sh
# task.000001 'simulate', attempt 0
cd -- '/scratch/me/my runs/session.000001/task.000001' || exit
export ASYNCFLOW_TASK_UID=task.000001
export ASYNCFLOW_SESSION='/scratch/me/my runs/session.000001'
export ASYNCFLOW_SANDBOX='/scratch/me/my runs/session.000001/task.000001'
export ASYNCFLOW_ATTEMPT=0
export OMP_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export MKL_NUM_THREADS=1
export BLIS_NUM_THREADS=1
export NUMEXPR_NUM_THREADS=1
export VECLIB_MAXIMUM_THREADS=1
exec "$@" /bin/sh -c 'unset ASYNCFLOW_RANK OMPI_COMM_WORLD_RANK JSM_NAMESPACE_RANK PALS_RANKID MV2_COMM_WORLD_RANK FLUX_TASK_RANK ALPS_APP_PE PMI_RANK PMIX_RANK SLURM_PROCID; exec "$@"' sh jsrun -n 8 /bin/sh -c 'export ASYNCFLOW_RANK="${ASYNCFLOW_RANK:-${OMPI_COMM_WORLD_RANK:-${JSM_NAMESPACE_RANK:-${PALS_RANKID:-${MV2_COMM_WORLD_RANK:-${FLUX_TASK_RANK:-${ALPS_APP_PE:-${PMI_RANK:-${PMIX_RANK:-${SLURM_PROCID:-}}}}}}}}}}" ASYNCFLOW_SIZE=8; [ -n "$ASYNCFLOW_RANK" ] || { echo "asyncflow_hpc: the launcher sets no known variable with the rank, of 8: let it set ASYNCFLOW_RANK" >&2; exit 125; }; exec "$@"' sh ./simulate 'in put.dat'
