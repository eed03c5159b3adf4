"""The temperature of a detector: by it the logits of scores are divided, so that a score is nearer to a probability.

Training fits it on val and stores it in the detector's file with the working point. Scores are scaled in float64 and
rounded once, so their order is kept; the closest may become equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MARGIN = 2.0**-22  # of a threshold: more than the rounding of a float32 score

MISSING = (
    "the model has no temperature, as it was imported or trained by an older version, so its scores cannot be "
    "calibrated; train it with this version, or set postprocess.calibrate to false (--no-calibrate)"
)
TOO_FEW = "the model has no temperature, because its training had fewer than 10 right or 10 wrong detections on val"


def find_temperature(description: Mapping[str, Any]) -> float | None:
    """The temperature of a detector; None where val had too few detections to fit one.

    Raises:
        ValueError: when the file says nothing about it.
    """
    stored = description.get("working_point") or {}
    if "temperature" not in stored:
        raise ValueError(MISSING)
    temperature: float | None = stored["temperature"]
    return temperature


def demand_temperature(description: Mapping[str, Any]) -> float:
    """The temperature of a detector.

    Raises:
        ValueError: when it has none.
    """
    temperature = find_temperature(description)
    if temperature is None:
        raise ValueError(f"{TOO_FEW}, so its scores cannot be calibrated; use them as they are")
    return temperature


def calibrate_scores(scores: Tensor, temperature: float) -> Tensor:
    """sigmoid(logit(score) / temperature) of scores in [0, 1], of any shape; 0 and 1 stay."""
    return (scores.double().logit() / temperature).sigmoid().to(scores.dtype)


def raw_threshold(threshold: float, temperature: float | None) -> float:
    """A threshold of raw scores that keeps all whose calibrated score is above the given one, and few others."""
    if temperature is None:
        return threshold
    below = torch.tensor(threshold * (1 - MARGIN), dtype=torch.float64)
    return float(calibrate_scores(below, 1 / temperature)) * (1 - MARGIN)
