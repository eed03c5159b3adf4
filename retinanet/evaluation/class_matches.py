"""Matches of detections with the ground truth, from which AP of any weighting of the images can be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_evaluator import (
    CATEGORY,
    IMAGE,
    SCORE,
    GroundTruth,
    Rows,
    box_ious,
    evaluate_rows,
    read_ground_truth,
)

NUM_IOUS = 10


class ClassMatches(NamedTuple):
    """Matches of the detections of one class over all images; T are the IoU thresholds 0.5, 0.55, .., 0.95.

    Attributes:
        images: [D] index of each detection's image in the list of the ground truth.
        scores: [D] falling.
        right: [T, D] true positive.
        ignored: [T, D] lies on a crowd: neither true nor false positive.
        num_truths: [N] ground-truth boxes of each image, without crowds.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    num_truths: NDArray[np.int64]


def match_results(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], *, max_detections: int = 100
) -> list[ClassMatches]:
    """Match the rows of a COCO results file as pycocotools does.

    Args:
        results: rows as of coco_eval.coco_results.
        max_detections: per image and class, those of the highest scores.

    Returns:
        One for each category of the truth, in its order.
    """
    ground_truth = read_ground_truth(truth)
    rows = sort_by_score(_read_results(ground_truth, results), max_detections)
    right, ignored = match_rows(ground_truth, rows, max_detections)
    listed = np.argsort([image["id"] for image in truth["images"]]).astype(np.int64)  # by the number of the image
    counted = ~ground_truth.crowd
    classes = []
    for category in truth["categories"]:
        number = ground_truth.categories[category["id"]]
        own = slice(*np.searchsorted(rows[:, CATEGORY], [number, number + 1]))
        truths = ground_truth.image_numbers[counted & (ground_truth.category_numbers == number)]
        classes.append(
            ClassMatches(
                images=listed[rows[own, IMAGE].astype(np.int64) - 1],
                scores=rows[own, SCORE],
                right=right[:, own],
                ignored=ignored[:, own],
                num_truths=np.bincount(listed[truths - 1], minlength=len(listed)),
            )
        )
    return classes


def match_detections(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    truth_boxes: NDArray[np.float32],
    truth_labels: NDArray[np.int64],
    *,
    iou_threshold: float = 0.5,
) -> NDArray[np.int64]:
    """Match the detections of one image by COCO's rule.

    In the order given, which must be by falling score, each detection takes the ground-truth box of its class with
    the highest IoU (at least iou_threshold) that no earlier one has taken.

    Args:
        boxes, labels: [D, 4] xyxy px and [D].
        truth_boxes, truth_labels: [M, 4] xyxy px and [M], without crowds.

    Returns:
        [D] the index of the ground-truth box, or -1 for a false positive.
    """
    matches = np.full(len(boxes), -1, dtype=np.int64)
    if len(boxes) == 0 or len(truth_boxes) == 0:
        return matches
    ious = box_ious(boxes, truth_boxes)
    ious[labels[:, None] != truth_labels[None, :]] = 0.0  # [D, M]
    for detection in range(len(boxes)):
        best = int(ious[detection].argmax())
        if ious[detection, best] >= iou_threshold:
            matches[detection] = best
            ious[:, best] = 0.0
    return matches


def sort_by_score(rows: Rows, max_detections: int) -> Rows:
    """The best detections of each image and class, sorted by class and falling score, as pycocotools sorts them."""
    rows = rows[np.lexsort((-rows[:, SCORE], rows[:, IMAGE], rows[:, CATEGORY]))]
    cell = _cells(rows[:, IMAGE], rows[:, CATEGORY])
    rows = rows[np.arange(len(rows)) - np.searchsorted(cell, cell) < max_detections]
    return rows[np.lexsort((rows[:, IMAGE], -rows[:, SCORE], rows[:, CATEGORY]))]


def match_rows(
    ground_truth: GroundTruth, rows: Rows, max_detections: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """True positives and ignored detections, [T, D] each.

    Only detections of an image and class with ground truth are given to the evaluator, which hands its matches back
    as lists, at a cost of a few microseconds a detection.
    """
    right, ignored = np.zeros((2, NUM_IOUS, len(rows)), dtype=bool)
    with_truth = _cells(ground_truth.image_numbers, ground_truth.category_numbers)
    (near,) = np.nonzero(np.isin(_cells(rows[:, IMAGE], rows[:, CATEGORY]), with_truth))
    evaluator = evaluate_rows(ground_truth, rows[near], max_detections=[max_detections], all_areas_only=True)
    for image in evaluator.evalImgs:
        if image is not None:
            own = near[np.array(image["dtIds"], dtype=np.int64) - 1]  # ids count the rows from 1
            ignored[:, own] = image["dtIgnore"]
            right[:, own] = (np.array(image["dtMatches"]) > 0) & ~ignored[:, own]
    return right, ignored


def _read_results(ground_truth: GroundTruth, results: Iterable[Mapping[str, Any]]) -> Rows:
    images, categories = ground_truth.images, ground_truth.categories
    rows = [
        (images[row["image_id"]], *row["bbox"], row["score"], categories[row["category_id"]])
        for row in results
        if row["image_id"] in images and row["category_id"] in categories
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def _cells(image_numbers: NDArray[Any], category_numbers: NDArray[Any]) -> NDArray[np.int64]:
    """One number for each pair of class and image, class by class."""
    cells: NDArray[np.int64] = category_numbers.astype(np.int64) << 32 | image_numbers.astype(np.int64)
    return cells
