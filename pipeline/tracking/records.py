"""Our values in the form that MLflow keeps: its names, lengths and entities."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.tracking.verbs import Row

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric

LEDGER = "step"
"""The metric that every row has: the last epoch that holds it is the last epoch that the store knows."""

JUDGE = "AP"
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")

MAX_NAME, MAX_PARAM, MAX_TAG, MAX_DIGEST = 250, 6000, 8000, 36
"""Characters that MLflow keeps."""


def last_epoch_in_store(client: MlflowClient, run_id: str) -> int:
    """The last epoch whose row has arrived; -1 if none has."""
    return max((point.step for point in client.get_metric_history(run_id, LEDGER)), default=-1)


def as_metrics(values: Row, step: int) -> list[Metric]:
    """One point per value that there is."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(clean_name(key), float(value), now_ms, step) for key, value in values.items() if value is not None]


def with_best(rows: Sequence[Row]) -> list[dict[str, float | int | None]]:
    """The rows, each with the figures of the best epoch by AP so far as best.AP, best.AP50, .. and best.epoch.

    A table of runs shows the last value of a curve: that of AP is not the run's best, that of best.AP is.
    """
    longer = []
    best: dict[str, float | int | None] = {}
    for row in rows:
        score, highest = row.get(JUDGE), best.get(f"best.{JUDGE}")
        if score is not None and (highest is None or score > highest):
            best = {f"best.{name}": row[name] for name in ("epoch", *FIGURES) if row.get(name) is not None}
        longer.append({**row, **best})
    return longer


def clean_name(name: str) -> str:
    """The name with what MLflow rejects replaced: `AP@[.5:.95]` -> `AP__.5:.95_`, `//a/../b` -> `a/_/b`."""
    allowed = re.sub(r"[^\w\-./: ]", "_", name)
    parts = ["_" if part in (".", "..") else part for part in allowed.split("/") if part]
    return "/".join(parts)[:MAX_NAME] or "_"


def clean_picture_key(key: str) -> str:
    """As `clean_name`, for pictures, whose keys are ASCII without colons."""
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", key)


def as_param(value: object) -> str:
    """The value as params.yaml spells it: null, true, [0.5, 1.0]."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:MAX_PARAM]


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow takes them, the values as far as it keeps them."""
    return {clean_name(key): text[:MAX_TAG] for key, text in tags.items()}


def as_dataset(name: str, *, digest: str, source: str, context: str, profile: Mapping[str, object]) -> DatasetInput:
    """The data set as a run's input; `mlflow.data.get_source` reads the source back."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    is_web = source.startswith(("http://", "https://"))
    kind, where = ("http", {"url": source}) if is_web else ("local", {"uri": source})
    dataset = Dataset(name, digest[:MAX_DIGEST], kind, json.dumps(where), profile=json.dumps(dict(profile)))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
