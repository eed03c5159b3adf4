"""Everything that calls MLflow: one run per training, resumed by restarts and the evaluation; only the driver writes.

Importing this package opens no file, database or connection, and does not import mlflow.

    with open_run(run_id=None, name="shapes-resnet18", params=flatten(params), tags=provenance_tags(...)) as run:
        run.log_history(history)        # the whole history each time; only new rows are sent

A store that is away never stops the work: records that cannot be sent wait, and go with the next call.
"""

from __future__ import annotations

from pipeline.tracking.datasets import log_split
from pipeline.tracking.description import describe_run
from pipeline.tracking.existing_run import open_existing_run
from pipeline.tracking.hardware import cluster_tags, cpu_model
from pipeline.tracking.interface import NoopRun
from pipeline.tracking.lookup import find_run
from pipeline.tracking.provenance import log_code_changes, provenance_tags
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.store import import_mlflow

Tracked = Run | NoopRun
"""An MLflow run, or its stand-in without tracking."""

__all__ = [
    "NoopRun",
    "Run",
    "Tracked",
    "cluster_tags",
    "cpu_model",
    "describe_run",
    "find_run",
    "import_mlflow",
    "log_code_changes",
    "log_split",
    "open_existing_run",
    "open_run",
    "provenance_tags",
]
