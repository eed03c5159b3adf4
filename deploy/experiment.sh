#!/usr/bin/env bash
# One experiment on a cluster: clone, reproduce, hand the results back. It is the entrypoint of a Ray job, so that the
# driver runs on a node of the cluster and in a real clone:
#
#   ray job submit --address http://127.0.0.1:8265 --working-dir deploy --runtime-env deploy/job.yaml -- \
#     bash experiment.sh [-S loss.gamma=1.5 ..]
#
# Run again after a failure it goes on from the last checkpoint: the clone is new, but the storage of conf/ is not.
# docs/cluster.md says what must be there. It reads
#   REPOSITORY            URL of the git repository; its DVC remote must be set and reachable
#   REVISION              branch, tag or commit (default: main)
#   RESULTS               branch to push (default: results/<time>-<commit>)
#   GIT_TOKEN             password for https, where one is needed
#   MLFLOW_TRACKING_URI   the tracking server; with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD
#   PIPELINE_CONF         where it runs (default: conf/cluster.yaml)
set -euo pipefail

fail() {
    echo "experiment: $1" >&2
    exit 1
}

[ -n "${REPOSITORY:-}" ] || fail "REPOSITORY is not set; it names the git repository to clone"
[ -n "${MLFLOW_TRACKING_URI:-}" ] ||
    fail "MLFLOW_TRACKING_URI is not set, so the run would end with this node; name a server (docs/tracking.md)"

export PIPELINE_CONF="${PIPELINE_CONF:-conf/cluster.yaml}"
# The stages' Ray adds its own environment to the job's; without this a field that both set is an error.
export RAY_OVERRIDE_JOB_RUNTIME_ENV=1
export GIT_TERMINAL_PROMPT=0
if [ -n "${GIT_TOKEN:-}" ]; then
    # The token stays out of URLs, which git prints. git's own shell expands it.
    # shellcheck disable=SC2016
    export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=credential.helper \
        GIT_CONFIG_VALUE_0='!f() { echo username=token; echo "password=$GIT_TOKEN"; }; f'
fi

folder="$(mktemp -d)"
# The clone goes, and with it the tracebacks that a command has written into a file.
trap 'cat "$folder"/clone/runs/logs/*.log >&2 2>/dev/null || true; rm -rf "$folder"' EXIT
git clone --quiet "$REPOSITORY" "$folder/clone"
cd "$folder/clone"
revision="${REVISION:-main}"
git checkout --quiet --detach "origin/$revision" 2>/dev/null || git checkout --quiet --detach "$revision"
commit="$(git rev-parse --short HEAD)"
echo "experiment: $revision is $commit"
python -m dvc remote default >/dev/null 2>&1 ||
    fail "no default DVC remote at $commit, so the model would be lost with this node; dvc remote add --default"

# Run DVC, and hand SIGTERM on (`ray job stop`, `docker stop`) as Ctrl-C: DVC would end at once, but leaves Ctrl-C to the
# stage, which keeps a checkpoint; the clone must be there until then.
run_dvc() {
    local dvc status=0
    set -m # a process group of its own
    python -m dvc "$@" &
    dvc=$!
    set +m
    trap 'kill -INT -- "-$dvc" 2>/dev/null || true' TERM INT
    wait "$dvc" || status=$?
    # A signal has ended the wait, but not DVC.
    while kill -0 "$dvc" 2>/dev/null; do
        status=0
        wait "$dvc" || status=$?
    done
    trap - TERM INT
    return "$status"
}

# Data that only prepare needs may be missing here: without a change it does not run.
if [ "$#" -gt 0 ]; then
    run_dvc exp run --pull --allow-missing "$@"
else
    run_dvc repro --pull --allow-missing
fi

# Files first: the branch never names what is not there.
python -m dvc push
git add --all
git diff --cached --quiet ||
    git -c user.name=experiment -c user.email=experiment@localhost commit --quiet -m "Results of $commit $*"
branch="${RESULTS:-results/$(date -u +%Y%m%dT%H%M%S)-$commit}"
git push --quiet origin "HEAD:refs/heads/$branch"
echo "experiment: results are on branch $branch"
echo "experiment: to have them: git fetch origin $branch && git checkout FETCH_HEAD && dvc pull"
