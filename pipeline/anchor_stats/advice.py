"""Sentences where the anchors keep a training from learning, each with the setting that helps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.anchor_stats.coverage import Coverage
from pipeline.anchor_stats.figures import LEVELS

SHARE = 0.05  # of the boxes or images that a sentence is about, at least
TINY_PX = 4.0  # half the stride of the finest level: fewer cells than that hold nothing of an object
FIT = {
    "fixed": "set anchors.mode to fitted (`python -m pipeline.anchor_stats --suggest` shows what it would choose)",
    "fitted": "the anchors are fitted already, so add some: raise anchors.scales_per_octave or extend aspect_ratios",
}


def advise(coverage: Coverage, *, mode: str) -> Iterator[str]:
    """Judge the anchors by the ground-truth boxes at training scale.

    Args:
        mode: of section anchors.
    """
    if len(coverage.boxes) > 0:
        yield from on_assignment(coverage, mode)
        yield from on_images(coverage)
        yield from on_sizes(coverage)
        yield from on_shapes(coverage)
        yield from on_levels(coverage, mode)


def on_assignment(coverage: Coverage, mode: str) -> Iterator[str]:
    """Boxes without a foreground anchor, or with poor ones only."""
    matcher, best_iou, owned = coverage.matcher, coverage.best_iou, coverage.owned
    below = best_iou < matcher.foreground_iou
    if is_large(below):
        consequence = (
            "they have no foreground anchor, so nothing is learnt from them; set matcher.low_quality to truth, and"
            if matcher.low_quality == "none"
            else f"they train by their best anchor alone, of IoU {float(best_iou[below].median()):.2f} in the median;"
        )
        yield (
            f"{share(below)} of the boxes overlap no anchor by matcher.foreground_iou {matcher.foreground_iou:g}: "
            f"{consequence} {FIT[mode]}"
        )
    elif is_large(owned == 0):
        remedy = (
            "other boxes share all of theirs: raise anchors.scales_per_octave"
            if matcher.low_quality == "truth"
            else "set matcher.low_quality to truth"
        )
        yield f"{share(owned == 0)} of the boxes have no foreground anchor; {remedy}"


def on_images(coverage: Coverage) -> Iterator[str]:
    """Images with boxes that train as background only."""
    foreground = torch.zeros(coverage.num_images, dtype=torch.int64).index_add_(0, coverage.image, coverage.owned)
    images = coverage.image.unique()
    without = foreground[images] == 0
    if is_large(without):
        remedy = (
            "set matcher.low_quality to truth"
            if coverage.matcher.low_quality == "none"
            else "their boxes lie between the anchors: raise anchors.base_scale or anchors.sizes of P3"
        )
        yield (
            f"{share(without)} of the images with boxes have no foreground anchor and train as background only; "
            f"{remedy}"
        )


def on_sizes(coverage: Coverage) -> Iterator[str]:
    """Boxes that vanish in the network, and those beyond the smallest and the largest anchor."""
    sides = coverage.boxes[:, 2:] - coverage.boxes[:, :2]
    narrow, side = sides.amin(dim=1), sides.prod(dim=1).sqrt()
    if is_large(narrow < TINY_PX):
        yield (
            f"{share(narrow < TINY_PX)} of the boxes are under {TINY_PX:g} px wide or high at training scale and "
            f"vanish in the network; enlarge transforms.short_side and long_side by "
            f"{TINY_PX / float(torch.quantile(narrow, SHARE)):.1f}, or train on crops"
        )
    smallest, largest = min(map(min, coverage.grid.sizes)), max(map(max, coverage.grid.sizes))
    # An anchor of 1.4 times the side of a box has half its area in common with it: IoU .5.
    beyond = {
        "smaller than the smallest": (side * 1.4 < smallest, smallest, SHARE),
        "larger than the largest": (side > largest * 1.4, largest, 1 - SHARE),
    }
    for name, (few, limit, quantile) in beyond.items():
        if is_large(few):
            wanted = float(torch.quantile(side, quantile))
            yield (
                f"{share(few)} of the boxes are much {name} anchor ({limit:.0f} px), with sides of {wanted:.0f} px and "
                f"beyond; multiply anchors.base_scale by {wanted / limit:.2f} or change the scale in transforms"
            )


def on_shapes(coverage: Coverage) -> Iterator[str]:
    """Boxes much flatter or much taller than every anchor."""
    width, height = (coverage.boxes[:, 2:] - coverage.boxes[:, :2]).T
    shape, ratios = height / width, coverage.grid.aspect_ratios
    slim = (shape > 2 * max(ratios)) | (shape < min(ratios) / 2)
    if is_large(slim):
        low, high = torch.quantile(shape, torch.tensor([SHARE, 1 - SHARE])).tolist()
        yield (
            f"{share(slim)} of the boxes have a height / width more than twice beyond anchors.aspect_ratios "
            f"{list(ratios)}; 90 % lie between {low:.2g} and {high:.2g}"
        )


def on_levels(coverage: Coverage, mode: str) -> Iterator[str]:
    """Most of the levels whose anchors fit into the images have no box; fitted anchors are the best there are."""
    counts, side = coverage.assigned.sum(dim=0).tolist(), max(coverage.image_size)
    fitting = [level for level, sizes in enumerate(coverage.grid.sizes) if min(sizes) < side]
    idle = [level for level in fitting if counts[level] == 0]
    if len(idle) >= 2 and 2 * len(idle) > len(fitting) and mode == "fixed":
        sizes = [size for level in idle for size in coverage.grid.sizes[level]]
        names = ", ".join(LEVELS[level] for level in idle[:-1])
        yield (
            f"{names} and {LEVELS[idle[-1]]} have no foreground anchor and learn background only, because no box has "
            f"about the size of their anchors ({min(sizes):.0f} to {max(sizes):.0f} px); {FIT[mode]}"
        )


def is_large(rows: Tensor) -> bool:
    """Whether these are enough boxes or images for a sentence."""
    return int(rows.sum()) >= SHARE * len(rows)


def share(rows: Tensor) -> str:
    """A percentage."""
    return f"{100 * float(rows.float().mean()):.0f} %"
