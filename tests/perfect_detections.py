"""Perfect detections of a prepared file, judged by us and by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.evaluation.coco_eval import ImageDetections, coco_results, evaluate_detections


def perfect_aps(content: Any) -> list[float | None]:
    """AP of the truth itself as detections: ours, and that of pycocotools fed with the content as its users do."""
    detections = perfect_detections(content)
    return [evaluate_detections(content, detections).metrics["AP"], pycocotools_ap(content, detections)]


def perfect_detections(content: Any) -> dict[int, ImageDetections]:
    """The truth itself, each box with full score."""
    labels = {category["id"]: label for label, category in enumerate(content["categories"])}
    found: dict[int, ImageDetections] = {}
    for image in content["images"]:
        own = [box for box in content["annotations"] if box["image_id"] == image["id"]]
        xywh = np.array([box["bbox"] for box in own], dtype=np.float32).reshape(-1, 4)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        label = np.array([labels[box["category_id"]] for box in own], dtype=np.int64)
        found[image["id"]] = (boxes, np.ones(len(own), dtype=np.float32), label)
    return found


def pycocotools_ap(content: Any, detections: dict[int, ImageDetections]) -> float:
    """AP of detections by pycocotools."""
    truth = COCO()
    truth.dataset = json.loads(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(list(coco_results(content, detections))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])
