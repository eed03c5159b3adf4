"""A split with the verdict on every detection and ground-truth box, from which the measures are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.analysis import IGNORED, JudgedDetections, JudgedTruths
from retinanet.evaluation.bootstrap import Numbers, Track, Weights
from retinanet.evaluation.class_matches import listed_images
from retinanet.evaluation.coco_evaluator import BOX, CATEGORY, IMAGE, SCORE
from retinanet.evaluation.errors import Verdicts, find_errors
from retinanet.evaluation.matching import IOU_50, Matching


class JudgedSplit(NamedTuple):
    """What all measures are computed from; N images, K classes, D detections, G annotations, B resamples.

    Attributes:
        in_use: [D] above the threshold of the class.
        labels: [D] index of the class.
        images: [D] index of the image in the list of the truth.
        truth_labels, truth_images: [G] the same of the annotations.
        weights: [1 + B, N], the first row of ones.
        shares: the same in float64, which BLAS multiplies.
    """

    truth: Mapping[str, Any]
    matching: Matching
    verdicts: Verdicts
    thresholds: Sequence[float] | None
    in_use: NDArray[np.bool_]
    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    truth_labels: NDArray[np.int64]
    truth_images: NDArray[np.int64]
    weights: Weights
    shares: Numbers
    track: Callable[[str], Track]

    @property
    def class_names(self) -> list[str]:
        """In the order of the labels."""
        return [category["name"] for category in self.truth["categories"]]

    def sums(self, images: NDArray[np.int64]) -> Numbers:
        """How many of these there are in each resample, each with the weight of its image: [..] -> [1 + B]."""
        sums: Numbers = self.shares @ np.bincount(images, minlength=self.shares.shape[1]).astype(np.float64)
        return sums


def judge_split(
    truth: Mapping[str, Any],
    matching: Matching,
    thresholds: Sequence[float] | None,
    weights: Weights,
    track: Callable[[str], Track] = lambda title: iter,
) -> JudgedSplit:
    """Name the error of each detection, and number images and classes as the truth lists them."""
    ground_truth, rows, listed = matching.ground_truth, matching.rows, listed_images(truth)
    label_of = np.zeros(len(ground_truth.categories) + 1, dtype=np.int64)
    label_of[[ground_truth.categories[category["id"]] for category in truth["categories"]]] = range(
        len(truth["categories"])
    )
    labels = label_of[rows[:, CATEGORY].astype(np.int64)]
    in_use = np.zeros(len(rows), dtype=bool)
    if thresholds is not None:
        in_use = rows[:, SCORE].astype(np.float32) > np.array(thresholds, dtype=np.float32)[labels]
    return JudgedSplit(
        truth=truth,
        matching=matching,
        verdicts=find_errors(matching),
        thresholds=thresholds,
        in_use=in_use,
        labels=labels,
        images=listed[rows[:, IMAGE].astype(np.int64) - 1],
        truth_labels=label_of[ground_truth.category_numbers],
        truth_images=listed[ground_truth.image_numbers - 1],
        weights=weights,
        shares=weights.astype(np.float64),
        track=track,
    )


def judged_detections(split: JudgedSplit) -> JudgedDetections:
    """The detections for reports, by falling score."""
    order = np.argsort(-split.matching.rows[:, SCORE], kind="stable")
    rows, ids = split.matching.rows[order], np.array([image["id"] for image in split.truth["images"]], dtype=np.int64)
    truths = split.verdicts.truths[order]
    row_of = np.append(np.cumsum(~split.matching.ground_truth.crowd) - 1, -1)  # in JudgedTruths; -1 stays -1
    return JudgedDetections(
        image_ids=ids[split.images[order]],
        boxes=_xyxy(rows[:, BOX]),
        scores=rows[:, SCORE].astype(np.float32),
        labels=split.labels[order],
        kinds=split.verdicts.kinds[order],
        truths=np.where(split.verdicts.kinds[order] == IGNORED, -1, row_of[truths]),
        ious=split.verdicts.ious[order],
        in_use=split.in_use[order],
    )


def judged_truths(split: JudgedSplit) -> JudgedTruths:
    """The ground truth for reports, without crowds."""
    ground_truth, counted = split.matching.ground_truth, ~split.matching.ground_truth.crowd
    ids = np.array([image["id"] for image in split.truth["images"]], dtype=np.int64)
    return JudgedTruths(
        image_ids=ids[split.truth_images[counted]],
        boxes=_xyxy(ground_truth.boxes[counted]),
        labels=split.truth_labels[counted],
        found=split.verdicts.found[counted],
        found_in_use=found_by(split, split.in_use)[counted],
        missed=split.verdicts.missed[counted],
    )


def found_by(split: JudgedSplit, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[G] one of the kept detections was given to it."""
    found = np.zeros(len(split.truth_labels), dtype=bool)
    found[split.matching.matched[IOU_50][kept & split.matching.right[IOU_50]]] = True
    return found


def _xyxy(boxes: Numbers) -> NDArray[np.float32]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
