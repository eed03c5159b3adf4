"""Convert values to MLflow's names, lengths and entities."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.tracking.interface import Row

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric

LEDGER = "step"
"""A metric in every row, sent last: its last epoch is the last epoch that the store has."""

JUDGE = "AP"
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")

MAX_NAME, MAX_PARAM, MAX_TAG, MAX_DIGEST = 250, 6000, 8000, 36
"""MLflow's length limits, in characters."""


def last_epoch_in_store(client: MlflowClient, run_id: str) -> int:
    """Return the last epoch whose row is in the store; -1 if there is none."""
    return max((point.step for point in client.get_metric_history(run_id, LEDGER)), default=-1)


def as_metrics(values: Row, step: int) -> list[Metric]:
    """Return one metric per value that is not None, LEDGER last."""
    from mlflow.entities import Metric

    now_ms, names = int(time.time() * 1000), metric_names(values)
    known = [Metric(names[key], float(value), now_ms, step) for key, value in values.items() if value is not None]
    return sorted(known, key=lambda metric: metric.key == LEDGER)


def metric_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the name of each key in MLflow; keys whose clean names are equal, as of classes, are numbered in order."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        name, number = clean_name(key), 1
        while name in taken:
            number += 1
            ending = f"_{number}"
            name = f"{clean_name(key)[: MAX_NAME - len(ending)]}{ending}"
        taken.add(name)
        names[key] = name
    return names


def with_best(rows: Sequence[Row]) -> list[dict[str, float | int | None]]:
    """Return the rows, each with the metrics of the best epoch by AP so far as best.AP, best.AP50, .. and best.epoch.

    MLflow's table of runs shows the last value of a metric: for AP that is not the run's best, for best.AP it is.
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
    """Replace characters that MLflow rejects in a name: `AP@[.5:.95]` -> `AP__.5:.95_`, `//a/../b` -> `a/_/b`."""
    allowed = re.sub(r"[^\w\-./: ]", "_", name)
    parts = ["_" if part in (".", "..") else part for part in allowed.split("/") if part]
    return "/".join(parts)[:MAX_NAME] or "_"


def clean_picture_key(key: str) -> str:
    """Return a key for an image; as `clean_name`, in ASCII without colons."""
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", key)


def as_param(value: object) -> str:
    """Format a value as params.yaml does: null, true, [0.5, 1.0]."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:MAX_PARAM]


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with valid names and truncated values."""
    return {clean_name(key): text[:MAX_TAG] for key, text in tags.items()}


def as_dataset(name: str, *, digest: str, source: str, context: str, profile: Mapping[str, object]) -> DatasetInput:
    """Return the data set as a run's input; `mlflow.data.get_source` reads the source back."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    is_web = source.startswith(("http://", "https://"))
    kind, where = ("http", {"url": source}) if is_web else ("local", {"uri": source})
    dataset = Dataset(name, digest[:MAX_DIGEST], kind, json.dumps(where), profile=json.dumps(dict(profile)))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
