"""Calibration: whether a score is the probability that a detection is right, and the temperature that brings it closer.

Expected calibration error and temperature scaling as in Guo et al. 2017 (arXiv 1706.04599), over detections: right is a
true positive at IoU 0.5, and of an object that was not detected there is no score.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.analysis import Calibration, CalibrationBin, Figure
from retinanet.evaluation.bootstrap import Numbers, describe_figure
from retinanet.evaluation.temperature import scale_scores, to_logits

NUM_BINS = 10
FEWEST = 10  # right and wrong detections, with fewer of which no temperature is fitted
LOWEST, HIGHEST = 1 / 16, 16.0  # temperatures
STEPS = 60  # of the golden section, which leave 1e-12 of the interval


def fit_temperature(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> float | None:
    """The temperature of the highest likelihood; None with fewer than 10 right or wrong detections.

    The negative log likelihood of sigmoid(logit / T) is convex in 1 / T, so a golden section search finds its minimum.

    Args:
        scores: [D] above 0 and below 1, of detections that are not on crowds.
        right: [D].
    """
    if min(np.count_nonzero(right), np.count_nonzero(~right)) < FEWEST:
        return None
    logits = to_logits(scores)
    signed = np.where(right, -logits, logits)

    def loss(inverse: float) -> float:
        return float(np.logaddexp(0.0, inverse * signed).mean())

    return 1 / _minimise(loss, 1 / HIGHEST, 1 / LOWEST)


def measure_calibration(
    scores: NDArray[np.float32],
    right: NDArray[np.bool_],
    images: NDArray[np.int64],
    shares: Numbers,
    temperature: float | None,
) -> Calibration:
    """Reliability diagram and expected calibration error, as they are and with the temperature.

    Args:
        scores, right, images: [D], of detections that are not on crowds.
        shares: [1 + B, N] copies of each image in each resample, the first row of ones.
        temperature: fitted on other images.
    """
    ece, bins = _reliability(scores.astype(np.float64), right, images, shares)
    if temperature is None:
        return Calibration(ece, bins, None, Figure(None), [])
    return Calibration(ece, bins, temperature, *_reliability(scale_scores(scores, temperature), right, images, shares))


def _reliability(
    scores: Numbers, right: NDArray[np.bool_], images: NDArray[np.int64], shares: Numbers
) -> tuple[Figure, list[CalibrationBin]]:
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    number = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, NUM_BINS - 1)
    num_images = shares.shape[1]
    cells = images * NUM_BINS + number

    def sums(values: Numbers | None = None) -> Numbers:
        """[1 + B, bins] of each resample."""
        of_images = np.bincount(cells, values, minlength=num_images * NUM_BINS).reshape(num_images, NUM_BINS)
        total: Numbers = shares @ of_images.astype(np.float64)
        return total

    counts, scored, found = sums(), sums(scores), sums(right.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        ece = np.abs(scored - found).sum(axis=1) / counts.sum(axis=1)
        means, precisions = scored[0] / counts[0], found[0] / counts[0]
    bins = [
        CalibrationBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            count=int(counts[0, b]),
            score=float(means[b]) if counts[0, b] else None,
            precision=float(precisions[b]) if counts[0, b] else None,
        )
        for b in range(NUM_BINS)
    ]
    return describe_figure(ece), bins


def _minimise(loss: Callable[[float], float], low: float, high: float) -> float:
    """Golden section search for the minimum of a convex function."""
    ratio = (np.sqrt(5.0) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = loss(a), loss(b)
    for _ in range(STEPS):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = loss(b)
    return float((low + high) / 2)
