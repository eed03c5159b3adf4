"""Right and wrong detections at IoU 0.5 by their scores, for precision, recall and F1 at any score threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.calibration import fit_temperature
from retinanet.evaluation.coco_eval import ImageDetections
from retinanet.evaluation.coco_evaluator import CATEGORY, SCORE
from retinanet.evaluation.matching import IOU_50, Matching, match_all
from retinanet.evaluation.temperature import scale_scores
from retinanet.evaluation.working_point import figures_of, list_candidates

CURVE_THRESHOLDS = np.arange(101) / 100


class ThresholdPoint(NamedTuple):
    """Precision, recall and F1 of the detections of a class with a score above a threshold; NaN where undefined."""

    class_name: str
    threshold: float  # 0, 0.01, .., 1
    precision: float
    recall: float
    f1: float


class ScoreMatches(NamedTuple):
    """The detections of one class over all images, without those on crowds.

    Attributes:
        scores: [D] falling.
        right: [D] true positive at IoU 0.5.
        num_truths: ground-truth boxes, without crowds.
    """

    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    num_truths: int

    def counts_above(self, thresholds: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True and false positives with a score above each threshold, of any shape."""
        kept = np.searchsorted(-self.scores, -thresholds, side="left")
        true = np.append(0, np.cumsum(self.right))[kept]
        return true, kept - true


def match_scores(truth: Mapping[str, Any], detections: Mapping[int, ImageDetections]) -> list[ScoreMatches]:
    """Match the detections of each class with its ground truth as the COCO evaluation does.

    Args:
        truth, detections: as of coco_eval.evaluate_detections.

    Returns:
        One for each category of the truth, in its order.
    """
    return score_matches(truth, match_all(truth, detections))


def score_matches(truth: Mapping[str, Any], matching: Matching) -> list[ScoreMatches]:
    """The detections of each category of the truth, in its order, by what they were matched with."""
    ground_truth, rows = matching.ground_truth, matching.rows
    right, ignored = matching.right[IOU_50], matching.ignored[IOU_50]
    classes = []
    for category in truth["categories"]:
        number = ground_truth.categories[category["id"]]
        own = ~ignored & (rows[:, CATEGORY] == number)
        num_truths = np.count_nonzero(~ground_truth.crowd & (ground_truth.category_numbers == number))
        classes.append(ScoreMatches(rows[own, SCORE].astype(np.float32), right[own], int(num_truths)))
    return classes


def pool(classes: Sequence[ScoreMatches]) -> ScoreMatches:
    """The detections of all classes as one."""
    scores = np.concatenate([np.zeros(0, np.float32), *(one.scores for one in classes)])
    right = np.concatenate([np.zeros(0, bool), *(one.right for one in classes)])
    order = np.argsort(-scores, kind="stable")
    return ScoreMatches(scores[order], right[order], sum(one.num_truths for one in classes))


def threshold_curve(
    class_name: str, matches: ScoreMatches, *, temperature: float | None = None
) -> list[ThresholdPoint]:
    """Precision, recall and F1 at 101 thresholds; no points for a class without ground truth.

    Args:
        temperature: the thresholds are those of scores that are calibrated with it; None: of raw scores.
    """
    if matches.num_truths == 0:
        return []
    raw = CURVE_THRESHOLDS if temperature is None else scale_scores(CURVE_THRESHOLDS, 1 / temperature)
    true, false = matches.counts_above(raw.astype(np.float32))
    figures = (values.tolist() for values in figures_of(true, false, matches.num_truths))
    return [ThresholdPoint(class_name, *row) for row in zip(CURVE_THRESHOLDS.tolist(), *figures, strict=True)]


def describe_candidates(
    truth: Mapping[str, Any], detections: Mapping[int, ImageDetections], *, lowest: float
) -> dict[str, Any]:
    """Candidates for the working point, in plain values as working_point.choose_points reads them.

    With them the temperature that calibrates the scores (see calibration.py), or None.

    Args:
        lowest: score threshold with which the detections were made.
    """
    classes = match_scores(truth, detections)
    pooled = pool(classes)
    overall, *each = (
        list_candidates(one.scores, one.right, one.num_truths, lowest=lowest) for one in (pooled, *classes)
    )
    temperature = fit_temperature(pooled.scores, pooled.right)
    # Rounded, because the order of equal scores, which changes its last bits, depends on the number of workers.
    return {
        "overall": overall,
        "classes": each,
        "temperature": None if temperature is None else float(f"{temperature:.5g}"),
    }
