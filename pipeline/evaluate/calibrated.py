"""An evaluation of a detector that calibrates its scores.

All figures are computed from raw scores: calibration keeps their order, on which AP, errors and working point depend,
but rounding may make two of them equal. So only the scores and thresholds that are shown are replaced, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from retinanet.evaluation.analysis import Analysis
from retinanet.evaluation.coco_eval import CocoResult, ImageDetections
from retinanet.evaluation.temperature import scale_apart, scale_scores, scale_threshold
from retinanet.inference.temperature import TOO_FEW, find_temperature


def choose_temperature(description: Mapping[str, Any], *, calibrate: bool) -> float | None:
    """The temperature with which scores are calibrated; None: they are raw. Where there is none, say so.

    Raises:
        ValueError: as of find_temperature.
    """
    temperature = find_temperature(description) if calibrate else None
    if calibrate and temperature is None:
        print(f"warning: {TOO_FEW}; the scores are not calibrated (postprocess.calibrate)", flush=True)
    return temperature


def calibrate_detections(detections: Mapping[int, ImageDetections], temperature: float) -> dict[int, ImageDetections]:
    """Detections with calibrated scores in float64, in which no two scores become equal: AP is that of raw scores."""
    scaled = scale_apart(
        np.concatenate([np.zeros(0, np.float32), *(scores for _, scores, _ in detections.values())]), temperature
    )
    ends = np.cumsum([len(scores) for _, scores, _ in detections.values()])
    each = zip(detections.items(), np.split(scaled, ends[:-1]), strict=True)
    return {image_id: (boxes, scores, labels) for (image_id, (boxes, _, labels)), scores in each}


def calibrate_analysis(analysis: Analysis, temperature: float) -> Analysis:
    """The analysis of raw scores with calibrated scores and thresholds."""
    assert analysis.errors is not None and analysis.calibration is not None
    found = analysis.errors.detections
    scores = scale_scores(found.scores, temperature).astype(np.float32)
    return replace(
        analysis,
        errors=replace(analysis.errors, detections=replace(found, scores=scores)),
        classes=[replace(one, threshold=_scaled(one.threshold, temperature)) for one in analysis.classes],
        calibration=replace(analysis.calibration, in_use=True),
        mistakes=[replace(one, score=scale_threshold(one.score, temperature)) for one in analysis.mistakes],
    )


def calibrate_result(result: CocoResult, temperature: float) -> CocoResult:
    """Metrics and precision-recall curves of raw scores with the thresholds of calibrated ones."""
    metrics = {
        name: _scaled(value, temperature) if name.endswith(".threshold") else value
        for name, value in result.metrics.items()
    }
    curves = [point._replace(score=scale_threshold(point.score, temperature)) for point in result.precision_recall]
    return CocoResult(metrics, curves)


def _scaled(threshold: float | None, temperature: float) -> float | None:
    return None if threshold is None else scale_threshold(threshold, temperature)
