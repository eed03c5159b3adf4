"""Precision over recall, as PNG, and as CSV for DVC; and what drawings share.

Matplotlib is imported on first use, so that importing this module stays cheap.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retinanet.evaluation.coco_eval import PrecisionRecallPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES_NAMED = 5  # with more than twice as many classes, only this many of the best and of the worst are named


class RankedCurves(NamedTuple):
    """Precision over recall at IoU 0.5 of each class.

    Attributes:
        curves: class name -> points, the highest AP50 first.
        ap50: by class name.
        named: the classes that a legend names: all, or of many the best and the worst.
    """

    curves: dict[str, list[PrecisionRecallPoint]]
    ap50: dict[str, float]
    named: list[str]


def rank_curves(points: Iterable[PrecisionRecallPoint], *, num_named: int) -> RankedCurves:
    """Order the curves by AP50, and equal ones by name.

    Args:
        num_named: with more than twice as many classes, only so many of the best and of the worst are named.
    """
    found: dict[str, list[PrecisionRecallPoint]] = defaultdict(list)
    for point in points:
        if point.iou == 0.5:
            found[point.class_name].append(point)
    ap50 = {name: float(np.mean([point.precision for point in curve])) for name, curve in found.items()}
    ranked, named = name_few(ap50, num_named=num_named)
    return RankedCurves({name: found[name] for name in ranked}, ap50, named)


def plot_precision_recall(points: Sequence[PrecisionRecallPoint], path: Path) -> None:
    """Draw a curve per class at IoU 0.5, in order of AP50; of many classes only the best and worst are named."""
    curves, ap50, named = rank_curves(points, num_named=CURVES_NAMED)
    figure = new_figure()
    axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.02))
    for name, curve in curves.items():
        rank = named.index(name) if name in named else None
        style: dict[str, Any] = {"color": "0.85", "linewidth": 1, "zorder": 1}
        if rank is not None:
            style = {"color": f"C{rank}", "linewidth": 2, "label": as_label(f"{name}  {ap50[name]:.3f}")}
        axes.plot([point.recall for point in curve], [point.precision for point in curve], **style)
    axes.grid(alpha=0.3)
    if curves:
        axes.set_title(f"Precision and recall at IoU 0.5, AP50 {np.mean(list(ap50.values())):.3f}")
        title = "AP50" if len(named) == len(curves) else f"AP50, best and worst {CURVES_NAMED} of {len(curves)}"
        figure.legend(title=title, loc="outside right upper", frameon=False)
    else:
        axes.set_title("No ground truth")
    figure.savefig(path)


def write_precision_recall_csv(points: Iterable[PrecisionRecallPoint], path: Path) -> None:
    """Write the curves as rows of class, iou, recall, precision, score, for DVC's plot template precision_recall."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "iou", "recall", "precision", "score"])
        for name, *numbers in points:
            writer.writerow([name, *(f"{number:.6g}" for number in numbers)])


def name_few(scores: Mapping[str, float], *, num_named: int = CURVES_NAMED) -> tuple[list[str], list[str]]:
    """All names by falling score, equal ones by name; and those that a legend names, as of rank_curves."""
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    return ranked, ranked if len(ranked) <= 2 * num_named else ranked[:num_named] + ranked[-num_named:]


def as_label(name: str) -> str:
    """A name as matplotlib's text: between dollars would be TeX, and what begins with _ stays out of legends."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if name.startswith("_") else escaped


def new_figure(*, width: float = 9, height: float = 5) -> Figure:
    """A figure of width x height inches at 110 pixels per inch."""
    # Not pyplot's figure: no global state, and savefig uses Agg, which needs no display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")
