"""Saved view of the experiment's table of runs: scores first, the best run on top."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW = "scores"
"""Its name in the UI's menu Views, and its key in a link: .../runs?viewStateShareKey=scores."""

TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of an experiment in which MLflow's UI stores a named view."""

METRICS = ("best.AP", "best.AP50", "test.AP", "test.AP50")
PARAMS = (
    *("loss.alpha", "loss.gamma", "matcher.foreground_iou", "matcher.background_iou"),
    *("model.backbone", "optim.lr", "train.batch_size", "train.epochs", "seed"),
)


def keep_view(client: MlflowClient, experiment_id: str) -> None:
    """Add the view to the experiment, unless it exists or permission is missing."""
    from mlflow.exceptions import MlflowException

    try:
        if TAG not in client.get_experiment(experiment_id).tags:
            client.set_experiment_tag(experiment_id, TAG, describe_view())
    except MlflowException:
        return  # optional; an error of the store shows up in the next request


def describe_view() -> str:
    """Return the view in the format of MLflow 3's UI."""
    state = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{METRICS[0]}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*(f"metrics.`{name}`" for name in METRICS), *(f"params.`{name}`" for name in PARAMS)],
    }
    now_ms = int(time.time() * 1000)
    return json.dumps({"name": VIEW, "createdAt": now_ms, "updatedAt": now_ms, "state": json.dumps(state)})
