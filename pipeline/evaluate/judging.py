"""Judge detections of a split: COCO's metrics, the working point, and the analysis, from one matching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tqdm import tqdm

from pipeline.evaluate.calibrated import calibrate_analysis, calibrate_result
from pipeline.evaluate.thresholds import measure
from retinanet.evaluation.analysis import Analysis, Figure
from retinanet.evaluation.bootstrap import Track
from retinanet.evaluation.coco_eval import CocoResult, ImageDetections, evaluate_detections
from retinanet.evaluation.matching import match_all
from retinanet.evaluation.measures import analyse
from retinanet.evaluation.score_matches import ThresholdPoint
from retinanet.evaluation.working_point import WorkingPoints


class Judged(NamedTuple):
    """What an evaluation found; `result.metrics` has all that reports/evaluate.json has."""

    result: CocoResult
    curves: list[ThresholdPoint]
    analysis: Analysis


def judge(
    truth: Mapping[str, Any],
    detections: Mapping[int, ImageDetections],
    points: WorkingPoints | None,
    *,
    resamples: int,
    temperature: float | None,
    calibrates: bool = False,
) -> Judged:
    """Compute all that does not need the network.

    Args:
        truth, detections: as of coco_eval.evaluate_detections, with raw scores.
        points: of raw scores.
        resamples: of the images, for the intervals.
        temperature: of the scores, fitted on val.
        calibrates: the detector returns calibrated scores, which are those to show.
    """
    shown = temperature if calibrates else None
    result = evaluate_detections(truth, detections)
    matching = match_all(truth, detections)
    in_use, curves = measure(truth, matching, points, temperature=shown)
    analysis = analyse(
        truth,
        matching,
        result.metrics | in_use,
        thresholds=points.thresholds if points else None,
        resamples=resamples,
        temperature=temperature,
        track=_track,
    )
    result = result._replace(metrics=result.metrics | in_use | analysis_metrics(analysis))
    if shown is not None:
        result, analysis = calibrate_result(result, shown), calibrate_analysis(analysis, shown)
    return Judged(result, curves, analysis)


def analysis_metrics(analysis: Analysis) -> dict[str, float | None]:
    """The figures of the analysis by stable dotted names of the form group.member.metric."""
    metrics: dict[str, float | None] = {}
    for one in analysis.classes:
        prefix = f"per_class.{one.name}"
        metrics |= {f"{prefix}.AP75": one.ap75.value, f"{prefix}.max_recall": one.max_recall.value}
        metrics |= {f"{prefix}.truths": one.num_truths, f"{prefix}.detections": one.num_detections}
        metrics |= bounds(f"{prefix}.AP_", one.ap)
    for name, figure in analysis.overall.items():
        metrics |= bounds(f"interval.{name}.", figure)
    for band in analysis.bands:
        prefix = f"sizes.{band.name}"
        metrics |= {
            f"{prefix}.truths": band.num_truths,
            f"{prefix}.AP": band.ap.value,
            f"{prefix}.AP50": band.ap50.value,
        }
        metrics |= {f"{prefix}.recall": band.recall.value} | bounds(f"{prefix}.AP_", band.ap)
    for part in analysis.conditions:
        prefix = f"conditions.{part.column}={part.value}"
        metrics |= {f"{prefix}.AP": part.ap.value, f"{prefix}.AP50": part.ap50.value} | bounds(f"{prefix}.AP_", part.ap)
        metrics[f"{prefix}.images"] = part.num_images
    if analysis.errors:
        for kind, error in analysis.errors.kinds.items():
            prefix = f"errors.{kind}"
            metrics |= {f"{prefix}.AP50_gain": error.ap50_gain.value, f"{prefix}.count": error.count}
            metrics |= {f"{prefix}.count_in_use": error.count_in_use} | bounds(f"{prefix}.AP50_gain_", error.ap50_gain)
    if analysis.calibration:
        metrics |= {"ECE": analysis.calibration.ece.value, "temperature": analysis.calibration.temperature}
        metrics |= {"ECE_with_temperature": analysis.calibration.ece_with_temperature.value}
    return metrics


def bounds(prefix: str, figure: Figure) -> dict[str, float | None]:
    """The interval of a figure as two metrics."""
    return {f"{prefix}low": figure.low, f"{prefix}high": figure.high}


def summarise_errors(analysis: Analysis) -> str:
    """Two lines: the interval of AP, and which errors cost the most AP50."""
    ap, lines = analysis.overall["AP"], []
    if ap.low is not None and ap.high is not None:
        lines = [f"AP of other images of this kind: {ap.low:.3f} to {ap.high:.3f} (95 %, {analysis.num_images} images)"]
    if analysis.errors and analysis.errors.ap50.value is not None:
        gains = {kind: error.ap50_gain.value or 0.0 for kind, error in analysis.errors.kinds.items()}
        ranked = sorted(gains, key=lambda kind: -gains[kind])
        costs = "  ".join(f"{kind} {gains[kind]:.3f}" for kind in ranked if gains[kind] >= 0.0005)
        lines.append(f"AP50 lost to errors: {costs or 'none'}")
    return "\n".join(lines)


def _track(title: str) -> Track:
    def track(classes: Iterable[int]) -> Iterable[int]:
        bar: Iterable[int] = tqdm(classes, disable=None, unit="class", desc=title, leave=False)
        return bar

    return track
