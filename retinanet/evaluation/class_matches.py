"""Matches of detections with the ground truth, from which AP of any weighting of the images can be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_evaluator import (
    ALL_AREAS,
    CATEGORY,
    IMAGE,
    SCORE,
    GroundTruth,
    Rows,
    box_ious,
    read_ground_truth,
)
from retinanet.evaluation.matching import Matching, match_rows


class ClassMatches(NamedTuple):
    """Matches of the detections of one class over all images; T are the IoU thresholds 0.5, 0.55, .., 0.95.

    Attributes:
        images: [D] index of each detection's image in the list of the ground truth.
        scores: [D] falling.
        right: [T, D] true positive.
        ignored: [T, D] lies on a crowd: neither true nor false positive.
        num_truths: [N] ground-truth boxes of each image, without crowds; [T, N] where rows differ.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    num_truths: NDArray[np.int64]

    def only(self, kept: NDArray[np.bool_]) -> ClassMatches:
        """Those of the detections that are kept, [D]."""
        return self._replace(
            images=self.images[kept],
            scores=self.scores[kept],
            right=self.right[:, kept],
            ignored=self.ignored[:, kept],
        )


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
    return split_by_class(truth, match_rows(ground_truth, _read_results(ground_truth, results), max_detections))


def split_by_class(
    truth: Mapping[str, Any], matching: Matching, area: Sequence[float] = ALL_AREAS
) -> list[ClassMatches]:
    """The matches of each category of the truth, in its order.

    Args:
        truth: that was matched.
        area: as of match_area, by which they were matched.
    """
    ground_truth, rows, right = matching.ground_truth, matching.rows, matching.right
    listed = listed_images(truth)
    counted = ~ground_truth.crowd & (ground_truth.areas >= area[0]) & (ground_truth.areas <= area[1])
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
                ignored=matching.ignored[:, own],
                num_truths=np.bincount(listed[truths - 1], minlength=len(listed)),
            )
        )
    return classes


def listed_images(truth: Mapping[str, Any]) -> NDArray[np.int64]:
    """[N] index in the list of images of the image of each number, from 1 in the order of their ids."""
    return np.argsort([image["id"] for image in truth["images"]]).astype(np.int64)


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


def _read_results(ground_truth: GroundTruth, results: Iterable[Mapping[str, Any]]) -> Rows:
    images, categories = ground_truth.images, ground_truth.categories
    rows = [
        (images[row["image_id"]], *row["bbox"], row["score"], categories[row["category_id"]])
        for row in results
        if row["image_id"] in images and row["category_id"] in categories
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)
