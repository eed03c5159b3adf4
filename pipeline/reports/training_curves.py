"""Curves of a training over its epochs: losses, AP, AP of each class, learning rate, gradient norm; PNG and CSV.

Matplotlib is imported on first use.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.reports.curves import as_label, name_few, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History: TypeAlias = Sequence[Mapping[str, Any]]
"""A mapping per epoch; a key that is missing or None in an epoch leaves its point out."""

Curve: TypeAlias = Sequence[tuple[float, float]]
"""Epoch and value of each point."""

PREFIX, SUFFIX = "per_class.", ".AP"


def write_history_csv(history: History, path: Path) -> None:
    """Write a row per epoch; missing values are empty cells."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def write_classes_csv(history: History, path: Path) -> None:
    """Write rows of epoch, class, AP, for DVC's template training_classes, which cannot know the names of columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", "class", "AP"])
        for name, curve in curves_of_classes(history).items():
            writer.writerows([f"{epoch:g}", name, ap] for epoch, ap in curve)


def curves_of_classes(history: History) -> dict[str, Curve]:
    """AP of each class that has one, over the evaluated epochs."""
    keys = dict.fromkeys(key for row in history for key in row if key.startswith(PREFIX) and key.endswith(SUFFIX))
    curves = {key.removeprefix(PREFIX).removesuffix(SUFFIX): curve_of(history, key) for key in keys}
    return {name: curve for name, curve in curves.items() if curve}


def curve_of(history: History, key: str) -> Curve:
    """The known values of a key."""
    return [(row["epoch"], row[key]) for row in history if row.get(key) is not None]


def plot_training(history: History, path: Path) -> None:
    """Draw the losses (left axis) with AP (right axis), AP of each class, learning rate and gradient norm by epoch.

    Of many classes only those of the best and worst last AP are named. Panels without a value are left out.

    Args:
        history: with epoch, loss, loss_cls, loss_box, and perhaps the same of val (val_loss, ..), AP, AP50 (0..1),
            per_class.<name>.AP, lr, grad_norm and grad_norm_max.
        path: of the PNG.
    """
    classes = curves_of_classes(history)
    above = ["losses", "classes"] if len(classes) > 1 else ["losses"]
    below = [key for key in ("lr", "grad_norm") if curve_of(history, key)]
    mosaic: list[Any] = [[panel for panel in row for _ in range(2 // len(row))] for row in (above, below) if row]
    figure = new_figure(width=12, height=7.5)
    panels = figure.subplot_mosaic(mosaic, sharex=True, height_ratios=[3, 1][: len(mosaic)])
    _draw_losses(panels["losses"], history)
    if "classes" in panels:
        _draw_classes(panels["classes"], classes, curve_of(history, "AP"))
    if "lr" in panels:
        panels["lr"].plot(*_points(curve_of(history, "lr")), color="C4", marker=".")
        panels["lr"].set(title="Learning rate", ylim=(0, None))
    if "grad_norm" in panels:
        _draw_norms(panels["grad_norm"], history)
    for axes in panels.values():
        axes.grid(alpha=0.3)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    figure.savefig(path)


def _draw_losses(losses: Axes, history: History) -> None:
    scores = losses.twinx()
    for key, colour in (("loss", "0.15"), ("loss_cls", "C0"), ("loss_box", "C2")):
        losses.plot(*_points(curve_of(history, key)), label=key, marker=".", color=colour)
        if curve_of(history, f"val_{key}"):
            curve = _points(curve_of(history, f"val_{key}"))
            losses.plot(*curve, label=f"val_{key}", marker="x", color=colour, linestyle=":")
    for key, line in (("AP", "-"), ("AP50", "--")):
        if curve_of(history, key):
            scores.plot(*_points(curve_of(history, key)), label=key, marker=".", color="C3", linestyle=line)
    losses.set(ylabel="loss", title="Losses and AP on val" if history else "No epoch yet")
    losses.set_ylim(bottom=0)
    scores.set_ylabel("AP", color="C3")
    scores.set_ylim(0, 1)  # the same in every run, so that plots can be compared side by side
    lines = [line for axes in (losses, scores) for line in axes.get_lines()]
    losses.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)


def _draw_classes(axes: Axes, classes: Mapping[str, Curve], overall: Curve) -> None:
    last = {name: curve[-1][1] for name, curve in classes.items()}
    ranked, named = name_few(last)
    for name in ranked:
        style: dict[str, Any] = {"color": "0.85", "linewidth": 1, "zorder": 1}
        if name in named:
            label = as_label(f"{name}  {last[name]:.3f}")
            style = {"color": f"C{named.index(name)}", "linewidth": 1.5, "marker": ".", "label": label}
        axes.plot(*_points(classes[name]), **style)
    axes.plot(*_points(overall), color="black", linewidth=2, label="all classes")
    title = "AP of each class on val"
    axes.set(title=title if named == ranked else f"{title}: best and worst of {len(ranked)}", ylim=(0, 1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw_norms(axes: Axes, history: History) -> None:
    for key, label, line in (("grad_norm", "mean", "-"), ("grad_norm_max", "maximum", ":")):
        axes.plot(*_points(curve_of(history, key)), color="C5", marker=".", linestyle=line, label=label)
    axes.set(title="Gradient norm before clipping", yscale="log")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _points(curve: Curve) -> tuple[list[float], list[float]]:
    return [epoch for epoch, _ in curve], [value for _, value in curve]
