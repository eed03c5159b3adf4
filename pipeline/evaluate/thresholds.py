"""Precision, recall and F1 of the evaluated split: at the working point of the detector, and over the threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retinanet.evaluation.matching import Matching
from retinanet.evaluation.score_matches import ScoreMatches, ThresholdPoint, pool, score_matches, threshold_curve
from retinanet.evaluation.working_point import (
    Target,
    WorkingPoints,
    choose_points,
    describe_target,
    figures_of,
    misses_target,
)

ALL = "all classes"


def measure(
    truth: Mapping[str, Any], matching: Matching, points: WorkingPoints | None, *, temperature: float | None = None
) -> tuple[dict[str, float | None], list[ThresholdPoint]]:
    """Metrics at the working point, and curves over the threshold of each class and of all together.

    Args:
        truth: that was matched.
        temperature: of calibrated scores, whose thresholds the curves then have; None: of raw scores.

    Returns:
        precision, recall and F1 of all detections together, each at the threshold of its class; then
        per_class.<name>.threshold, .precision, .recall and .F1. None where there is nothing to divide by, and
        everywhere without a working point.
    """
    names = [category["name"] for category in truth["categories"]]
    classes = score_matches(truth, matching)
    metrics = metrics_at(classes, names, points.thresholds if points else None)
    named = [*zip(names, classes, strict=True), (ALL, pool(classes))]
    return metrics, [point for row in named for point in threshold_curve(*row, temperature=temperature)]


def metrics_at(
    classes: Sequence[ScoreMatches], names: Sequence[str], thresholds: Sequence[float] | None
) -> dict[str, float | None]:
    """Metrics at the threshold of each class; see measure."""
    if thresholds is None:
        return dict.fromkeys(["precision", "recall", "F1"]) | {
            f"per_class.{name}.{figure}": None
            for name in names
            for figure in ("threshold", "precision", "recall", "F1")
        }
    counts = [  # [2, 1] each
        one.counts_above(np.array([least], dtype=np.float32)) for one, least in zip(classes, thresholds, strict=True)
    ]
    true, false = np.array(counts, dtype=np.int64).reshape(-1, 2).T  # [K] each
    num_truths = np.array([one.num_truths for one in classes], dtype=np.int64)
    metrics = figures("", true.sum(), false.sum(), num_truths.sum())
    for k, name in enumerate(names):
        metrics[f"per_class.{name}.threshold"] = thresholds[k]
        metrics |= figures(f"per_class.{name}.", true[k], false[k], num_truths[k])
    return metrics


def figures(prefix: str, true: Any, false: Any, num_truths: Any) -> dict[str, float | None]:
    """Precision, recall and F1 by name, from counts."""
    values = (float(value) for value in figures_of(true, false, num_truths))
    names = ("precision", "recall", "F1")
    return {f"{prefix}{name}": None if np.isnan(value) else value for name, value in zip(names, values, strict=True)}


def choose(description: Mapping[str, Any], target: Target) -> WorkingPoints | None:
    """Choose the working point of a detector; where it has none, or no candidate reaches the target, say so."""
    points = choose_points(description, target)
    if points is None:
        reason = "no object of val was found" if "working_point" in description else "its training stored none"
        print(f"warning: the model has no working point ({reason}), so precision, recall and F1 are null", flush=True)
        return None
    names = [category["name"] for category in description["categories"]]
    missed = [name for name, point in zip(names, points.classes, strict=True) if point and misses_target(point, target)]
    if missed:
        few = f"{', '.join(missed[:5])}{', ..' if len(missed) > 5 else ''}"
        print(
            f"warning: no threshold gives a {describe_target(target)} on val for {few}; the nearest is used", flush=True
        )
    return points


def summarise(metrics: Mapping[str, float | None], target: Target, *, chosen_on: str = "val") -> str:
    """The metrics at the working point as text: a line for all, and one for each class."""
    lines = [f"at the {describe_target(target)} on {chosen_on}: {_figures(metrics, '')}"]
    for key in metrics:
        if key.endswith(".threshold"):
            prefix = key.removesuffix("threshold")
            name = prefix.removeprefix("per_class.").removesuffix(".")
            lines.append(f"  {name:<20} {_figures(metrics, prefix)}  threshold {metrics[key]:z.3f}")
    return "\n".join(lines)


def _figures(metrics: Mapping[str, float | None], prefix: str) -> str:
    values = ((name, metrics[f"{prefix}{name}"]) for name in ("precision", "recall", "F1"))
    return "  ".join(f"{name} {'  -  ' if value is None else f'{value:.3f}'}" for name, value in values)
