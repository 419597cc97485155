#!/bin/bash
# Trains {{ recipe }} into {{ output }}
# Written by `imagesprint launch slurm`, to be read and changed. `sbatch FILE` submits it; once it has ended, again: it
# goes on from the newest checkpoint. `squeue --me` and `tail -F` of its log follow it, `scancel JOB` stops it.
#
# {{ forecast }}
#
# Where your site wants an account or a partition: take one # away and fill it in, or set SBATCH_ACCOUNT and
# SBATCH_PARTITION. What is set there, or given to sbatch (`sbatch --time=60 FILE`), counts before what stands here.
##SBATCH --account=ACCOUNT
##SBATCH --partition=PARTITION
# Likewise where a job gets too little memory if it names none: all of the node's.
##SBATCH --mem=0
#SBATCH --job-name={{ name }}
#SBATCH --output={{ log }}
#SBATCH --open-mode=append
#SBATCH --array={{ seeds }}
#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node={{ ranks }}
#SBATCH --gpus-per-node={{ gpus }}
#SBATCH {{ cores }}
#SBATCH --time={{ minutes }}
#SBATCH --requeue
#SBATCH --signal=USR1@120

export PATH={{ programs }}:$PATH  # of the imagesprint that wrote this: a folder that the nodes see

# Two minutes before the time limit every task gets SIGUSR1: train saves, ends with 143, and the job is queued again, to
# go on from there. No task is killed because another has ended: the first may still be saving. Each task sees all cores
# of the job on its node; train divides them.
code=0
srun --kill-on-bad-exit=0 --cpu-bind=none \
    imagesprint {{ command }} \
    {{ flags }} \
    || code=$?
if [ "$code" -eq 143 ]; then
    # In an array, a task by its own number: SLURM_JOB_ID of one of them means them all.
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
