"""The figure of a data set: boxes per class, their sizes and shapes, and boxes per image.

Matplotlib is imported on first use, so that importing this module stays cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.records import CocoSplit
from pipeline.pages.charts import as_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASSES_SHOWN = 24
TICKS = (0.01, 0.02, 0.05, 0.125, 0.25, 0.5, 1, 2, 4, 8)
COLOURS = {"train": "#0072b2", "val": "#e69f00", "test": "#009e73"}  # of Okabe and Ito: told apart by everyone
Floats = NDArray[np.float64]


class Boxes(NamedTuple):
    """What the figure shows of one split.

    Attributes:
        per_class: boxes of each class, crowds included, in the order of the classes.
        per_image: boxes of each image.
        sizes: [M] square root of a box's area, in fractions of the short side of its image.
        ratios: [M] height / width.
    """

    per_class: list[int]
    per_image: NDArray[np.int64]
    sizes: Floats
    ratios: Floats


def measure_boxes(split: CocoSplit) -> Boxes:
    """Count and measure the boxes of a split."""
    short_sides = {image["id"]: min(image["width"], image["height"]) for image in split["images"]}
    rows = {image["id"]: row for row, image in enumerate(split["images"])}
    labels = {category["id"]: label for label, category in enumerate(split["categories"])}
    boxes = split["annotations"]
    sides = np.array([box["bbox"][2:] for box in boxes], dtype=np.float64).reshape(-1, 2)  # [M, 2] w, h
    short = np.array([short_sides[box["image_id"]] for box in boxes], dtype=np.float64)
    return Boxes(
        per_class=np.bincount([labels[box["category_id"]] for box in boxes], minlength=len(labels)).tolist(),
        per_image=np.bincount([rows[box["image_id"]] for box in boxes], minlength=len(rows)),
        sizes=np.sqrt(sides.prod(axis=1)) / short,
        ratios=sides[:, 1] / sides[:, 0],
    )


def draw_overview(splits: Mapping[str, CocoSplit]) -> Figure:
    """Draw four panels; each split has its colour in all of them."""
    from matplotlib.figure import Figure

    measured = {name: measure_boxes(split) for name, split in splits.items()}
    names = [category["name"] for category in next(iter(splits.values()))["categories"]]
    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    panels: Any = figure.subplots(2, 2)
    _draw_classes(panels[0, 0], measured, names)
    sizes = {name: boxes.sizes for name, boxes in measured.items()}
    _draw_histogram(panels[0, 1], sizes, "side of a box / short side of its image", np.geomspace(0.005, 1.5, 41))
    ratios = {name: boxes.ratios for name, boxes in measured.items()}
    _draw_histogram(panels[1, 0], ratios, "height / width of a box", np.geomspace(1 / 8, 8, 41))
    most = max(int(boxes.per_image.max(initial=0)) for boxes in measured.values())
    counts = {name: boxes.per_image.astype(float) for name, boxes in measured.items()}
    steps = np.unique(np.linspace(0, most + 1, min(most + 2, 41)).round()) - 0.5
    _draw_histogram(panels[1, 1], counts, "boxes of an image", steps, of="images", scale="linear")
    handles, labels = panels[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
    return figure


def _draw_classes(axes: Axes, measured: Mapping[str, Boxes], names: Sequence[str]) -> None:
    """Draw the boxes of each class as bars, the most frequent first."""
    totals = np.sum([boxes.per_class for boxes in measured.values()], axis=0)
    order = np.argsort(-totals, kind="stable")[:CLASSES_SHOWN]
    height = 0.8 / len(measured)
    for row, (split, boxes) in enumerate(measured.items()):
        places = np.arange(len(order)) + (row - (len(measured) - 1) / 2) * height
        axes.barh(places, [boxes.per_class[label] for label in order], height, color=COLOURS[split])
    axes.set_yticks(
        range(len(order)), [as_label(names[label]) for label in order], fontsize=7 if len(order) > 12 else 10
    )
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    shown = f", the {len(order)} most frequent of {len(names)}" if len(order) < len(names) else ""
    axes.set_title(f"Boxes per class{shown}", loc="left", fontsize=10)


def _draw_histogram(
    axes: Axes, values: Mapping[str, Floats], title: str, edges: Floats, *, of: str = "boxes", scale: str = "log"
) -> None:
    """Draw the fractions of each split in steps; values outside the edges count at the ends."""
    for split, found in values.items():
        clipped = found.clip(edges[0], edges[-1])
        counts, _ = np.histogram(clipped, edges)
        axes.stairs(counts / max(1, len(found)), edges, color=COLOURS[split], label=split, linewidth=2)
    axes.set_xscale(scale)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    if scale == "log":
        ticks = [tick for tick in TICKS if edges[0] <= tick <= edges[-1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_title(f"Fraction of {of}", loc="left", fontsize=10)
    axes.set_xlabel(title)
    axes.grid(alpha=0.3)
