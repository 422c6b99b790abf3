#!/bin/sh
#PBS -N session.000001.task.000001
#PBS -j oe
#PBS -o /dev/null
#PBS -S /bin/sh
#PBS -r n
#PBS -V
#PBS -q main
#PBS -A proj1
#PBS -l select=2:ncpus=4:mpiprocs=4:ompthreads=1
#PBS -l place=scatter
#PBS -l walltime=00:20:00
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
exec /bin/sh -c 'n=$1 gpus=$2 python=$3 ranks=$4; shift 4
if command -v mpiexec >/dev/null 2>&1; then exec mpiexec -n "$n" /bin/sh -c '"'"'export ASYNCFLOW_RANK="${PMIX_RANK:-${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-${PALS_RANKID:-${SLURM_PROCID:-0}}}}}" ASYNCFLOW_SIZE=8; exec "$@"'"'"' sh "$@"; fi
if [ "$(cat -- "$PBS_NODEFILE" | sort -u | wc -l)" -gt 1 ]; then
  echo "there is no mpiexec on PATH to start ranks on several nodes: set launcher, or load an MPI in pre_exec" >&2
  exit 127
fi
[ -n "${CUDA_VISIBLE_DEVICES:-}${ROCR_VISIBLE_DEVICES:-}" ] || gpus=0
exec "$python" "$ranks" "$n" "$gpus" "$@"' sh 8 0 /usr/bin/python3 BACKENDS/local/ranks.py ./simulate 'in put.dat'
