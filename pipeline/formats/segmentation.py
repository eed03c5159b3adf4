"""Enclosing boxes of COCO segmentations: polygons, and masks as run-length code (RLE).

A run-length code counts pixels along the columns, in turn 0 and 1, beginning with 0. Its compressed form is the text
of pycocotools: each count has groups of five bits, the lowest first, and from the fourth on it is the difference from
the count two places before.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

from pipeline.formats.outlines import NO_BOX, enclose, json_number
from pipeline.formats.records import Box

LARGEST_SIDE_PX = 2**20
# Groups of five bits in a count of at most 2^40 pixels.
LARGEST_NUM_GROUPS = 9
FIRST_CHARACTER = 48


def enclose_segmentation(value: object) -> Box:
    """Return the box of all parts of a segmentation, in px; NO_BOX if there is none or it cannot be read.

    Args:
        value: [[x1, y1, x2, y2, ...], ...], or {"size": [height, width], "counts": a list or a text}
    """
    if isinstance(value, dict):
        return _enclose_code(value.get("size"), value.get("counts"))
    polygons = value if isinstance(value, list) else []
    if not all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in polygons):
        return NO_BOX
    numbers = [json_number(side) for polygon in polygons for side in polygon]
    return enclose(list(zip(numbers[::2], numbers[1::2], strict=True)))


def _enclose_code(size: object, given: object) -> Box:
    sides = size if isinstance(size, list) else []
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE_PX for side in sides):
        return NO_BOX
    counts = _decompress(given) if isinstance(given, str) else given
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        return NO_BOX
    height, width = sides
    edges = list(pairwise(accumulate(counts, initial=0)))
    runs = [(first, end - 1) for first, end in edges[1::2] if end > first]
    return _enclose_runs(runs, height=height) if runs and sum(counts) <= height * width else NO_BOX


def _enclose_runs(runs: list[tuple[int, int]], *, height: int) -> Box:
    """Return the box of runs of pixels, each with its first and last pixel, numbered along the columns."""
    corners = [(divmod(first, height), divmod(last, height)) for first, last in runs]
    left, right = corners[0][0][0], corners[-1][1][0]
    # A run that goes on in the next column has the lowest pixel of one and the topmost of the other.
    top = min(first if column == end else 0 for (column, first), (end, _) in corners)
    bottom = max(last if column == end else height - 1 for (column, _), (end, last) in corners)
    return (float(left), float(top), float(right - left + 1), float(bottom - top + 1))


def _decompress(text: str) -> list[int] | None:
    """Return the counts of a compressed code; None if it cannot be read."""
    counts: list[int] = []
    for groups in _split_groups(text):
        if len(groups) > LARGEST_NUM_GROUPS or not all(0 <= group < 64 for group in groups) or groups[-1] & 32:
            return None
        difference = sum((group & 31) << 5 * place for place, group in enumerate(groups))
        if groups[-1] & 16:  # the highest bit is the sign
            difference -= 1 << 5 * len(groups)
        counts.append(difference + (counts[-2] if len(counts) > 2 else 0))
    return counts


def _split_groups(text: str) -> Iterator[list[int]]:
    """Yield the groups of bits of each count; bit 5 says that another group of it follows."""
    groups: list[int] = []
    for character in text:
        groups.append(ord(character) - FIRST_CHARACTER)
        if not groups[-1] & 32:
            yield groups
            groups = []
    if groups:
        yield groups
