"""The working point of a detector: the score threshold of each class at which it is used.

The candidates of a class are the points of its precision-recall curve than which no other point is better in precision
and as good in recall, or the reverse. They are plain values, which the file of the detector stores, so that a point can
be chosen without the images. A target is `f1`, `{"precision": p}` or `{"recall": r}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.temperature import scale_threshold

Figure: TypeAlias = Literal["precision", "recall"]
Counts: TypeAlias = NDArray[np.int64] | NDArray[np.float64]
Target: TypeAlias = Literal["f1"] | Mapping[Figure, float]

FIGURES: tuple[Figure, ...] = ("precision", "recall")
HUNDREDTHS = np.arange(101) / 100


class WorkingPoint(NamedTuple):
    """A score threshold (exclusive), and what the split on which it was chosen gives at it."""

    threshold: float
    precision: float
    recall: float
    f1: float


class WorkingPoints(NamedTuple):
    """The working points of a detector.

    Attributes:
        overall: of all classes pooled, at one threshold.
        classes: of each of the K classes; None where the split has no true positive of the class.
    """

    overall: WorkingPoint
    classes: list[WorkingPoint | None]

    @property
    def thresholds(self) -> list[float]:
        """Threshold of each class, the overall one for a class without its own."""
        return [(point or self.overall).threshold for point in self.classes]

    def calibrated(self, temperature: float) -> WorkingPoints:
        """The same with the thresholds of calibrated scores, which keep the same detections."""

        def scaled(point: WorkingPoint) -> WorkingPoint:
            return point._replace(threshold=scale_threshold(point.threshold, temperature))

        return WorkingPoints(scaled(self.overall), [point and scaled(point) for point in self.classes])


def list_candidates(
    scores: NDArray[np.float32], right: NDArray[np.bool_], num_truths: int, *, lowest: float
) -> dict[str, Any]:
    """Candidates for the working point of a class, by falling threshold.

    Only those are listed that f1 or a target of a whole hundredth chooses; for any other target, the next one suffices.
    A threshold is the midpoint between the lowest score that it keeps and the next lower one (below the last
    one `lowest`), in float32, so that `score > threshold` tells the two apart.

    Args:
        scores: [D] of the detections of the class over all images, those on crowds left out.
        right: [D] true positive.
        num_truths: ground-truth boxes of the class, without crowds.
        lowest: no detection has a score of this or below.

    Returns:
        num_truths, and per candidate thresholds, true_positives, false_positives; none without a true positive.
    """
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], right[order]
    below = np.append(scores[1:], np.float32(lowest))
    ends = np.flatnonzero((scores > below) | (np.arange(len(scores)) == len(scores) - 1))  # of runs of equal scores
    true = np.cumsum(right, dtype=np.int64)[ends]
    false = ends + 1 - true
    chosen = _thinned(true, false, num_truths, _front(true, false))
    return {
        "num_truths": int(num_truths),
        "thresholds": [_between(below[end], scores[end]) for end in ends[chosen]],
        "true_positives": true[chosen].tolist(),
        "false_positives": false[chosen].tolist(),
    }


def choose_point(candidates: Mapping[str, Any], target: Target) -> WorkingPoint | None:
    """Choose the candidate of the target; None where there are none.

    f1: the highest F1, of equal ones the higher threshold. precision: of the candidates with at least this precision,
    the highest recall. recall: of those with at least this recall, the highest precision. Where no candidate reaches
    it, the highest precision or recall there is.
    """
    true, false = (np.array(candidates[f"{kind}_positives"], dtype=np.int64) for kind in ("true", "false"))
    if not len(true):
        return None
    precision, recall, f1 = figures_of(true, false, candidates["num_truths"])
    index = _choose(precision, recall, f1, target)
    return WorkingPoint(
        candidates["thresholds"][index], float(precision[index]), float(recall[index]), float(f1[index])
    )


def choose_points(
    description: Mapping[str, Any], target: Target, *, temperature: float | None = None
) -> WorkingPoints | None:
    """Choose the working points from the description of a detector; None for a detector that has none.

    Older files have none, nor has a detector without any true positive on val.

    Args:
        temperature: with which the detector calibrates its scores; None: it does not.
    """
    stored = description.get("working_point")
    overall = choose_point(stored["overall"], target) if stored else None
    if stored is None or overall is None:
        return None
    points = WorkingPoints(overall, [choose_point(candidates, target) for candidates in stored["classes"]])
    return points if temperature is None else points.calibrated(temperature)


def figures_of(
    true: Counts, false: Counts, num_truths: Counts | int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 from counts of any shape; NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.true_divide(true, true + false)
        recall = np.true_divide(true, num_truths)
        f1 = np.true_divide(2 * true, true + false + num_truths)
    return precision, recall, f1


def is_kept(scores: NDArray[np.float32], labels: NDArray[np.int64], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """[D] whether each detection has a score above the threshold of its class, compared in float32."""
    kept: NDArray[np.bool_] = scores > np.array(thresholds, dtype=np.float32)[labels]
    return kept


def misses_target(point: WorkingPoint, target: Target) -> bool:
    """Whether the point has less than the target asks for."""
    return target != "f1" and any(getattr(point, name) < least for name, least in target.items())


def parse_target(text: str) -> Target:
    """Read a target from `f1`, `precision=0.9` or `recall=0.8`.

    Raises:
        ValueError: for any other text.
    """
    if text == "f1":
        return "f1"
    name, _, number = text.partition("=")
    with suppress(ValueError):
        for figure in FIGURES:
            if name == figure and 0 < float(number) <= 1:
                return {figure: float(number)}
    raise ValueError(f"the working point is {text!r}; expected f1, or precision=P or recall=R with a number up to 1")


def describe_target(target: Target) -> str:
    """Format a target as words: `best F1`, `precision of at least 0.9`."""
    if target == "f1":
        return "best F1"
    return ", ".join(f"{name} of at least {least:g}" for name, least in target.items())


def _front(true: NDArray[np.int64], false: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the points that no other beats: along them recall rises and precision falls."""
    if not len(true):
        return np.zeros(0, dtype=np.int64)
    precision = true / (true + false)
    best_after = np.append(np.maximum.accumulate(precision[::-1])[::-1][1:], 0.0)
    return np.flatnonzero((np.diff(true, prepend=0) > 0) & (precision > best_after))


def _thinned(
    true: NDArray[np.int64], false: NDArray[np.int64], num_truths: int, front: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of the front that the best F1 or a target of a whole hundredth chooses."""
    if not len(front):
        return front
    figures = figures_of(true[front], false[front], num_truths)
    targets: list[Target] = ["f1", *({name: float(least)} for name in FIGURES for least in HUNDREDTHS)]
    return front[sorted({_choose(*figures, target) for target in targets})]


def _choose(
    precision: NDArray[np.float64], recall: NDArray[np.float64], f1: NDArray[np.float64], target: Target
) -> int:
    """Index of the candidate of the target; see choose_point. Recall rises, precision falls along the candidates."""
    if target == "f1":
        return int(f1.argmax())
    ((name, least),) = target.items()
    if name == "precision":
        return max(int(np.count_nonzero(precision >= least)) - 1, 0)
    return min(int(np.count_nonzero(recall < least)), len(recall) - 1)


def _between(low: np.float32, high: np.float32) -> float:
    """A float32 t with low <= t < high, the midpoint where it is one."""
    middle = np.float32((float(low) + float(high)) / 2)
    return float(middle if middle < high else low)
