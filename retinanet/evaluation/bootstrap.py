"""Bootstrap over the images: AP of many resamples from one matching, and intervals of figures and of differences.

A resample draws N of N images with replacement. An image drawn w times has weight w: its ground truth and its
detections count w times. Axes: B resamples, N images, K classes, T IoUs, D detections of a class, J true positives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.analysis import Figure
from retinanet.evaluation.class_matches import ClassMatches
from retinanet.evaluation.matching import IOU_50, IOU_75

RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's, to the last bit
INTERVAL = (0.025, 0.975)
CELLS = 250_000  # elements of an array at once: 1 MB, which stays in the cache

Weights = NDArray[np.int32]
Numbers = NDArray[np.float64]
Track = Callable[[Iterable[int]], Iterable[int]]


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
    track: Track = iter,
) -> dict[str, Difference]:
    """AP, AP50, AP75 and per_class.<name>.AP of two runs on the same images.

    Both are evaluated on the same resamples, so that images that are hard for both do not widen the interval.

    Args:
        track: passes on the classes of a run while it shows the progress.

    Raises:
        ValueError: for a single image, of which every resample is the image itself: any difference would look certain.
    """
    num_images = len(a[0].num_truths) if a else 0
    if num_images == 1:
        raise ValueError("the split has 1 image, which says nothing about others; compare on a split of 50 or more")
    weights = draw_weights(num_images, resamples, seed=seed)
    values = [summarise(average_precision(matches, weights, track=track), class_names) for matches in (a, b)]
    return {name: describe_difference(values[0][name], values[1][name]) for name in values[0]}


def draw_weights(num_images: int, resamples: int, *, seed: int) -> Weights:
    """Draw the number of copies of each image: [1 + B, N], of which the first row is the original images."""
    weights = np.ones((1 + resamples, num_images), dtype=np.int32)
    if num_images > 0:
        chances = np.full(num_images, 1 / num_images)
        weights[1:] = np.random.default_rng(seed).multinomial(num_images, chances, size=resamples)
    return weights


def average_precision(matches: Sequence[ClassMatches], weights: Weights, *, track: Track = iter) -> Numbers:
    """AP of every resample, class and IoU, [B, K, T], as in pycocotools; NaN where a class has no ground truth.

    Copies of an image are adjacent in the order of scores. pycocotools would give the same with real copies, except
    for equal scores, which it sorts by image.

    Args:
        weights: [B, N].
        track: as of compare_matches.
    """
    result = np.full((len(weights), len(matches), len(matches[0].right) if matches else 0), np.nan)
    for k in track(range(len(matches))):
        counted = matches[k].only(np.logical_not(matches[k].ignored.all(axis=0)))
        places = _Places.of(counted)
        step = max(CELLS // max(len(counted.images), 1), 1)
        for start in range(0, len(weights), step):
            part = weights[start : start + step]
            num_truths = part @ np.atleast_2d(counted.num_truths).T.astype(np.int32)  # [B, T or 1]
            result[start : start + step, k] = _class_average_precision(counted.images, places, part, num_truths)
    return result


class _Places(NamedTuple):
    """Where the detections of a class count.

    Attributes:
        ever: [U] detections that are true positives at any IoU.
        rights: of each IoU the indices into `ever` of its J true positives.
        crowded: of each IoU the ignored detections.
        before: of each IoU [J] the number of ignored detections before each true positive.
    """

    ever: NDArray[np.int64]
    rights: list[NDArray[np.int64]]
    crowded: list[NDArray[np.int64]]
    before: list[NDArray[np.int64]]

    @classmethod
    def of(cls, matches: ClassMatches) -> _Places:
        (ever,) = np.nonzero(matches.right.any(axis=0))
        rights = [np.flatnonzero(right[ever]) for right in matches.right]
        crowded = [np.flatnonzero(ignored) for ignored in matches.ignored]
        before = [np.searchsorted(each, ever[own]) for each, own in zip(crowded, rights, strict=True)]
        return cls(ever, rights, crowded, before)


def _class_average_precision(
    images: NDArray[np.int64], places: _Places, weights: Weights, num_truths: Weights
) -> Numbers:
    """[B, T] of one class with detections in images [D] and num_truths [B, T or 1]."""
    weight = np.take(weights, images, axis=1)  # [B, D]
    seen = np.cumsum(weight, axis=1, dtype=np.int32)  # detections with at least this score
    # Precision rises and recall changes only at true positives.
    weight_ever, seen_ever = np.take(weight, places.ever, axis=1), np.take(seen, places.ever, axis=1)
    result = np.empty((len(weights), len(places.rights)))
    for t, (rights, crowded, before) in enumerate(zip(*places[1:], strict=True)):
        counted = np.take(seen_ever, rights, axis=1)  # [B, J]
        if len(crowded):
            over_crowds = np.zeros((len(weights), len(crowded) + 1), dtype=np.int32)
            np.cumsum(np.take(weight, crowded, axis=1), axis=1, out=over_crowds[:, 1:])
            counted -= np.take(over_crowds, before, axis=1)
        found = np.cumsum(np.take(weight_ever, rights, axis=1), axis=1, dtype=np.int32)
        result[:, t] = _interpolate(found, counted, num_truths[:, min(t, num_truths.shape[1] - 1)])
    result[np.broadcast_to(num_truths == 0, result.shape)] = np.nan
    return result


def _interpolate(found: Weights, counted: Weights, num_truths: Weights) -> Numbers:
    """Mean over the 101 recalls of the highest precision at this recall or above, [B].

    Args:
        found, counted: [B, J] cumulated true positives, and true or false positives, at each true positive.
    """
    precision = found / (counted + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Each true positive counts for the recalls that it is the first to reach.
    recall = found / np.maximum(num_truths, 1)[:, None]
    highest = (recall * (len(RECALLS) - 1) + 1e-9).astype(np.int32)
    reached = highest + (RECALLS[highest] <= recall)  # the last bit of 0.57 decides
    total: Numbers = (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
    return total / len(RECALLS)


def summarise(precision: Numbers, class_names: Sequence[str]) -> dict[str, Numbers]:
    """COCO's metrics of every resample: [B, K, T] -> [B] each. Means leave out classes without ground truth."""
    by_class = precision.mean(axis=2)  # [B, K]
    metrics = {
        "AP": mean_over_classes(by_class),
        "AP50": mean_over_classes(precision[:, :, IOU_50]),
        "AP75": mean_over_classes(precision[:, :, IOU_75]),
    }
    return metrics | {f"per_class.{name}.AP": by_class[:, k] for k, name in enumerate(class_names)}


def mean_over_classes(values: Numbers) -> Numbers:
    """[B, K] -> [B], without the NaN of classes without ground truth; NaN where there is no other."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def describe_figure(values: Numbers) -> Figure:
    """A figure from 0 to 1 and its 95 % interval, from its values [1 + B] on the original images and on the resamples.

    The resamples' percentiles, moved so that their mean lies on the value: AP of resamples is too high,
    most of all where classes have few objects. docs/log.md has the coverage of three kinds of intervals. The interval
    holds the value, which the shift alone does not grant where one resample in fifty is far from all others.
    """
    if np.isnan(values[0]):
        return Figure(None)
    value, known = float(values[0]), values[1:][~np.isnan(values[1:])]
    if not len(known):
        return Figure(value)
    low, high = np.clip(np.quantile(known, INTERVAL) - (known.mean() - value), 0.0, 1.0).tolist()
    return Figure(value, min(low, value), max(high, value))


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
