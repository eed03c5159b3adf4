"""AP of some of the detections above each of several score thresholds, from one sorting and one search of overlaps.

Within an image and a class the best detection chooses its truth first, so what a detection finds does not depend on
those of lower scores: a higher threshold only leaves out the last of them, and cuts the curve of precision there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_eval import AREA_RANGES, ImageDetections, mean_known, read_detections, read_truths
from retinanet.evaluation.coco_match import IOUS, Found, Matches, Truths, find_overlaps, keep, match_overlaps, ranks_of
from retinanet.evaluation.coco_tables import RECALLS, places_of_recalls, precision_at_hits

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
        kept: choices, [D] each: which of the detections of all images, in their order, are judged.
    """
    truths, found = read_truths(truth), read_detections(truth, detections)
    overlaps = find_overlaps(truths, found, num_images=len(truth["images"]))
    by_id = sorted(range(len(truth["categories"])), key=lambda label: truth["categories"][label]["id"])
    figures = []
    for choice in kept:
        rows = choice[overlaps.order]
        rows[rows] = ranks_of(overlaps.group[rows]) < MAX_DETECTIONS
        matches = match_overlaps(keep(overlaps, rows), area_ranges=AREA_RANGES[:1])
        tables = precision_above(truths, found, matches, labels=by_id, score_thresholds=score_thresholds)
        figures.append([{"AP": mean_known(table), "AP50": mean_known(table[0])} for table in tables])
    return figures


def precision_above(
    truths: Truths, found: Found, matches: Matches, *, labels: Sequence[int], score_thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """Tables.precision of all areas (retinanet.evaluation.coco_tables) for each threshold.

    Returns:
        [C thresholds, T IoUs, R recalls, K classes]; the first IoU is 0.5.
    """
    precision = np.full((len(score_thresholds), len(IOUS), len(RECALLS), len(labels)), -1.0)
    label_of_match, scores = found.labels[matches.chosen], found.scores[matches.chosen]
    # As float32, which the scores were before they became float64.
    lowest = np.array(score_thresholds, dtype=np.float32).astype(np.float64)
    for k, label in enumerate(labels):
        num_truths = int(np.count_nonzero((truths.labels == label) & ~truths.crowd))
        if num_truths == 0:
            continue
        rows = slice(*np.searchsorted(label_of_match, [label, label + 1]))
        above = np.searchsorted(-scores[rows], -lowest)  # [C] detections of the class with a higher score
        counted = np.cumsum(~matches.ignored[0][:, rows], axis=1)
        places = places_of_recalls(num_truths)
        for t, (right, so_far) in enumerate(zip(matches.right[0][:, rows], counted, strict=True)):
            hits, at_hits = precision_at_hits(right, so_far)
            for c, end in enumerate(np.searchsorted(hits, above)):
                best = np.maximum.accumulate(at_hits[:end][::-1])[::-1]
                reached = np.searchsorted(places, end)
                precision[c, t, :reached, k] = best[places[:reached]]
                precision[c, t, reached:, k] = 0.0
    return precision
