"""Sentences where the anchors keep a training from learning, each with the setting that helps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.params.detector import Matcher
from retinanet.anchors.grid import Grid

SHARE = 0.05  # of the boxes that a sentence is about, at least
TINY_PX = 4.0  # half the stride of the finest level: fewer cells than that hold nothing of an object


def advise(boxes: Tensor, best_iou: Tensor, owned: Tensor, grid: Grid, matcher: Matcher) -> Iterator[str]:
    """Judge the anchors by the ground-truth boxes at training scale.

    Args:
        boxes: [M, 4] px.
        best_iou: [M] with any anchor.
        owned: [M] foreground anchors of each.
    """
    if len(boxes) == 0:
        return
    below = best_iou < matcher.foreground_iou
    if int(below.sum()) >= SHARE * len(boxes):
        consequence = (
            "they have no foreground anchor, so nothing is learnt from them; set matcher.low_quality to truth"
            if matcher.low_quality == "none"
            else f"they train by their best anchor alone, of IoU {float(best_iou[below].median()):.2f} in the median"
        )
        yield (
            f"{share(below)} of the boxes overlap no anchor by matcher.foreground_iou {matcher.foreground_iou:g}: "
            f"{consequence}; `python -m pipeline.anchor_stats --suggest` proposes anchors that fit"
        )
    elif int((owned == 0).sum()) >= SHARE * len(boxes):
        yield f"{share(owned == 0)} of the boxes have no foreground anchor; set matcher.low_quality to truth"
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side, shape = (width * height).sqrt(), height / width
    smallest, largest = min(map(min, grid.sizes)), max(map(max, grid.sizes))
    tiny = torch.minimum(width, height) < TINY_PX
    if int(tiny.sum()) >= SHARE * len(boxes):
        factor = TINY_PX / float(torch.quantile(torch.minimum(width, height), SHARE))
        yield (
            f"{share(tiny)} of the boxes are under {TINY_PX:g} px wide or high at training scale and vanish in the "
            f"network; enlarge transforms.short_side and long_side by {factor:.1f}, or train on crops"
        )
    # An anchor of 1.4 times the side of a box has half its area in common with it: IoU .5.
    beyond = {
        "smaller than the smallest": (side * 1.4 < smallest, smallest, SHARE),
        "larger than the largest": (side > largest * 1.4, largest, 1 - SHARE),
    }
    for name, (few, limit, quantile) in beyond.items():
        if int(few.sum()) >= SHARE * len(boxes):
            wanted = float(torch.quantile(side, quantile))
            yield (
                f"{share(few)} of the boxes are much {name} anchor ({limit:.0f} px), with sides of {wanted:.0f} px and "
                f"beyond; multiply anchors.base_scale by {wanted / limit:.2f} or change the scale in transforms"
            )
    ratios = grid.aspect_ratios
    slim = (shape > 2 * max(ratios)) | (shape < min(ratios) / 2)
    if int(slim.sum()) >= SHARE * len(boxes):
        low, high = torch.quantile(shape, torch.tensor([SHARE, 1 - SHARE])).tolist()
        yield (
            f"{share(slim)} of the boxes have a height / width more than twice beyond anchors.aspect_ratios "
            f"{list(ratios)}; 90 % lie between {low:.2g} and {high:.2g}"
        )


def share(rows: Tensor) -> str:
    """A percentage."""
    return f"{100 * float(rows.float().mean()):.0f} %"
