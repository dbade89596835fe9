#!/usr/bin/env bash
# Quadriga under Slurm: a Ray cluster for one job, a head and a worker on each node of the allocation.
#   sbatch FILE.sh
#SBATCH --job-name=@{name}
#SBATCH --nodes=@{nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@{cpus_per_node}
#SBATCH --gpus-per-node=@{gpus_per_node}
#SBATCH --mem=0
#SBATCH --time=@{time_limit}
#SBATCH --signal=B:TERM@@120
set -euo pipefail

export @{environment}

# A token of this job alone, which nobody else can read; the nodes share the folder.
state="$SLURM_SUBMIT_DIR/.quadriga-$SLURM_JOB_ID"
(umask 077 && mkdir -p "$state" && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$state/token")
export RAY_AUTH_TOKEN_PATH="$state/token"
trap 'rm -rf "$state"' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
port=$((20000 + SLURM_JOB_ID % 20000))
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d' ' -f1):$port"
gpus=@{gpus_per_node}
roles='{"rollouts": 1, "sandbox": 1}'
if [ "$gpus" -gt 0 ]; then roles='{"rollouts": 1, "learners": 1, "sandbox": 1}'; fi

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="${address%:*}" --port="$port" --dashboard-host=127.0.0.1 \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --resources="$roles" --block &
until srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" ray health-check --address "$address"; do sleep 2; done
for node in "${nodes[@@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" \
        ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --resources="$roles" --block &
done

# SIGTERM, two minutes before the time is over, saves a checkpoint; the same script then resumes the run.
run=@{runs_dir}/@{name}
if [ -e "$run/checkpoints" ]; then
    command=(quadriga train --resume "$run" --address "$address")
else
    command=(quadriga train @{experiment} --name @{name} --runs-dir @{runs_dir} --address "$address")
fi
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" "${command[@@]}" &
training=$!
# A signal ends `wait` at once, and with the script would end all: the training has yet to save its checkpoint.
trap 'interrupted=yes; kill -TERM "$training" || true' TERM
interrupted=yes
while [ -n "$interrupted" ]; do
    interrupted=
    status=0
    wait "$training" || status=$?
done
exit "$status"
