"""AP of some of the detections above each of several score thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_eval import ImageDetections, mean_known, read_detections
from retinanet.evaluation.coco_evaluator import ALL_AREAS, SCORE, GroundTruth, Rows, evaluate_rows, read_ground_truth

MAX_DETECTIONS = 100  # per image and class, COCO's


def average_precision_above(
    truth: Mapping[str, Any],
    detections: Mapping[int, ImageDetections],
    kept: Iterable[NDArray[np.bool_]],
    score_thresholds: Sequence[float],
) -> list[list[dict[str, float | None]]]:
    """AP and AP50 of what is kept and has a higher score, for each choice of detections and each threshold.

    Args:
        truth, detections: as of coco_eval.evaluate_detections, whose numbers these are to the last bit.
        kept: choices, [D] each: which of the detections of all images, in their order, are evaluated.
    """
    ground_truth = read_ground_truth(truth)
    rows = read_detections(ground_truth, truth, detections)
    # As float32, which the scores were before they became float64.
    lowest = np.array(score_thresholds, dtype=np.float32).astype(np.float64).tolist()
    return [
        [_average_precision(ground_truth, rows[choice & (rows[:, SCORE] > score)]) for score in lowest]
        for choice in kept
    ]


def _average_precision(ground_truth: GroundTruth, rows: Rows) -> dict[str, float | None]:
    evaluator = evaluate_rows(ground_truth, rows, max_detections=[MAX_DETECTIONS], area=ALL_AREAS)
    evaluator.accumulate()
    assert evaluator.eval is not None
    precision = evaluator.eval["precision"]  # [T, R, K, 1, 1]
    return {"AP": mean_known(precision), "AP50": mean_known(precision[0])}
