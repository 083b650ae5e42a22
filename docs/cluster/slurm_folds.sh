#!/bin/bash
#SBATCH --job-name=bt_jax_folds
#SBATCH --array=0-21
#SBATCH --time=04:00:00
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --open-mode=append
#SBATCH --output=/shared/logs/%x_%A_%a.txt
# One patient fold per job. Five minutes before the time is over, and on preemption, SLURM sends SIGTERM to the step: the
# run saves, exits with 143, and the job queues itself again.
set -euo pipefail
source /shared/venv/bin/activate
cd /shared/bt_jax
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it over by itself
status=0
srun python launch.py --config=configs/seg.py --config.split.fold="$SLURM_ARRAY_TASK_ID" --config.data.dir=/shared/data \
  --workdir="/shared/runs/all/fold_$(printf '%02d' "$SLURM_ARRAY_TASK_ID")" || status=$?
if [ "$status" -eq 143 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
