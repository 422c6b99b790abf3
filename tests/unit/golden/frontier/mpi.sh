#!/bin/sh
#SBATCH --job-name=session.000001.task.000001
#SBATCH --chdir='/scratch/me/my runs/session.000001/task.000001'
#SBATCH --output=.asyncflow/job.log
#SBATCH --comment='asyncflow_hpc simulate'
#SBATCH --no-requeue
#SBATCH --export=ALL
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=1
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --time=0-00:20:00
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
exec /bin/sh -c 'rm -f -- "$ASYNCFLOW_SANDBOX/.asyncflow/first-failure"; trap : HUP INT TERM USR1 USR2 XCPU; exec 3>&2 2>>"$ASYNCFLOW_SANDBOX/.asyncflow/script.log"; (exec 2>&3 3>&-; exec "$@"); c=$?; f=0; [ "$c" -eq 0 ] || f=$(readlink "$ASYNCFLOW_SANDBOX/.asyncflow/first-failure") || f=$c; exit "$f"' sh srun --ntasks=8 --cpus-per-task=1 --kill-on-bad-exit=1 /bin/sh -c 'export ASYNCFLOW_RANK="${SLURM_PROCID:-0}" ASYNCFLOW_SIZE="${SLURM_NTASKS:-1}"; trap : HUP INT TERM USR1 USR2 XCPU; exec 3>&2 2>>"$ASYNCFLOW_SANDBOX/.asyncflow/script.log"; (exec 2>&3 3>&-; exec "$@"); c=$?; [ "$c" -eq 0 ] || ln -s -- "$c" "$ASYNCFLOW_SANDBOX/.asyncflow/first-failure"; exit "$c"' sh ./simulate 'in put.dat'
