#!/bin/bash
#SBATCH --job-name=bt_jax_build
#SBATCH --time=00:30:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --output=/shared/logs/%x_%j.txt
# Builds the data set once, before an array of jobs reads it. DIR is the folder that holds kaggle_3m/.
set -euo pipefail
source /shared/venv/bin/activate
cd /shared/bt_jax
python launch.py --mode=build --config=configs/seg.py --config.data.root="$DIR" --config.data.dir=/shared/data
