"""Paired bootstrap: AP of many resamples of the images from one matching, and intervals of the difference of two runs.

A resample draws N of N images with replacement. An image drawn w times has weight w: its ground truth and its
detections count w times. Axes: B resamples, N images, K classes, T IoUs, D detections of a class, J true positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from retinanet.evaluation.class_matches import ClassMatches

RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's, to the last bit
IOU_50, IOU_75 = 0, 5  # indices of these thresholds on the axis T
INTERVAL = (0.025, 0.975)
CELLS = 2_000_000  # elements of an array at once: 16 MB

Weights = NDArray[np.int64]
Numbers = NDArray[np.float64]


class Difference(NamedTuple):
    """One metric of two runs; None where it has no ground truth.

    Attributes:
        low, high: bounds of the 95 % percentile interval of b - a.
        b_better, a_better: share of the resamples in which this run has the higher value.
        resamples: number of resamples in which the metric is defined.
    """

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    b_better: float | None
    a_better: float | None
    resamples: int


def compare_matches(
    a: Sequence[ClassMatches],
    b: Sequence[ClassMatches],
    *,
    class_names: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Difference]:
    """AP, AP50, AP75 and per_class.<name>.AP of two runs on the same images.

    Both are evaluated on the same resamples, so that images that are hard for both do not widen the interval.
    """
    num_images = len(a[0].num_truths) if a else 0
    weights = draw_weights(num_images, resamples, seed=seed)
    weights = np.concatenate([np.ones((1, num_images), dtype=np.int64), weights])  # first the original images
    values = [
        summarise(average_precision(matches, weights, name=name), class_names) for matches, name in ((a, "A"), (b, "B"))
    ]
    return {name: describe_difference(values[0][name], values[1][name]) for name in values[0]}


def draw_weights(num_images: int, resamples: int, *, seed: int) -> Weights:
    """Draw the number of copies of each image in each resample, [B, N]."""
    if num_images == 0:
        return np.zeros((resamples, 0), dtype=np.int64)
    return np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


def average_precision(matches: Sequence[ClassMatches], weights: Weights, *, name: str = "") -> Numbers:
    """AP of every resample, class and IoU, [B, K, T], as in pycocotools; NaN where a class has no ground truth.

    Copies of an image are adjacent in the order of scores. pycocotools would give the same with real copies, except
    for equal scores, which it sorts by image.
    """
    result = np.full((len(weights), len(matches), len(matches[0].right) if matches else 0), np.nan)
    for k in tqdm(range(len(matches)), disable=None, unit="class", desc=f"resampling {name}".strip(), leave=False):
        step = max(CELLS // max(len(matches[k].images), 1), 1)
        for start in range(0, len(weights), step):
            result[start : start + step, k] = _class_average_precision(matches[k], weights[start : start + step])
    return result


def _class_average_precision(matches: ClassMatches, weights: Weights) -> Numbers:
    num_truths = weights @ matches.num_truths  # [B]
    weight = np.take(weights, matches.images, axis=1)  # [B, D]
    seen = np.cumsum(weight, axis=1)  # detections with at least this score
    result = np.empty((len(weights), len(matches.right)))
    for t, (right, ignored) in enumerate(zip(matches.right, matches.ignored, strict=True)):
        (rights,), (crowded,) = np.nonzero(right), np.nonzero(ignored)
        counted = seen[:, rights]  # [B, J]; precision rises and recall changes only at true positives
        if len(crowded):
            over_crowds = np.pad(np.cumsum(weight[:, crowded], axis=1), ((0, 0), (1, 0)))
            counted = counted - over_crowds[:, np.searchsorted(crowded, rights)]
        result[:, t] = _interpolate(np.cumsum(weight[:, rights], axis=1), counted, num_truths)
    result[num_truths == 0] = np.nan
    return result


def _interpolate(found: Weights, counted: Weights, num_truths: Weights) -> Numbers:
    """Mean over the 101 recalls of the highest precision at this recall or above, [B].

    Args:
        found, counted: [B, J] cumulated true positives, and true or false positives, at each true positive.
    """
    precision = found / (counted + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Each true positive counts for the recalls that it is the first to reach.
    reached = np.searchsorted(RECALLS, found / np.maximum(num_truths, 1)[:, None], side="right")
    answered_for = np.diff(reached, axis=1, prepend=0)
    total: Numbers = (precision * answered_for).sum(axis=1)
    return total / len(RECALLS)


def summarise(precision: Numbers, class_names: Sequence[str]) -> dict[str, Numbers]:
    """COCO's metrics of every resample: [B, K, T] -> [B] each. Means leave out classes without ground truth."""
    by_class = precision.mean(axis=2)  # [B, K]
    metrics = {
        "AP": _mean_over_classes(by_class),
        "AP50": _mean_over_classes(precision[:, :, IOU_50]),
        "AP75": _mean_over_classes(precision[:, :, IOU_75]),
    }
    return metrics | {f"per_class.{name}.AP": by_class[:, k] for k, name in enumerate(class_names)}


def _mean_over_classes(values: Numbers) -> Numbers:
    known = ~np.isnan(values)  # [B, K]
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def describe_difference(a: Numbers, b: Numbers) -> Difference:
    """Summarise a metric from its values [1 + B]: on the original images, then on the resamples."""
    differences = (b - a)[1:]
    differences = differences[~np.isnan(differences)]
    if np.isnan(a[0]) or len(differences) == 0:
        return Difference(None, None, None, None, None, None, None, 0)
    low, high = np.quantile(differences, INTERVAL).tolist()
    return Difference(
        a=float(a[0]),
        b=float(b[0]),
        difference=float(b[0] - a[0]),
        low=low,
        high=high,
        b_better=float((differences > 0).mean()),
        a_better=float((differences < 0).mean()),
        resamples=len(differences),
    )
