#!/bin/bash
# A study on a Slurm cluster: sbatch cluster/slurm.sh [STUDY.yaml], from the root of a checkout that has its .venv.
# The checkout and the store must be on a file system that every node sees. A job that runs out of time resumes from its
# checkpoints when it is submitted again.
#SBATCH --job-name=w2s
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --exclusive
#SBATCH --output=w2s-%j.log
# For GPUs: #SBATCH --gpus-per-task=8

set -euo pipefail

study=${1:-tune_configs/quickstart.yaml}
store=${W2S_STORE:-$PWD/w2s-store}
port=${RAY_PORT:-6379}

export PATH="$PWD/.venv/bin:$PATH"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
# If a token file exists (any local run creates one), the head node requires the token, and nodes without it cannot join.
# This assumes that every node has the same home folder.
export RAY_AUTH_MODE=token
[ -s ~/.ray/auth_token ] || ray get-auth-token --generate > /dev/null

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

# Start Ray on every node, run the study on the first, and stop Ray on all of them. This stops every Ray process on the
# node, so the job needs --exclusive.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
    w2s run "$study" --store "$store" --address auto
