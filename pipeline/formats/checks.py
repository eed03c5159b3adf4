"""Checks of boxes and images that are valid but suspicious; each has a policy in section `data.checks`.

A check yields what it finds; what becomes of it is decided in one place, see `judge`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.boxes import clip
from pipeline.formats.records import Box, RawBox

# A box that covers this much of its picture is the label of a picture rather than of an object.
WHOLE = 0.99


class Suspicion(NamedTuple):
    """A record that a check found.

    Attributes:
        check: the key in data.checks.
        box_id: None where it concerns the image.
    """

    check: str
    image_id: int
    box_id: int | None
    reason: str


def check_boxes(
    boxes: Sequence[RawBox], sizes: Mapping[int, tuple[int, int]], *, smallest_px: float, duplicate_iou: float
) -> Iterator[Suspicion]:
    """Yield suspicious boxes of one split.

    Args:
        boxes: valid ones, in px.
        sizes: width and height of each image, px.
        smallest_px: a box with a shorter side is small.
        duplicate_iou: of two boxes of a class in an image with at least this IoU the later one is a duplicate.
    """
    alike: defaultdict[tuple[int, str], list[RawBox]] = defaultdict(list)
    for box in boxes:
        _, _, w, h = clip(box.xywh, sizes[box.image_id])
        width, height = sizes[box.image_id]
        if min(w, h) < smallest_px:
            yield Suspicion("small", box.image_id, box.id, f"a side under {smallest_px:g} px")
        if w * h >= WHOLE * width * height and not box.iscrowd:
            yield Suspicion("whole_picture", box.image_id, box.id, "covers the whole picture")
        if not box.iscrowd:
            alike[box.image_id, box.category].append(box)
    for found in alike.values():
        if len(found) > 1:
            yield from _find_duplicates(found, duplicate_iou)


def _find_duplicates(boxes: Sequence[RawBox], least_iou: float) -> Iterator[Suspicion]:
    """Yield every box that repeats an earlier one, which is no duplicate itself."""
    ious = iou_matrix([box.xywh for box in boxes])
    kept: list[int] = []
    for row, box in enumerate(boxes):
        original = next((other for other in kept if ious[row, other] >= least_iou), None)
        if original is None:
            kept.append(row)
        else:
            reason = f"duplicate of {boxes[original].record}, IoU {ious[row, original]:.3f}"
            yield Suspicion("duplicate", box.image_id, box.id, reason)


def iou_matrix(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """Return the IoU of every pair of boxes (x, y, w, h): [M, M]."""
    xywh = np.asarray(boxes, dtype=np.float64)
    first, last, areas = xywh[:, :2], xywh[:, :2] + xywh[:, 2:], xywh[:, 2] * xywh[:, 3]
    sides = np.minimum(last[:, None], last) - np.maximum(first[:, None], first)  # [M, M, 2]
    shared = sides.clip(min=0).prod(axis=2)
    overlap: NDArray[np.float64] = shared / (areas[:, None] + areas - shared)
    return overlap


def find_contradictions(
    digests: Mapping[int, str], boxes: Iterable[RawBox], paths: Mapping[int, str]
) -> Iterator[Suspicion]:
    """Yield images of the same content as an earlier one of the split, but with other boxes.

    Args:
        digests: SHA-256 of the picture of each image.
        paths: of each image, for the reason.
    """
    truths: defaultdict[int, Counter[tuple[str, Box]]] = defaultdict(Counter)
    for box in boxes:
        truths[box.image_id][box.category, box.xywh] += 1
    firsts: dict[str, int] = {}
    for image_id, digest in digests.items():
        first = firsts.setdefault(digest, image_id)
        if truths[image_id] != truths[first]:
            yield Suspicion("contradiction", image_id, None, f"the same picture as {paths[first]}, with other boxes")


def name_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of class names that differ by case, blanks, hyphens or underscores alone, each with the first."""
    firsts: dict[str, str] = {}
    pairs = []
    for name in names:
        plain = "".join(name.casefold().replace("-", " ").replace("_", " ").split())
        first = firsts.setdefault(plain, name)
        if first != name:
            pairs.append((first, name))
    return pairs
