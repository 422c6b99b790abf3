#!/bin/sh
#PBS -N session.000001.task.000001
#PBS -j oe
#PBS -o /dev/null
#PBS -S /bin/sh
#PBS -r n
#PBS -V
#PBS -q normal
#PBS -A proj1
#PBS -l select=2:ncpus=4:mpiprocs=4:ompthreads=1
#PBS -l place=scatter
#PBS -l walltime=00:20:00
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
export OMP_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export MKL_NUM_THREADS=1
export BLIS_NUM_THREADS=1
export NUMEXPR_NUM_THREADS=1
export VECLIB_MAXIMUM_THREADS=1
exec "$@" /bin/sh -c 'unset ASYNCFLOW_RANK OMPI_COMM_WORLD_RANK JSM_NAMESPACE_RANK PALS_RANKID MV2_COMM_WORLD_RANK FLUX_TASK_RANK ALPS_APP_PE PMI_RANK PMIX_RANK SLURM_PROCID
n=$1 gpus=$2 python=$3 ranks=$4; shift 4
mpiexec=$(
  set -f
  IFS=:
  for directory in $PATH; do
    found=${directory:-.}/mpiexec
    [ -f "$found" ] && [ -x "$found" ] && ! grep -q '"'"'no non-PBS mpiexec'"'"' "$found" 2>/dev/null || continue
    # By its path alone, Open MPI would take it for an installation of its own on all nodes.
    [ "$found" = "$(command -v mpiexec)" ] && found=mpiexec
    printf %s "$found"
    break
  done
)
if [ -n "$mpiexec" ]; then exec "$mpiexec" -n "$n" /bin/sh -c '"'"'export ASYNCFLOW_RANK="${ASYNCFLOW_RANK:-${OMPI_COMM_WORLD_RANK:-${JSM_NAMESPACE_RANK:-${PALS_RANKID:-${MV2_COMM_WORLD_RANK:-${FLUX_TASK_RANK:-${ALPS_APP_PE:-${PMI_RANK:-${PMIX_RANK:-${SLURM_PROCID:-}}}}}}}}}}" ASYNCFLOW_SIZE=8; [ -n "$ASYNCFLOW_RANK" ] || { echo "asyncflow_hpc: the launcher sets no known variable with the rank, of 8: let it set ASYNCFLOW_RANK" >&2; exit 125; }; exec "$@"'"'"' sh "$@"; fi
if [ "$(cat -- "$PBS_NODEFILE" | sort -u | wc -l)" -gt 1 ]; then
  echo "there is no mpiexec of an MPI on PATH for ranks on several nodes: set launcher, or load an MPI in pre_exec" >&2
  exit 127
fi
[ -n "${CUDA_VISIBLE_DEVICES:-}${ROCR_VISIBLE_DEVICES:-}" ] || gpus=0
exec "$python" "$ranks" "$n" "$gpus" "$@"' sh 8 0 /usr/bin/python3 BACKENDS/local/ranks.py ./simulate 'in put.dat'
