#!/usr/bin/env bash
#SBATCH --job-name=marey
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@180
#
# A Ray cluster on the nodes of one SLURM job, and one command of marey on it:
#
#   sbatch slurm.sh train tcn --data /shared/index.parquet -o /shared/runs/tcn trainer.workers=4
#
# Three minutes before the time is over SLURM sends SIGTERM to this script. marey ends its step, writes a checkpoint, and
# exits with 143; the job is queued again, and goes on with --resume.
set -euo pipefail

PORT=${MAREY_RAY_PORT:-6379}
GRACE_S=${MAREY_RAY_START_S:-20}
head=$(hostname)
nodes=${SLURM_JOB_NUM_NODES:?run this script with sbatch}
step=(srun --nodes=1 --ntasks=1 --overlap)

# every process of the cluster, and every driver, has to show this token
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN

"${step[@]}" --nodelist="$head" ray start --head --block --port="$PORT" --disable-usage-stats &
sleep "$GRACE_S"
if [ "$nodes" -gt 1 ]; then
    srun --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --ntasks-per-node=1 --exclude="$head" --overlap \
        ray start --address="$head:$PORT" --block --disable-usage-stats &
    sleep "$GRACE_S"
fi
export RAY_ADDRESS="$head:$PORT"

words=("$@")
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ "${1:-}" = train ]; then
    words+=(--resume)
fi
marey "${words[@]}" &
driver=$!
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
while kill -0 "$driver" 2>/dev/null; do # the wait was interrupted: the checkpoint is being written
    code=0
    wait "$driver" || code=$?
done
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
