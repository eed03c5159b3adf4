"""Curves of a run: precision over recall, losses and AP over the epochs; as PNG, and as CSV for DVC.

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
    ranked = sorted(found, key=lambda name: (-ap50[name], name))
    named = ranked if len(ranked) <= 2 * num_named else ranked[:num_named] + ranked[-num_named:]
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


def write_history_csv(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a row per epoch, for DVC; missing values are empty cells."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the losses (left axis) and AP (right axis) of each epoch, and the learning rate below, if known.

    Args:
        history: one mapping per epoch with epoch, loss, loss_cls, loss_box, and perhaps the same of val (val_loss, ..),
            AP, AP50 (0..1) and lr;
            a key that is missing or None in an epoch leaves its point out.
        path: of the PNG.
    """
    figure = new_figure()
    with_lr = any(row.get("lr") is not None for row in history)
    panels = figure.subplots(2 if with_lr else 1, squeeze=False, sharex=True, height_ratios=[4, 1][: 1 + with_lr])[:, 0]
    losses, scores = panels[0], panels[0].twinx()
    for key, colour in (("loss", "0.15"), ("loss_cls", "C0"), ("loss_box", "C2")):
        losses.plot(*_series(history, key), label=key, marker=".", color=colour)
        if any(row.get(f"val_{key}") is not None for row in history):
            losses.plot(*_series(history, f"val_{key}"), label=f"val_{key}", marker="x", color=colour, linestyle=":")
    for key, line in (("AP", "-"), ("AP50", "--")):
        if any(row.get(key) is not None for row in history):
            scores.plot(*_series(history, key), label=key, marker=".", color="C3", linestyle=line)
    losses.set(ylabel="loss", title="Training" if history else "No epoch yet")
    losses.set_ylim(bottom=0)
    losses.grid(alpha=0.3)
    scores.set_ylabel("AP", color="C3")
    scores.set_ylim(0, 1)  # the same in every run, so that plots can be compared side by side
    if with_lr:
        panels[1].plot(*_series(history, "lr"), color="C4", marker=".")
        panels[1].set(ylabel="lr", ylim=(0, None))
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[Any], list[Any]]:
    known = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def as_label(name: str) -> str:
    """A name as matplotlib's text: between dollars would be TeX, and what begins with _ stays out of legends."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if name.startswith("_") else escaped


def new_figure(*, width: float = 9) -> Figure:
    """A figure of width x 5 inches at 110 pixels per inch."""
    # Not pyplot's figure: no global state, and savefig uses Agg, which needs no display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, 5), dpi=110, layout="constrained")
