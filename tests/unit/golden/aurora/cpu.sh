#!/bin/sh
#PBS -N session.000001.task.000001
#PBS -j oe
#PBS -o /dev/null
#PBS -S /bin/sh
#PBS -r n
#PBS -V
#PBS -q prod
#PBS -A proj1
#PBS -l select=1:ncpus=4:mpiprocs=1:ompthreads=4
#PBS -l place=free
#PBS -l walltime=00:20:00
#PBS -l filesystems=flare
exec >>'/scratch/me/my runs/session.000001/task.000001/.asyncflow/job.log' 2>&1
PATH=${PBS_O_PATH:-$PATH}; export PATH
exec /bin/sh '/scratch/me/my runs/session.000001/task.000001/.asyncflow/run.sh'

# /scratch/me/my runs/session.000001/task.000001/.asyncflow/task.sh
#!/bin/sh
# task.000001 'simulate', attempt 0
cd -- '/scratch/me/my runs/session.000001/task.000001' || exit
export ASYNCFLOW_TASK_UID=task.000001
export ASYNCFLOW_SESSION='/scratch/me/my runs/session.000001'
export ASYNCFLOW_SANDBOX='/scratch/me/my runs/session.000001/task.000001'
export ASYNCFLOW_ATTEMPT=0
export OMP_NUM_THREADS=4
export OPENBLAS_NUM_THREADS=4
export MKL_NUM_THREADS=4
export BLIS_NUM_THREADS=4
export NUMEXPR_NUM_THREADS=4
export VECLIB_MAXIMUM_THREADS=4
command -v -- ./simulate >/dev/null || set --
exec "$@" ./simulate 'in put.dat'
