"""The files of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.evaluate.judging import Judged
from pipeline.reports.analysis_plots import plot_calibration, plot_confusion, plot_errors
from pipeline.reports.analysis_tables import (
    write_calibration_csv,
    write_confusion_csv,
    write_errors_csv,
    write_label_mistakes_csv,
)
from pipeline.reports.curves import plot_precision_recall, write_precision_recall_csv
from pipeline.reports.results import write_results
from pipeline.reports.threshold_curves import plot_thresholds, write_thresholds_csv
from pipeline.storage.outs import nest, write_atomic, write_json
from retinanet.evaluation.coco_eval import ImageDetections, coco_results

REPORT = Path("reports/evaluate.json")
DETECTIONS = Path("reports/detections.json.gz")
MISTAKES = Path("reports/label_mistakes.csv")
CONFUSION = Path("reports/confusion.csv")
CURVE = Path("plots/precision_recall.csv")
CURVE_PICTURE = Path("plots/precision_recall.png")
THRESHOLDS = Path("plots/thresholds.csv")
THRESHOLDS_PICTURE = Path("plots/thresholds.png")
ERRORS = Path("plots/errors.csv")
ERRORS_PICTURE = Path("plots/errors.png")
CONFUSION_PICTURE = Path("plots/confusion.png")
CALIBRATION = Path("plots/calibration.csv")
CALIBRATION_PICTURE = Path("plots/calibration.png")
SHEET = Path("plots/detections.png")
PAGE = Path("reports/evaluate.html")
SPEED = Path("reports/speed.json")

PICTURES = (CURVE_PICTURE, THRESHOLDS_PICTURE, ERRORS_PICTURE, CONFUSION_PICTURE, CALIBRATION_PICTURE, SHEET)


def write_outputs(
    truth: Mapping[str, Any],
    detections: Mapping[int, ImageDetections],
    judged: Judged,
    *,
    folder: Path = Path(),
) -> None:
    """Write all but the sheet of pictures.

    Args:
        folder: in which reports/ and plots/ lie.
    """
    result, curves, analysis = judged
    assert analysis.errors is not None and analysis.calibration is not None
    errors, calibration = analysis.errors, analysis.calibration
    write_json(folder / REPORT, nest(result.metrics))
    write_results(folder / DETECTIONS, coco_results(truth, detections))
    for path, write in {
        CURVE: lambda path: write_precision_recall_csv(result.precision_recall, path),
        CURVE_PICTURE: lambda path: plot_precision_recall(result.precision_recall, path),
        THRESHOLDS: lambda path: write_thresholds_csv(curves, path),
        THRESHOLDS_PICTURE: lambda path: plot_thresholds(curves, result.metrics, path),
        ERRORS: lambda path: write_errors_csv(errors, path),
        ERRORS_PICTURE: lambda path: plot_errors(analysis, path),
        CONFUSION: lambda path: write_confusion_csv(analysis.confusion, path),
        CONFUSION_PICTURE: lambda path: plot_confusion(analysis.confusion, path),
        CALIBRATION: lambda path: write_calibration_csv(calibration, path),
        CALIBRATION_PICTURE: lambda path: plot_calibration(calibration, path),
        MISTAKES: lambda path: write_label_mistakes_csv(analysis, path),
    }.items():
        write_atomic(folder / path, write)
