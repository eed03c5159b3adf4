"""Detections of a run on a split, as the stage evaluate stored them, and whether two runs can be compared by them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.reports.results import DETECTIONS, JUDGED, read_results
from pipeline.storage.outs import read_json


@dataclass(frozen=True)
class EvaluatedSplit:
    """Detections of a run on a split.

    Attributes:
        truth: the prepared split.
        results: rows of the COCO results file.
        recorded_ap: as reported by the run; None if it reported none.
    """

    truth: dict[str, Any]
    results: list[dict[str, Any]]
    recorded_ap: float | None


class Artifacts(Protocol):
    """What downloads artifacts: pipeline.tracking.reading.RunReader."""

    def download(self, run_id: str, artifact: str, folder: Path) -> Path:
        """Download an artifact of a run to a local folder."""
        ...


def download_evaluated(reader: Artifacts, run_id: str, split: str, metrics: Mapping[str, float]) -> EvaluatedSplit:
    """Download the detections of an MLflow run on a split.

    Args:
        metrics: of the run.

    Raises:
        ValueError: naming the run and the artifact, when it cannot be had.
    """
    with tempfile.TemporaryDirectory() as name:
        truth, results = (
            reader.download(run_id, f"{JUDGED}/{split}/{file}", Path(name)) for file in (f"{split}.json", DETECTIONS)
        )
        return EvaluatedSplit(read_json(truth), read_results(results), metrics.get(f"{split}.AP"))


def check_recorded(evaluated: EvaluatedSplit, ap: float | None, label: str) -> None:
    """Check that the detections of a run give the AP that it reported.

    Raises:
        ValueError: naming the run and both values; the detections are then not those that were evaluated.
    """
    recorded = evaluated.recorded_ap
    if recorded is not None and ap is not None and abs(recorded - ap) > 1e-6:
        raise ValueError(
            f"the detections stored with {label} have AP {ap:.4f}, but it reported {recorded:.4f}: they come from "
            "different evaluations; run the evaluate stage for it again (`dvc repro evaluate`)"
        )


def check_split(a: EvaluatedSplit, b: EvaluatedSplit) -> str | None:
    """Check that both runs were evaluated on the same images and classes.

    Returns:
        A warning if only the annotations differ.

    Raises:
        ValueError: stating how the splits differ.
    """
    demand = "both runs must be evaluated on the same split; evaluate one of them on the other's data"
    pictures = [
        {image["id"]: image.get("sha256") or image["file_name"] for image in run.truth["images"]} for run in (a, b)
    ]
    if pictures[0].keys() != pictures[1].keys():
        only = [len(pictures[i].keys() - pictures[1 - i].keys()) for i in (0, 1)]
        raise ValueError(f"{only[0]} images are only in A's split and {only[1]} only in B's: {demand}")
    other = [image_id for image_id, picture in pictures[0].items() if pictures[1][image_id] != picture]
    if other:
        raise ValueError(f"image id {other[0]} and {len(other) - 1} more are different images in A and in B: {demand}")
    if a.truth["categories"] != b.truth["categories"]:
        names = [", ".join(category["name"] for category in run.truth["categories"]) for run in (a, b)]
        raise ValueError(f"the classes are {names[0]} in A and {names[1]} in B: {demand}")
    if a.truth["annotations"] != b.truth["annotations"]:
        return "the ground truth of A's split differs from that of B's; both runs are evaluated here on B's"
    return None


def digest_split(truth: Mapping[str, Any]) -> str:
    """Digest of images, annotations and classes, 12 hexadecimal digits; independent of the image folder."""
    content = {key: truth[key] for key in ("images", "annotations", "categories")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
