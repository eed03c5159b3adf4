"""Precision and recall of every class, size and overlap, from how detections meet truths.

The numbers are those of pycocotools' COCOeval.accumulate. Axes: T IoU thresholds, R recalls, K classes, S area ranges,
M limits of detections, D detections of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_match import IOUS, Found, Matches, Truths

RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's, to the last bit


class Tables(NamedTuple):
    """What COCOeval.accumulate gives.

    Attributes:
        precision: [T, R, K, S] the highest at this recall or above; -1 where a class has no truth of this size.
        scores: [T, R, K] the threshold that gives this recall, for all areas.
        recall: [T, K, S, M] what is found with at most so many detections an image and class; -1 as above.
    """

    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    recall: NDArray[np.float64]


def accumulate(
    truths: Truths,
    found: Found,
    matches: Matches,
    *,
    area_ranges: NDArray[np.float64],
    labels: Sequence[int],
    limits: Sequence[int],
) -> Tables:
    """Fill the tables.

    Args:
        area_ranges: [S, 2] px^2, of the matches; the first has all areas.
        labels: the classes in the order of the tables.
        limits: M numbers, the largest that of the matches.
    """
    num_ranges, num_classes = len(area_ranges), len(labels)
    tables = Tables(
        precision=np.full((len(IOUS), len(RECALLS), num_classes, num_ranges), -1.0),
        scores=np.full((len(IOUS), len(RECALLS), num_classes), -1.0),
        recall=np.full((len(IOUS), num_classes, num_ranges, len(limits)), -1.0),
    )
    label_of_match = found.labels[matches.chosen]
    for k, label in enumerate(labels):
        rows = slice(*np.searchsorted(label_of_match, [label, label + 1]))
        scores, below = found.scores[matches.chosen[rows]], matches.ranks[rows] < np.array(limits)[:, None]  # [M, D]
        areas = truths.areas[(truths.labels == label) & ~truths.crowd]
        for s, (small, large) in enumerate(area_ranges):
            num_truths = int(np.count_nonzero((areas >= small) & (areas <= large)))
            if num_truths == 0:
                continue
            right = matches.right[s][:, rows]  # [T, D]
            tables.recall[:, k, s] = (right[:, None] & below).sum(axis=2) / num_truths
            counted = np.cumsum(~matches.ignored[s][:, rows], axis=1)
            curves = [interpolate(*each, scores, num_truths) for each in zip(right, counted, strict=True)]
            tables.precision[:, :, k, s] = [precision for precision, _ in curves]
            if s == 0:
                tables.scores[:, :, k] = [threshold for _, threshold in curves]
    return tables


def interpolate(
    right: NDArray[np.bool_], counted: NDArray[np.int64], scores: NDArray[np.float64], num_truths: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and score at each of the 101 recalls.

    Args:
        right, counted, scores: [D] by falling score; counted are the detections so far that are right or wrong.
    """
    hits, precision = precision_at_hits(right, counted)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = places_of_recalls(num_truths)
    reached = place < len(hits)
    precisions, thresholds = np.zeros(len(RECALLS)), np.zeros(len(RECALLS))
    precisions[reached] = precision[place[reached]]
    thresholds[reached] = scores[hits[place[reached]]]
    thresholds[0] = scores[0] if len(scores) else 0.0  # a recall of 0 needs no truth found
    return precisions, thresholds


def precision_at_hits(
    right: NDArray[np.bool_], counted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where truths are found, and the precision up to there; arguments as of interpolate."""
    (hits,) = np.nonzero(right)  # only where a truth is found does precision rise or recall move
    return hits, np.arange(1, len(hits) + 1) / (counted[hits] + np.spacing(1))


def places_of_recalls(num_truths: int) -> NDArray[np.int64]:
    """Which hit, counted from 0, reaches each of the 101 recalls."""
    return np.searchsorted(np.arange(1, num_truths + 1) / num_truths, RECALLS, side="left")
