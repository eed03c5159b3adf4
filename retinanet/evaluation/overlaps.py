"""Detections and the ground-truth boxes that they overlap, in the arithmetic of pycocotools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_evaluator import BOX, CATEGORY, IMAGE, GroundTruth, Rows

MATCHED = 0.5  # the lowest IoU threshold
PAIRS = 1_000_000  # pairs of a detection and a ground-truth box at once: some 100 MB

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]


class Overlaps(NamedTuple):
    """Overlaps of D detections with the annotations of their images.

    Attributes:
        own, own_ious: [D] row of the annotation of its class, no crowd, with the highest IoU, and that IoU; of equal
            ones the first; -1 and 0 for none.
        other, other_ious: [D] the same of another class.
        pairs: [P, 2] detection and annotation of one class, crowds included, that may be matched; sorted.
        pair_ious: [P] at least 0.5; with a crowd, the share of the detection that lies on it.
        cross_pairs, cross_ious: the same of another class, without crowds.
    """

    own: Indices
    own_ious: Numbers
    other: Indices
    other_ious: Numbers
    pairs: Indices
    pair_ious: Numbers
    cross_pairs: Indices
    cross_ious: Numbers


def find_overlaps(ground_truth: GroundTruth, rows: Rows) -> Overlaps:
    """Compare every detection with every annotation of its image."""
    own, other = np.full((2, len(rows)), -1, dtype=np.int64)
    own_ious, other_ious = np.zeros((2, len(rows)))
    near: list[tuple[Indices, Numbers]] = [(np.zeros((0, 2), dtype=np.int64), np.zeros(0))]
    cross = near.copy()
    for detections, truths in _pairs(ground_truth, rows):
        inter, area, truth_area = _areas(rows[detections, BOX], ground_truth.boxes[truths])
        crowd = ground_truth.crowd[truths]
        same = rows[detections, CATEGORY] == ground_truth.category_numbers[truths]
        ious = inter / np.where(crowd, area, area + truth_area - inter)
        for is_wanted, kept in ((same, near), (~same & ~crowd, cross)):
            chosen = is_wanted & (ious >= MATCHED)
            kept.append((np.stack([detections[chosen], truths[chosen]], axis=1), ious[chosen]))
        for is_wanted, best, best_ious in ((same & ~crowd, own, own_ious), (~same & ~crowd, other, other_ious)):
            _keep_best(detections[is_wanted], truths[is_wanted], ious[is_wanted], best, best_ious)
    pairs = [np.concatenate(parts) for each in (near, cross) for parts in zip(*each, strict=True)]
    return Overlaps(own, own_ious, other, other_ious, *pairs)


def _pairs(ground_truth: GroundTruth, rows: Rows) -> Iterator[tuple[Indices, Indices]]:
    """Indices of the detections and annotations of one image, each with each; many images at once."""
    order = np.argsort(ground_truth.image_numbers, kind="stable")
    images = ground_truth.image_numbers[order]
    numbers = rows[:, IMAGE].astype(np.int64)
    starts = np.searchsorted(images, numbers, side="left")
    counts = np.searchsorted(images, numbers, side="right") - starts
    ends = np.cumsum(counts)
    start = 0
    while start < len(rows):
        before = ends[start] - counts[start]
        stop = max(int(np.searchsorted(ends, before + PAIRS, side="right")), start + 1)
        part = np.arange(start, stop)
        detections = np.repeat(part, counts[part])
        within = np.arange(len(detections)) - np.repeat(ends[part] - counts[part] - before, counts[part])
        yield detections, order[np.repeat(starts[part], counts[part]) + within]
        start = stop


def _areas(boxes: Numbers, others: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Area of the intersection, of the boxes and of the others, [P, 4] xywh -> [P] each."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    inter = np.maximum(high - low, 0).prod(axis=1)
    # A box without an area, which overlaps nothing, gives 0 / 1.
    return inter, np.maximum(boxes[:, 2:].prod(axis=1), 1e-300), others[:, 2:].prod(axis=1)


def _keep_best(detections: Indices, truths: Indices, ious: Numbers, best: Indices, best_ious: Numbers) -> None:
    """Write each detection's first truth of the highest IoU above 0; a detection's pairs are adjacent."""
    np.maximum.at(best_ious, detections, ious)
    highest = (ious == best_ious[detections]) & (ious > 0)
    # Of several writes to one place the last stays.
    best[detections[highest][::-1]] = truths[highest][::-1]
