"""The analysis of a detector as PNG files: errors and sizes, confusion, calibration.

Matplotlib is imported on first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.reports.analysis_tables import BACKGROUND
from pipeline.reports.curves import as_label, new_figure
from retinanet.evaluation.analysis import Analysis, Calibration, CalibrationBin, Confusion, Figure

CLASSES_NAMED = 20  # of a confusion matrix with more classes only those with the most confusions are drawn
COUNTS_WRITTEN = 12  # classes, up to which the counts stand in the cells


def plot_errors(analysis: Analysis, path: Path) -> None:
    """Draw the AP50 that each kind of error costs and the AP of each size, with 95 % intervals."""
    figure = new_figure(width=12)
    costs, sizes = figure.subplots(1, 2)
    if analysis.errors:
        kinds = list(analysis.errors.kinds.items())
        _draw_bars(costs.barh, [kind for kind, _ in kinds], [one.ap50_gain for _, one in kinds], "C3", axis="x")
        costs.invert_yaxis()
    costs.set(xlabel="AP50 gained without them", title="Errors by kind", xlim=(0, None))
    bands = [band for band in analysis.bands if band.num_truths and band.name not in ("s", "m", "l")]
    names = [f"{band.name}\n{band.num_truths}" for band in bands]
    _draw_bars(sizes.bar, names, [band.ap for band in bands], "C0", axis="y")
    sizes.set(xlabel="side in px, and objects", ylabel="AP", title="AP by size", ylim=(0, 1))
    for axes in (costs, sizes):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(path)


def plot_confusion(confusion: Confusion | None, path: Path) -> None:
    """Draw the confusion matrix, coloured by the share of the truths of a row; no matrix without a working point."""
    figure = new_figure()
    axes = figure.add_subplot()
    if confusion is None:
        axes.set_title("No working point")
        figure.savefig(path)
        return
    chosen = _most_confused(confusion)
    names = [as_label([*confusion.class_names, BACKGROUND][index]) for index in chosen]
    counts = confusion.counts[np.ix_(chosen, chosen)]
    # Background has no number of truths: its row is coloured by the largest of its counts.
    whole = np.append(confusion.counts.sum(axis=1)[:-1], confusion.counts[-1].max(initial=0))[chosen]
    image = axes.imshow(counts / np.maximum(whole, 1)[:, None], cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="detection", ylabel="truth", title="Confusion at the working point, IoU 0.5")
    if len(names) <= COUNTS_WRITTEN + 1:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if 2 * int(count) > int(whole[row]) else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    figure.colorbar(image, label="share of the truths")
    figure.savefig(path)


def plot_calibration(calibration: Calibration, path: Path) -> None:
    """Draw the reliability diagram: precision over score, with the counts below."""
    figure = new_figure()
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    above.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="a score that is the precision")
    named = f"{'raw ' if calibration.in_use else ''}scores, ECE {_text(calibration.ece)}"
    _draw_reliability(above, calibration.bins, "C0", named)
    if calibration.temperature is not None:
        returned = "scores as returned, " if calibration.in_use else ""
        temperature = (
            f"{returned}temperature {calibration.temperature:.2f}, ECE {_text(calibration.ece_with_temperature)}"
        )
        _draw_reliability(above, calibration.bins_with_temperature, "C1", temperature)
    above.set(ylabel="precision at IoU 0.5", title="Calibration", xlim=(0, 1), ylim=(0, 1.02))
    above.grid(alpha=0.3)
    centres = [(one.low + one.high) / 2 for one in calibration.bins]
    below.bar(centres, [one.count for one in calibration.bins], width=0.09, color="C0")
    below.set(xlabel="score", ylabel="detections")
    if any(one.count for one in calibration.bins):
        below.set_yscale("log")
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path)


def _draw_bars(draw: Any, names: Sequence[str], figures: Sequence[Figure], colour: str, *, axis: str) -> None:
    values = [one.value or 0.0 for one in figures]
    spread = [
        [max(value - (value if one.low is None else one.low), 0) for one, value in zip(figures, values, strict=True)],
        [max((value if one.high is None else one.high) - value, 0) for one, value in zip(figures, values, strict=True)],
    ]
    draw(names, values, color=colour, ecolor="0.3", capsize=3, **{f"{axis}err": spread})


def _draw_reliability(axes: Any, bins: Sequence[CalibrationBin], colour: str, label: str) -> None:
    known = [(one.score, one.precision) for one in bins if one.score is not None]
    axes.plot([score for score, _ in known], [precision for _, precision in known], "o-", color=colour, label=label)


def _most_confused(confusion: Confusion) -> list[int]:
    """Indices of the rows to draw, background last: all, or the classes with the most counts off the diagonal."""
    num_classes = len(confusion.class_names)
    if num_classes <= CLASSES_NAMED:
        return list(range(num_classes + 1))
    between = confusion.counts[:-1, :-1] * (1 - np.eye(num_classes, dtype=np.int64))
    confused = between.sum(axis=0) + between.sum(axis=1)
    return [*sorted(np.argsort(-confused, kind="stable")[:CLASSES_NAMED].tolist()), num_classes]


def _text(figure: Figure) -> str:
    return "-" if figure.value is None else f"{figure.value:.3f}"
