"""The COCO numbers of many images: evaluate_detections (hotcoco on arrays) beside pycocotools, on the same detections.

Both start from a prepared file and from arrays of boxes, scores and labels by image, the output of a detector.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils import benchmark

from bench.ratios import Case, run_bench
from retinanet.evaluation.coco_eval import ImageDetections, coco_results, evaluate_detections

NUM_CLASSES, TRUTHS, MOST = 80, 7, 100  # ground-truth boxes per image on average; detections per image at most
NUM_IMAGES = (500, 5000)
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]

Detections = dict[int, ImageDetections]


def build_world(num_images: int) -> tuple[dict[str, Any], Detections]:
    """Ground truth with classes of very different size, 2 % crowds; half of the detections lie near its boxes."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    detections = {}
    for image_id in range(1, num_images + 1):
        boxes, labels = random_boxes(rng, max(1, rng.poisson(TRUTHS)))
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "bbox": box}
            annotations.append(row | {"area": box[2] * box[3], "iscrowd": int(rng.random() < 0.02)})
        detections[image_id] = random_detections(rng, boxes, labels)
    truth = {
        "images": [{"id": image_id, "width": 640, "height": 480} for image_id in detections],
        "categories": [{"id": label + 1, "name": f"class {label}"} for label in range(NUM_CLASSES)],
        "annotations": annotations,
    }
    return truth, detections


def random_boxes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes xywh of 8 to 240 px and their labels, the first classes far more often than the last."""
    sides = np.exp(rng.uniform(np.log(8), np.log(240), (count, 2)))
    return np.concatenate([rng.uniform(0, 400, (count, 2)), sides], axis=1), (rng.zipf(1.5, count) - 1) % NUM_CLASSES


def random_detections(rng: np.random.Generator, truths: np.ndarray, truth_labels: np.ndarray) -> ImageDetections:
    """50 to 100, half of them near a ground-truth box and mostly of its class."""
    count = int(rng.integers(MOST // 2, MOST + 1))
    boxes, labels = random_boxes(rng, count)
    near, found = rng.random(count) < 0.5, rng.integers(0, len(truths), count)
    moved = truths[found] + rng.normal(0, 0.08, (count, 4)) * truths[found][:, [2, 3, 2, 3]]
    boxes = np.where(near[:, None], moved, boxes)
    labels = np.where(near & (rng.random(count) < 0.8), truth_labels[found], labels)
    boxes[:, 2:] = boxes[:, :2] + np.maximum(boxes[:, 2:], 1)
    scores = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    return boxes.astype(np.float32), scores, labels


def judge_by_pycocotools(truth: dict[str, Any], detections: Detections) -> list[float]:
    """The twelve numbers, as in its demo; including the COCO object of the ground truth, as read from a file."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = copy.deepcopy(truth)  # it writes into what it is given
        index.createIndex()
        evaluator = COCOeval(index, index.loadRes(list(coco_results(truth, detections))), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def cases() -> Iterable[Case]:
    """A small and a large set; all twelve numbers must be equal to the last bit."""
    for num_images in NUM_IMAGES:
        truth, detections = build_world(num_images)
        ours = partial(evaluate_detections, truth, detections)
        theirs = judge_by_pycocotools(truth, detections)
        np.testing.assert_array_equal([ours().metrics[name] for name in NAMES], theirs)
        peer = partial(judge_by_pycocotools, truth, detections)
        yield Case(f"{num_images} images, {len(truth['annotations'])} truths", ours, {"pycocotools": peer})


def growth() -> dict[str, list[tuple[float, float]]]:
    """(thousand images, milliseconds) of evaluate_detections."""
    pairs = []
    for num_images in (300, 1000, 3000, 10000):
        run = partial(evaluate_detections, *build_world(num_images))
        cost = benchmark.Timer("run()", globals={"run": run}).blocked_autorange().median
        pairs.append((num_images / 1e3, 1e3 * cost))
    return {"thousand images": pairs}


if __name__ == "__main__":
    run_bench("COCO's numbers beside pycocotools", cases)
