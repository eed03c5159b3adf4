#!/usr/bin/env bash
# One experiment as a job of Slurm: a Ray cluster on its nodes, `dvc repro` on the first of them. Submit it from the
# folder of the experiment, which lies on a file system that all nodes mount:
#
#   sbatch deploy/slurm.sh [-S loss.gamma=1.5 ..]
#
# Two minutes before the time limit the training writes a checkpoint and stops, and the job queues again; the next start
# resumes. It does not queue again when the training has finished or failed, nor after scancel. docs/cluster.md says
# more. It reads
#   PIPELINE_CONF         where it runs (default: conf/slurm.yaml)
#   MLFLOW_TRACKING_URI   the tracking server; with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD
#
# Nodes and GPUs: their product is `workers` of conf/slurm.yaml. One task per node; the node must be ours alone, because
# ray symmetric-run refuses to start beside another Ray.
#SBATCH --job-name=retinanet
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

PORT=6379

say() { echo "slurm: $1" >&2; }

fail() {
    say "$1"
    exit 1
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "this is a job of Slurm; submit it: sbatch deploy/slurm.sh"
cd "$SLURM_SUBMIT_DIR"
[ -f dvc.yaml ] || fail "$PWD holds no dvc.yaml; submit from the folder of an experiment"

export PATH="$PWD/.venv/bin:$PATH"
export PIPELINE_CONF="${PIPELINE_CONF:-conf/slurm.yaml}"
# Others reach these nodes too; without the token of this home folder they could run code here.
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null
# /tmp/ray may be another user's.
RAY_TMPDIR="/tmp/ray-$(id -u)"
export RAY_TMPDIR
# Nodes import Ray from a shared file system, all at once.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}"
export RAY_USAGE_STATS_ENABLED=0 DVC_NO_ANALYTICS=1

# This script and the driver are both on the first node: the folder has the driver's process group, output and status.
JOB_FOLDER="$(mktemp -d)"
export JOB_FOLDER
trap 'rm -rf "$JOB_FOLDER"' EXIT

# No pipe: with pipefail, a reader that ends early fails it.
names="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
first="${names%%$'\n'*}"
if [ "$#" -gt 0 ]; then
    set -- python -m dvc exp run "$@"
else
    set -- python -m dvc repro
fi

# The driver: a process group of its own, which gets SIGTERM as Ctrl-C: DVC would end at once, but leaves Ctrl-C to the
# stage. Bash and tee outlive it.
cat >"$JOB_FOLDER/driver" <<'END'
export RAY_ADDRESS="$1"
shift
echo "$$" >"$JOB_FOLDER/group"
trap : INT
"$@" 2>&1 | tee -i "$JOB_FOLDER/output"
status="${PIPESTATUS[0]}"
echo "$status" >"$JOB_FOLDER/status.part"
mv "$JOB_FOLDER/status.part" "$JOB_FOLDER/status"
exit "$status"
END

# Once: a second Ctrl-C would interrupt the training at its step.
# shellcheck disable=SC2317
stop() {
    trap '' TERM
    if [ -s "$JOB_FOLDER/group" ]; then
        say "SIGTERM: the training writes a checkpoint and stops"
        kill -INT -- "-$(cat "$JOB_FOLDER/group")" 2>/dev/null || true
    else
        say "SIGTERM before the training has begun"
        kill -TERM "$step" 2>/dev/null || true
    fi
}

# In a shell without job control, what runs in the background ignores Ctrl-C.
set -m
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    ray symmetric-run --address "$first:$PORT" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="${SLURM_CPUS_PER_TASK:-1}" -- setsid --wait bash "$JOB_FOLDER/driver" "$first:$PORT" "$@" &
step=$!
set +m
trap stop TERM

is_alive() { kill -0 "$step" 2>/dev/null; }

# Wait in a way that a signal interrupts.
pause() {
    sleep 1 &
    wait "$!" || true
}

while is_alive && [ ! -f "$JOB_FOLDER/status" ]; do pause; done
trap '' TERM

# ray symmetric-run returns 0 also where Ray has not started, so its own status says nothing.
status=""
if [ -f "$JOB_FOLDER/status" ]; then status="$(cat "$JOB_FOLDER/status")"; fi

# Before anything else, as the time is short. A job that scancel has ended is no longer RUNNING.
if [ "${status:-0}" != 0 ] && grep -q "^train: stopped with a checkpoint" "$JOB_FOLDER/output" &&
    [[ "$(scontrol show job "$SLURM_JOB_ID")" == *JobState=RUNNING* ]]; then
    say "the job queues again, and resumes from the checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi

# `ray stop` on the first node takes up to 16 s. The other nodes may take a minute to notice; the job does not wait.
end=$((SECONDS + 30))
while is_alive && [ "$SECONDS" -lt "$end" ]; do pause; done
kill -TERM "$step" 2>/dev/null || true
wait "$step" || true
[ -n "$status" ] || fail "the training did not begin; the reason is above"
exit "$status"
