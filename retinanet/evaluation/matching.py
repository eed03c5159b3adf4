"""The matching of all detections of a split with the ground truth, once, for everything that is computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_eval import ImageDetections, read_detections
from retinanet.evaluation.coco_evaluator import (
    ALL_AREAS,
    BOX,
    CATEGORY,
    IMAGE,
    SCORE,
    GroundTruth,
    Rows,
    read_ground_truth,
)
from retinanet.evaluation.overlaps import Overlaps, find_overlaps

NUM_IOUS = 10
IOU_50, IOU_75 = 0, 5  # indices of these thresholds among the ten
MAX_DETECTIONS = 100  # per image and class, COCO's
THRESHOLDS = np.linspace(0.5, 0.95, NUM_IOUS)  # COCO's, to the last bit


class Matching(NamedTuple):
    """Detections matched as by pycocotools; T are the IoU thresholds 0.5, 0.55, .., 0.95.

    Attributes:
        rows: [D] sorted by class and falling score.
        overlaps: of these.
        matched: [T, D] row of the annotation, a crowd perhaps; -1 for none.
        ignored: [T, D] lies on a crowd: neither true nor false positive.
    """

    ground_truth: GroundTruth
    rows: Rows
    overlaps: Overlaps
    matched: NDArray[np.int32]
    ignored: NDArray[np.bool_]

    @property
    def right(self) -> NDArray[np.bool_]:
        """[T, D] true positive."""
        right: NDArray[np.bool_] = (self.matched >= 0) & ~self.ignored
        return right


def match_all(
    truth: Mapping[str, Any], detections: Mapping[int, ImageDetections], *, max_detections: int = MAX_DETECTIONS
) -> Matching:
    """Match the detections of each class with its ground truth; arguments as of coco_eval.evaluate_detections.

    Args:
        max_detections: per image and class, those of the highest scores.
    """
    ground_truth = read_ground_truth(truth)
    return match_rows(ground_truth, read_detections(ground_truth, truth, detections), max_detections)


def match_rows(ground_truth: GroundTruth, rows: Rows, max_detections: int = MAX_DETECTIONS) -> Matching:
    """Match rows in any order."""
    rows = sort_by_score(rows, max_detections)
    overlaps = find_overlaps(ground_truth, rows)
    return Matching(ground_truth, rows, overlaps, *_match(ground_truth, rows, overlaps, ALL_AREAS))


def match_area(matching: Matching, area: Sequence[float]) -> Matching:
    """Match anew with the ground truth of some areas alone, as the evaluator does for COCO's sizes.

    A detection is ignored that is matched with an annotation of another area, or with none and has such an area itself.

    Args:
        area: smallest and largest in px^2, both included.
    """
    found = _match(matching.ground_truth, matching.rows, matching.overlaps, area)
    return matching._replace(matched=found[0], ignored=found[1])


def sort_by_score(rows: Rows, max_detections: int) -> Rows:
    """The best detections of each image and class, sorted by class and falling score, as pycocotools sorts them."""
    rows = rows[np.lexsort((-rows[:, SCORE], rows[:, IMAGE], rows[:, CATEGORY]))]
    cell = rows[:, CATEGORY].astype(np.int64) << 32 | rows[:, IMAGE].astype(np.int64)
    rows = rows[np.arange(len(rows)) - np.searchsorted(cell, cell) < max_detections]
    return rows[np.lexsort((rows[:, IMAGE], -rows[:, SCORE], rows[:, CATEGORY]))]


def _match(
    ground_truth: GroundTruth, rows: Rows, overlaps: Overlaps, area: Sequence[float]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """`matched` and `ignored` of Matching.

    By falling score, each detection takes the free annotation with the highest IoU, of equal ones the last, an ignored
    one only where there is no other; a crowd is always free. The detections of one rank in their images and classes
    are independent, so that each rank is one step for all.
    """
    outside = ground_truth.crowd | (ground_truth.areas < area[0]) | (ground_truth.areas > area[1])
    detections, truths = overlaps.pairs.T
    order = np.lexsort((-truths, -overlaps.pair_ious, outside[truths], detections))  # each one's best first
    detections, truths, ious = detections[order], truths[order], overlaps.pair_ious[order]
    (starts,) = np.nonzero(np.diff(detections, prepend=-1))
    ranks = _ranks(rows[detections[starts]])
    matched = np.full((NUM_IOUS, len(rows)), -1, dtype=np.int32)
    taken = np.zeros((NUM_IOUS, len(ground_truth.crowd)), dtype=bool)
    ends = np.append(starts[1:], len(detections))
    for rank in range(ranks.max(initial=-1) + 1):
        own = ranks == rank
        lengths = (ends - starts)[own]
        firsts = np.cumsum(lengths) - lengths
        pairs = np.arange(lengths.sum()) + np.repeat(starts[own] - firsts, lengths)
        free = ~taken[:, truths[pairs]] & (ious[pairs] >= THRESHOLDS[:, None])  # [T, P]
        best = np.minimum.reduceat(np.where(free, pairs, len(detections)), firsts, axis=1)
        t, found = np.nonzero(best < len(detections))
        chosen = best[t, found]
        matched[t, detections[chosen]] = truths[chosen]
        taken[t, truths[chosen]] = ~ground_truth.crowd[truths[chosen]]
    areas = rows[:, BOX][:, 2:].prod(axis=1)
    other_size = (areas < area[0]) | (areas > area[1])
    # The last one stands for no annotation, -1.
    ignored = np.where(matched >= 0, np.append(outside, False)[matched], other_size)
    return matched, ignored


def _ranks(rows: Rows) -> NDArray[np.int64]:
    """Rank of each row among those of its image and class, which are sorted by score."""
    order = np.lexsort((rows[:, IMAGE], rows[:, CATEGORY]))
    image, category = rows[order, IMAGE], rows[order, CATEGORY]
    new = (np.diff(image, prepend=-1) != 0) | (np.diff(category, prepend=-1) != 0)
    ranks = np.empty(len(rows), dtype=np.int64)
    ranks[order] = np.arange(len(rows)) - np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
    return ranks
