"""What an exported file says about itself: classes, thresholds, preprocessing, origin; JSON texts by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.tracking.registry import RunModel
from retinanet.data.resizing import RESIZES
from retinanet.inference.detector import Detector


def describe_file(detector: Detector, thresholds: Sequence[float], origin: Mapping[str, Any]) -> dict[str, str]:
    """Describe a detector for who has only the exported file.

    Args:
        thresholds: score of each class (exclusive), as the file returns it, above which a detection is used.
        origin: where the detector comes from.
    """
    transforms, post = detector.transforms, detector.postprocess
    rule = RESIZES[transforms.resize]
    content = {
        "classes": detector.class_names,
        "category_ids": [category["id"] for category in detector.description["categories"]],
        "score_thresholds": list(thresholds),
        "short_side": transforms.for_evaluation.short_side,
        "long_side": transforms.long_side,
        "resize": {"kernel": "bilinear", "antialias": rule.antialias, "rounds": rule.rounds},
        "size_divisor": transforms.size_divisor,
        "mean": list(transforms.mean),
        "std": list(transforms.std),
        "channel_order": "RGB",
        "in_the_graph": [
            "normalisation",
            "padding to size_divisor",
            "decoding",
            "class-wise NMS",
            *([] if post.temperature is None else ["calibration of scores"]),
        ],
        "temperature": post.temperature,
        "score_threshold": post.score_threshold,
        "candidates_per_level": post.candidates_per_level,
        "nms_iou": post.nms_iou,
        "max_detections": post.max_detections,
        "min_size": post.min_size,
        **origin,
    }
    return {name: json.dumps(value) for name, value in content.items()}


def describe_origin(description: Mapping[str, Any], model: RunModel | None) -> dict[str, Any]:
    """The run of a detector, and what MLflow knows about it: the id there and the commit."""
    run = description["run"]
    origin = {key: run[key] for key in ("digest", "epoch", "AP", "imported") if run.get(key) is not None}
    named = {{"digest": "run"}.get(key, key): value for key, value in origin.items()}
    if model is None:
        return named
    known = {"mlflow_run": model.run_id, "commit": model.tags.get("git.commit"), "data": model.tags.get("data_hash")}
    return named | {key: value for key, value in known.items() if value}
