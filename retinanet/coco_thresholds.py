"""AP of the detections above each of several score thresholds, from one matching.

Within an image and a class the best detection chooses its truth first, so what a detection finds does not depend on
those of lower scores: a higher threshold only leaves out the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retinanet.coco_eval import AREA_RANGES, ImageDetections, mean_known, read_detections, read_truths
from retinanet.coco_match import Matches, match
from retinanet.coco_tables import accumulate

MAX_DETECTIONS = 100  # per image and class, COCO's


def average_precision_above(
    truth: Mapping[str, Any], detections: Mapping[int, ImageDetections], score_thresholds: Sequence[float]
) -> list[dict[str, float | None]]:
    """AP and AP50 of the detections with a higher score, for each threshold.

    Args:
        truth, detections: as of retinanet.coco_eval.evaluate_detections, whose numbers these are to the last bit.
    """
    truths, found = read_truths(truth), read_detections(truth, detections)
    ranges = AREA_RANGES[:1]
    matches = match(truths, found, num_images=len(truth["images"]), area_ranges=ranges, most=MAX_DETECTIONS)
    by_id = sorted(range(len(truth["categories"])), key=lambda label: truth["categories"][label]["id"])
    rows = []
    for threshold in score_thresholds:
        # As float32, which the scores were before they became float64.
        rest = pick_matches(matches, found.scores[matches.chosen] > float(np.float32(threshold)))
        tables = accumulate(truths, found, rest, area_ranges=ranges, labels=by_id, limits=[MAX_DETECTIONS])
        precision = tables.precision[..., 0]  # [T, R, K]; the first IoU is 0.5
        rows.append({"AP": mean_known(precision), "AP50": mean_known(precision[0])})
    return rows


def pick_matches(matches: Matches, rows: np.ndarray[Any, np.dtype[np.bool_]]) -> Matches:
    """Some of the detections, in their order."""
    return Matches(matches.chosen[rows], matches.ranks[rows], matches.right[:, :, rows], matches.ignored[:, :, rows])
