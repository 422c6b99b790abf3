#!/bin/sh
#SBATCH --job-name=session.000001.task.000001
#SBATCH --chdir='/scratch/me/my runs/session.000001/task.000001'
#SBATCH --output=.asyncflow/job.log
#SBATCH --comment='asyncflow_hpc simulate'
#SBATCH --no-requeue
#SBATCH --export=ALL
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=0-00:20:00
#SBATCH --signal=B:USR2@30
#SBATCH --partition=batch
#SBATCH --account=proj1
exec /bin/sh '/scratch/me/my runs/session.000001/task.000001/.asyncflow/run.sh'

# /scratch/me/my runs/session.000001/task.000001/.asyncflow/run.sh starts the task with:
(exec 2>>"$asyncflow_err"; exec ./simulate 'in put.dat')
