"""Precision, recall and F1 over the score threshold; as PNG, and as CSV for DVC.

Matplotlib is imported on first use.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.reports.curves import as_label, name_few, new_figure
from retinanet.evaluation.score_matches import ThresholdPoint

PANELS = ("precision", "recall", "f1")


def write_thresholds_csv(points: Iterable[ThresholdPoint], path: Path) -> None:
    """Write rows of class, threshold, precision, recall, f1, for DVC's plot template; what is undefined is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "threshold", *PANELS])
        for name, *numbers in points:
            writer.writerow([name, *("" if math.isnan(number) else f"{number:.6g}" for number in numbers)])


def plot_thresholds(points: Sequence[ThresholdPoint], metrics: Mapping[str, float | None], path: Path) -> None:
    """Draw a panel each for precision, recall and F1 with a curve per class, the last one black, for all classes.

    A dot marks the working point of a class. Of many classes only those of the best and worst F1 are named.

    Args:
        metrics: per_class.<name>.threshold, .precision, .recall and .F1 of each class; None: no dot.
    """
    curves: dict[str, list[ThresholdPoint]] = defaultdict(list)
    for point in points:
        curves[point.class_name].append(point)
    styles = _styles(list(curves), {name: metrics.get(f"per_class.{name}.F1") or 0.0 for name in curves})
    figure = new_figure(width=12)
    for axes, key in zip(figure.subplots(1, len(PANELS), sharex=True, sharey=True), PANELS, strict=True):
        for name, curve in curves.items():
            axes.plot([point.threshold for point in curve], [getattr(point, key) for point in curve], **styles[name])
            axes.plot(*_dot(metrics, name, key), "o", color=styles[name]["color"], markersize=5)
        axes.set(xlabel="score threshold", title=key.replace("f1", "F1"), xlim=(0, 1.005), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    title = "dot: working point" if curves else "No ground truth"
    figure.legend(handles, labels, title=title, loc="outside right upper", frameon=False)
    figure.savefig(path)


def _styles(names: Sequence[str], f1: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Line style of each class; the last name stands for all classes."""
    ranked, named = name_few({name: f1[name] for name in names[:-1]})
    styles: dict[str, dict[str, Any]] = {name: {"color": "0.85", "linewidth": 1, "zorder": 1} for name in ranked}
    styles |= {name: {"color": f"C{rank}", "linewidth": 2, "label": as_label(name)} for rank, name in enumerate(named)}
    return styles | {name: {"color": "black", "linewidth": 1.5, "label": name} for name in names[-1:]}


def _dot(metrics: Mapping[str, float | None], name: str, key: str) -> tuple[list[float], list[float]]:
    """Coordinates of the working point of a class; none where it is undefined."""
    x, y = (metrics.get(f"per_class.{name}.{figure}") for figure in ("threshold", key.replace("f1", "F1")))
    return ([], []) if x is None or y is None else ([x], [y])
