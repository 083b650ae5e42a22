#!/bin/bash
#SBATCH --job-name=bt_jax_hosts
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=256G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --open-mode=append
#SBATCH --output=/shared/logs/%x_%j.txt
# One run on two nodes with a process for each GPU; the processes find one another by SLURM's variables.
set -euo pipefail
source /shared/venv/bin/activate
cd /shared/bt_jax
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it over by itself
status=0
srun --kill-on-bad-exit=0 python launch.py --config=configs/seg.py --workdir=/shared/runs/wide \
  --config.data.dir=/shared/data --config.train.batch_size=64 || status=$?
if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
