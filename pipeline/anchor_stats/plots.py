"""The picture of a coverage: boxes and anchors by size, best IoU, foreground anchors per level.

Matplotlib is imported on first use, so that importing this module stays cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from pipeline.anchor_stats.coverage import Coverage
from pipeline.anchor_stats.figures import LEVELS, SIZES, by_size
from retinanet.anchors.grid import cell_anchors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BOXES = 3000  # drawn, at even steps
BINS = np.linspace(0, 1, 41)
HEADROOM = 1.3  # for the legend
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")  # of Okabe and Ito: told apart by everyone
GREYS = {"small": "0.75", "medium": "0.55", "large": "0.3"}


def plot_anchors(coverage: Coverage, path: Path) -> None:
    """Draw the three panels side by side, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=90, layout="constrained")
    shapes, overlaps, levels = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    draw_shapes(shapes, coverage)
    draw_best_iou(overlaps, coverage)
    draw_levels(levels, coverage)
    figure.savefig(path)


def draw_shapes(axes: Axes, coverage: Coverage) -> None:
    """Draw the width and the height of boxes, and of the anchors of each level over them."""
    count = len(coverage.boxes)
    chosen = np.linspace(0, count - 1, min(MOST_BOXES, count)).round().astype(int)
    sides = (coverage.boxes[:, 2:] - coverage.boxes[:, :2])[torch.from_numpy(chosen)].numpy()
    axes.scatter(sides[:, 0], sides[:, 1], s=6, color="0.6", alpha=0.5, linewidths=0, label="boxes")
    grid = coverage.grid
    for level, name in enumerate(LEVELS):
        corners = cell_anchors(grid.sizes[level], grid.aspect_ratios, rounded=grid.rounded)
        width, height = (corners[:, 2:] - corners[:, :2]).T.numpy()
        axes.scatter(
            width, height, s=26, linewidths=1.4, marker="s", facecolors="none", edgecolors=COLOURS[level], label=name
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="width, px at training scale", ylabel="height, px at training scale")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("Boxes, and anchors of each level")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize="small", frameon=False)


def draw_best_iou(axes: Axes, coverage: Coverage) -> None:
    """Draw the histogram of the best IoU, with the matcher's thresholds."""
    best_iou, matcher = coverage.best_iou.numpy(), coverage.matcher
    share = np.full(len(best_iou), 1 / max(len(best_iou), 1))
    heights, *_ = axes.hist(best_iou, bins=BINS.tolist(), weights=share, color="0.6")
    for name, value, colour in (
        ("background", matcher.background_iou, "C0"),
        ("foreground", matcher.foreground_iou, "C3"),
    ):
        recall = float((best_iou >= value).mean()) if len(best_iou) else 0.0
        axes.axvline(value, color=colour, label=f"{name}_iou {value:g}: recall {recall:.3f}")
    axes.set(
        xlabel="best IoU with an anchor", ylabel="share of the boxes", xlim=(0, 1), ylim=(0, HEADROOM * peak(heights))
    )
    axes.set_title(f"Best IoU, mean {best_iou.mean():.3f}" if len(best_iou) else "No boxes")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize="small", edgecolor="white", framealpha=1)


def draw_levels(axes: Axes, coverage: Coverage) -> None:
    """Draw the foreground anchors of each level per image, by the size of their boxes."""
    bottom = np.zeros(len(LEVELS))
    for name, rows in by_size(coverage).items():
        height = coverage.assigned[rows].sum(dim=0).numpy() / max(coverage.num_images, 1)
        low, high = SIZES[name]
        limit = f"under {high**0.5:.0f} px" if low == 0 else f"from {low**0.5:.0f} px"
        axes.bar(LEVELS, height, bottom=bottom, color=GREYS[name], label=f"{name} boxes ({limit})")
        bottom += height
    for level, total in enumerate(bottom):
        axes.annotate(f"{total:.3g}", (level, total), ha="center", va="bottom", fontsize="small")
    axes.set(ylabel="foreground anchors per image", ylim=(0, HEADROOM * peak(bottom)))
    axes.set_title("Foreground anchors per level")
    axes.legend(loc="upper right", fontsize="small", frameon=False)


def peak(heights: npt.ArrayLike) -> float:
    """The highest bar; 1 without any."""
    return float(np.max(heights)) or 1.0
