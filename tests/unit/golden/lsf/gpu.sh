#!/bin/sh
#BSUB -J session.000001.task.000001
#BSUB -Jd 'asyncflow_hpc simulate'
#BSUB -o /dev/null
#BSUB -e /dev/null
#BSUB -rn
#BSUB -n 1
#BSUB -M 16777216KB
#BSUB -gpu num=1/task
#BSUB -W 1:30
#BSUB -q batch
#BSUB -P proj1
#BSUB -R 'affinity[core(8)]'
#BSUB -R 'rusage[mem=16777216KB/task]'
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
export OMP_NUM_THREADS=8
export OPENBLAS_NUM_THREADS=8
export MKL_NUM_THREADS=8
export BLIS_NUM_THREADS=8
export NUMEXPR_NUM_THREADS=8
export VECLIB_MAXIMUM_THREADS=8
command -v -- ./simulate >/dev/null || set --
exec "$@" ./simulate 'in put.dat'
