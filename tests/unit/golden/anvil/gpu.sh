#!/bin/sh
#SBATCH --job-name=session.000001.task.000001
#SBATCH --chdir='/scratch/me/my runs/session.000001/task.000001'
#SBATCH --output=.asyncflow/job.log
#SBATCH --comment='asyncflow_hpc simulate'
#SBATCH --no-requeue
#SBATCH --export=ALL
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-task=1
#SBATCH --time=0-00:20:00
#SBATCH --signal=B:USR2@30
#SBATCH --partition=gpu
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
export OMP_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export MKL_NUM_THREADS=1
export BLIS_NUM_THREADS=1
export NUMEXPR_NUM_THREADS=1
export VECLIB_MAXIMUM_THREADS=1
command -v -- ./simulate >/dev/null || set --
exec "$@" ./simulate 'in put.dat'
