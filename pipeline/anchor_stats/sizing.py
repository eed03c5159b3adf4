"""A size of the network's images at which small objects are large enough to be found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.params.experiment import Transforms
from retinanet.data.records import Records

# Three strides of P3: an object of this side has nine cells of the finest map to itself.
WANTED_PX = 24.0
SMALLEST = 0.1  # the quantile of all sides that is to reach it
RARE = 0.01  # a class with a smaller share of the boxes has no say
LARGEST = 1344  # px; beyond, tiles are the better way
STEP = 32  # px


class Sizing(NamedTuple):
    """A proposal, with the side of the small objects at the present size, px."""

    short_side: int
    long_side: int
    side_before: float


def propose_size(records: Records, section: Transforms) -> Sizing | None:
    """Return the size at which small objects have sides of WANTED_PX, if it is larger than the present one.

    It enlarges no picture, and goes no further than LARGEST. The side of a box is the square root of its area. None
    where the section chooses its sizes by a list, a canvas or tiles.
    """
    if not isinstance(section.short_side, int) or section.canvas is not None or section.tiles is not None:
        return None
    if len(records.boxes) == 0:
        return None
    sizes = records.sizes.double()  # [N, 2]
    short, long = sizes.amin(dim=1), sizes.amax(dim=1)
    images = torch.arange(len(records)).repeat_interleave(records.first_box.diff())
    sides = (records.boxes[:, 2:] - records.boxes[:, :2]).double().prod(dim=1).sqrt()
    fraction = smallest_fraction(sides / short[images], records.labels)
    asked = min(WANTED_PX / fraction, float(short.median()), LARGEST)
    short_side = STEP * round(asked / STEP)
    if short_side < 1.1 * section.short_side:
        return None
    aspect = float(torch.quantile(long / short, 0.95))
    return Sizing(short_side, STEP * -(-int(short_side * aspect) // STEP), fraction * section.short_side)


def smallest_fraction(fractions: Tensor, labels: Tensor) -> float:
    """Return the side of small objects: the smallest tenth of all boxes, or the median of the smallest class.

    Args:
        fractions: [M] sides of the boxes, of the short sides of their images.
        labels: [M] classes.
    """
    medians = [
        float(fractions[labels == label].median())
        for label in labels.unique().tolist()
        if (labels == label).sum() >= RARE * len(labels)
    ]
    return min(float(torch.quantile(fractions, SMALLEST)), *medians)
