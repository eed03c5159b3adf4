"""Every undocumented name of a library that we set or read: environment variables, files, keys and tags.

As tests/private_parts.py, and checked by the same test: each name must still stand in the library's file.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.private_parts import DVC, MLFLOW, RAY, TRAINING


class Text(NamedTuple):
    """A name that a library reads or writes: an environment variable, a file, a tag.

    Attributes:
        text: as it stands in our file and in the library's.
        source: the library's file that holds it, relative to site-packages.
    """

    text: str
    source: str
    users: tuple[str, ...]
    reason: str
    read_in: str


def _variables(source: str, user: str, reason: str, read_in: str, *names: str) -> tuple[Text, ...]:
    return tuple(Text(name, source, (user,), reason, read_in) for name in names)


TEXTS = (
    *_variables(
        "ray/train/v2/_internal/constants.py",
        "pipeline/cluster/environment.py",
        "no metrics and no second copy of a print; a report is seen after 0.5 s instead of 2",
        RAY,
        "RAY_TRAIN_METRICS_ENABLED",
        "RAY_TRAIN_ENABLE_PRINT_PATCH",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
    ),
    *_variables(
        "ray/train/v2/_internal/constants.py",
        TRAINING,
        "start_timeout_s and hang_timeout_s of conf/, and whether nodes announce their end; no argument sets them",
        RAY,
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
    ),
    *_variables(
        "ray/_private/ray_constants.py",
        "pipeline/cluster/environment.py",
        "workers run in this Python, and each line they print is shown",
        RAY,
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV",
        "RAY_DEDUP_LOGS",
    ),
    Text(
        "RAY_USAGE_STATS_ENABLED",
        "ray/_common/usage/usage_constants.py",
        ("pipeline/cluster/environment.py",),
        "no usage statistics",
        RAY,
    ),
    Text(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
        "ray/_private/accelerators/accelerator.py",
        ("pipeline/cluster/environment.py",),
        "a worker without GPUs keeps CUDA_VISIBLE_DEVICES; silences a warning",
        RAY,
    ),
    Text(
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        "ray/_private/runtime_env/constants.py",
        ("pipeline/cluster/start.py",),
        "the id of `ray job submit`, for an MLflow tag; the runtime context does not hold it",
        RAY,
    ),
    Text(
        "job_submission_id",
        "ray/dashboard/modules/job/common.py",
        ("pipeline/cluster/start.py",),
        "its key in that variable",
        RAY,
    ),
    Text(
        "checkpoint_manager_snapshot.json",
        "ray/train/v2/_internal/constants.py",
        ("pipeline/cluster/storage.py",),
        "Ray's notes on checkpoints, put aside where Ray would refuse to start with them",
        RAY,
    ),
    *(
        Text(
            key,
            "ray/train/v2/_internal/execution/checkpoint/checkpoint_manager.py",
            ("pipeline/cluster/storage.py",),
            "a key of these notes",
            RAY,
        )
        for key in ("ray_version", "checkpoint_results", "checkpoint_dir_name")
    ),
    *_variables(
        "ray/tune/constants.py",
        "pipeline/sweep/tuning.py",
        "no tables of Tune's beside ours; its snapshot is at most 1 s old, without a warning",
        RAY,
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS",
        "TUNE_GLOBAL_CHECKPOINT_S",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S",
    ),
    Text(
        "RAY_AIR_NEW_OUTPUT",
        "ray/tune/experimental/output.py",
        ("pipeline/sweep/tuning.py",),
        "Tune prints nothing beside our lines",
        RAY,
    ),
    *_variables(
        "mlflow/environment_variables.py",
        "pipeline/tracking/store.py",
        "a quiet MLflow, whose requests end soon: the outbox repeats them",
        MLFLOW,
        "MLFLOW_DISABLE_TELEMETRY",
        "MLFLOW_DISABLE_AGENT_HINT",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
        "MLFLOW_LOGGING_LEVEL",
        "MLFLOW_UV_AUTO_DETECT",
        "MLFLOW_LOG_UV_FILES",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "MLFLOW_HTTP_REQUEST_TIMEOUT",
    ),
    Text("MLFLOW_DISABLE_TELEMETRY", "mlflow/environment_variables.py", ("pipeline/ui.py",), "no telemetry", MLFLOW),
    Text(
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
        "mlflow/environment_variables.py",
        ("pipeline/tracking/system_metrics.py",),
        "the user's switch, which MLflow reads for its active run only",
        MLFLOW,
    ),
    Text(
        "mlflow.sharedViewState.",
        "mlflow/server/js/build/static/js",
        ("pipeline/tracking/view.py",),
        "the tag in which the UI keeps a named view of the table of runs; there is no call for it",
        MLFLOW,
    ),
    *_variables(
        "dvc/env.py",
        "pipeline/tracking/provenance.py",
        "the stage and the experiment that runs, for MLflow tags",
        DVC,
        "DVC_STAGE",
        "DVC_EXP_NAME",
        "DVC_EXP_BASELINE_REV",
    ),
    Text("DVC_STAGE", "dvc/env.py", ("pipeline/cli/parent.py",), "a stage stops when `dvc repro` has died", DVC),
    Text("DVC_ROOT", "dvc/env.py", ("pipeline/params/paths.py",), "the project, outside of its folder", DVC),
    Text("DVC_NO_ANALYTICS", "dvc/env.py", ("pipeline/compare/revisions.py",), "no usage statistics", DVC),
    Text(
        "refs/exps",
        "dvc/repo/experiments/refs.py",
        ("pipeline/clean/needs.py",),
        "a run that an experiment of the queue needs is not removed; DVC lists queued experiments by their names only",
        DVC,
    ),
    Text(
        "exps",
        "dvc/repo/experiments/utils.py",
        ("pipeline/params/paths.py", "pipeline/clean/needs.py"),
        "the folder .dvc/tmp/exps, in which DVC runs `dvc exp run --temp` and the queue",
        DVC,
    ),
)
"""DVC is called by its command line alone; `pipeline/compare/revisions.py` reads the text of `dvc exp list`."""

PUBLIC_VARIABLES = frozenset(
    {
        "RAY_ADDRESS",
        "RAY_TMPDIR",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_EXPERIMENT_NAME",
    }
)
"""Documented by Ray and MLflow for their users, and read by us."""
