"""The door to MLflow: one run per training, continued by every resume and by the evaluation; the driver alone writes.

Importing this room touches nothing: no file, no database, no server, and not even mlflow itself.

    with open_run(run_id=None, name="shapes-resnet18", params=flatten(params), tags=provenance_tags(...)) as run:
        run.log_history(history)        # the whole history each time; what the store holds is not sent again

A store that is away never stops the work: what cannot be sent waits and goes with the next verb.
"""

from __future__ import annotations

from pipeline.tracking.datasets import log_split
from pipeline.tracking.hardware import cluster_tags
from pipeline.tracking.joining import join_run
from pipeline.tracking.lookup import find_run
from pipeline.tracking.note import write_note
from pipeline.tracking.provenance import log_code_changes, provenance_tags
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.store import import_mlflow
from pipeline.tracking.verbs import NoRun

Tracked = Run | NoRun
"""What a stage tells its story to."""

__all__ = [
    "NoRun",
    "Run",
    "Tracked",
    "cluster_tags",
    "find_run",
    "import_mlflow",
    "join_run",
    "log_code_changes",
    "log_split",
    "open_run",
    "provenance_tags",
    "write_note",
]
