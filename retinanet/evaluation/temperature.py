"""Temperature scaling of scores, in numpy: sigmoid(logit(score) / temperature), which keeps their order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def to_logits(scores: NDArray[np.float32]) -> Numbers:
    """log(s / (1 - s)), of scores within 1e-7 of 0 and 1."""
    inside = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    logits: Numbers = np.log(inside) - np.log1p(-inside)
    return logits


def scale_scores(scores: NDArray[np.float32] | Numbers, temperature: float) -> Numbers:
    """sigmoid(logit / temperature) of scores in [0, 1]; 0 and 1 stay."""
    exact = scores.astype(np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        scaled: Numbers = 1 / (1 + np.exp((np.log1p(-exact) - np.log(exact)) / temperature))
    return scaled


def scale_threshold(threshold: float, temperature: float) -> float:
    """A score threshold among the scaled scores, as a float32.

    Scores at or below the threshold stay so, and those above it do unless float32 makes the two equal.
    """
    return float(scale_scores(np.array([threshold]), temperature)[0].astype(np.float32))


def scale_apart(scores: NDArray[np.float32], temperature: float) -> Numbers:
    """The scaled scores in float64, equal where the given ones are and nowhere else.

    Near 1 even float64 cannot hold all of them; they are then the next smaller numbers.
    """
    values, places = np.unique(scores, return_inverse=True)
    scaled = scale_scores(values, temperature)
    for i in range(len(scaled) - 2, -1, -1) if (np.diff(scaled) <= 0).any() else ():
        scaled[i] = min(scaled[i], np.nextafter(scaled[i + 1], 0.0))
    return scaled[places]
