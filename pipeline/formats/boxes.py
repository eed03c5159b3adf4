"""Validity of boxes: finite, with an area, inside the image. Boxes that extend beyond it are clipped."""

from __future__ import annotations

import math

import numpy as np

from pipeline.formats.records import Box

# Files round to a few decimals: x + width may exceed the edge by a rounding error.
EDGE_PX = 1e-6
# Half a unit of the sixth decimal in the centre and in half the side, and a little more.
EDGE_FRACTION = 1e-6


def find_fault(box: Box, size: tuple[int, int]) -> str | None:
    """Return why a box is invalid, or None.

    Args:
        box: x, y, w, h in px
        size: width and height of the image in px
    """
    x, y, w, h = box
    if not all(map(math.isfinite, box)):
        return "not four finite numbers"
    if w < 0 or h < 0:
        return "negative width or height"
    if _is_empty(x, x + w) or _is_empty(y, y + h):
        return "zero area"
    if x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0:
        return "completely outside the image"
    x, y, w, h = clip(box, size)
    if _is_empty(x, x + w) or _is_empty(y, y + h):
        return "zero area after clipping to the image"
    return None


def clip(box: Box, size: tuple[int, int]) -> Box:
    """Clip a box (x, y, w, h) to the image; a box inside it stays exactly the same."""
    x, y, w, h = box
    x, w = _clip_side(x, w, size[0])
    y, h = _clip_side(y, h, size[1])
    return (x, y, w, h)


def scale(box: Box, size: tuple[int, int]) -> Box:
    """Convert a box (x, y, w, h) from fractions of the image's sides to px; rounding at the edges is undone."""
    x, y, w, h = box
    x, w = _round_side(x, w)
    y, h = _round_side(y, h)
    return (x * size[0], y * size[1], w * size[0], h * size[1])


def _round_side(start: float, length: float) -> tuple[float, float]:
    """Move an edge that exceeds 0 or 1 by a rounding error of six decimals onto it."""
    if -EDGE_FRACTION <= start < 0:
        start, length = 0.0, length + start
    if 1 < start + length <= 1 + EDGE_FRACTION:
        length = 1 - start
    return start, length


def _clip_side(start: float, length: float, limit: int) -> tuple[float, float]:
    if start >= -EDGE_PX and start + length <= limit + EDGE_PX:
        return start, length
    first, last = max(start, 0.0), min(start + length, float(limit))
    return first, last - first


def _is_empty(first: float, last: float) -> bool:
    """Return whether two edges coincide in float32, the precision of training."""
    with np.errstate(over="ignore"):
        return bool(np.float32(last) <= np.float32(first))
