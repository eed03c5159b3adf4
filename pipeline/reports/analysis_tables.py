"""The analysis of a detector as CSV files, for DVC and for spreadsheets."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from retinanet.evaluation.analysis import Analysis, Calibration, CalibrationBin, Confusion, Errors, Figure

BACKGROUND = "background"


def write_errors_csv(errors: Errors, path: Path) -> None:
    """Write rows of kind, AP50_gain, low, high, count, count_in_use, for DVC's plot template bar_horizontal."""
    rows = [[kind, *_figure(one.ap50_gain), one.count, one.count_in_use] for kind, one in errors.kinds.items()]
    _write(path, ["kind", "AP50_gain", "low", "high", "count", "count_in_use"], rows)


def write_confusion_csv(confusion: Confusion | None, path: Path) -> None:
    """Write rows of truth, detection and count, for the pairs that occur; no rows without a working point."""
    rows: list[list[object]] = []
    if confusion:
        names = [*confusion.class_names, BACKGROUND]
        places = np.argwhere(confusion.counts > 0).tolist()
        rows = [[names[row], names[column], int(confusion.counts[row, column])] for row, column in places]
    _write(path, ["truth", "detection", "count"], rows)


def write_calibration_csv(calibration: Calibration, path: Path) -> None:
    """Write rows of scores, low, high, count, score, precision; scores are one of calibration.labels."""
    raw, scaled = calibration.labels
    rows = [[raw, *_bin(one)] for one in calibration.bins]
    rows += [[scaled, *_bin(one)] for one in calibration.bins_with_temperature]
    _write(path, ["scores", "low", "high", "count", "score", "precision"], rows)


def write_label_mistakes_csv(analysis: Analysis, path: Path) -> None:
    """Write a row for each suspicious place, the most suspicious first; boxes in px of the image as x1 y1 x2 y2."""
    names = analysis.class_names
    rows = []
    for rank, one in enumerate(analysis.mistakes, start=1):
        truth = "" if one.truth_label is None else names[one.truth_label]
        boxes = [" ".join(f"{side:.1f}" for side in box or ()) for box in (one.box, one.truth_box)]
        found = [names[one.label], f"{one.score:.3f}", boxes[0]]
        labelled = [truth, one.truth_id, boxes[1], f"{one.iou:.3f}"]
        rows.append([rank, one.kind, f"{one.suspicion:.3f}", one.file_name, one.image_id, *found, *labelled])
    columns = ["rank", "kind", "suspicion", "file_name", "image_id", "detected", "score", "box"]
    _write(path, [*columns, "labelled", "annotation_id", "labelled_box", "iou"], rows)


def _figure(figure: Figure) -> list[object]:
    return [_number(figure.value), _number(figure.low), _number(figure.high)]


def _bin(one: CalibrationBin) -> list[object]:
    return [f"{one.low:g}", f"{one.high:g}", one.count, _number(one.score), _number(one.precision)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; None is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
