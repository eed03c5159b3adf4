"""Images with their objects, as an annotation file has them, joined to the records of a split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.formats.records import Box, Category, Finding, RawBox, RawImage, RawSplit, box_text


class PageObject(NamedTuple):
    """An annotated object."""

    category: str
    """"" where the file gives none"""
    xywh: Box
    record: str
    """its name in the file: "object 3" of its image"""
    reason: str | None = None
    """why it is no box, for the report"""
    difficult: bool = False
    """marked as hard to recognise, even for people"""


class Page(NamedTuple):
    """An annotated image."""

    image: str
    """its path below the root"""
    size: tuple[int, int] | None
    """width, height in px as the file says, None if it does not"""
    file: str
    """the file that names it, for messages"""
    objects: list[PageObject]


def join_pages(
    pages: Iterable[Page],
    *,
    split: str,
    categories: Sequence[Category] | None = None,
    repeats: Sequence[Finding] = (),
    notes: Sequence[str] = (),
) -> RawSplit:
    """Number images and boxes from 1, in the order of the pages; an image of several pages has the boxes of all.

    Args:
        categories: None: those of the boxes, sorted by name
        repeats: further occurrences of an image in a list
    """
    images: dict[str, RawImage] = {}
    boxes: list[RawBox] = []
    dropped: list[Finding] = []
    repeated = 0
    for page in pages:
        repeated += page.image in images
        image = images.setdefault(page.image, RawImage(len(images) + 1, page.image, page.size, page.file))
        for item in page.objects:
            if item.reason is None:
                boxes.append(_box(item, image, number=len(boxes) + 1))
            else:
                dropped.append(_finding(item, page, split=split))
    names = sorted({box.category for box in boxes} - {""})
    return RawSplit(
        categories=[Category(None, name) for name in names] if categories is None else list(categories),
        images=list(images.values()),
        boxes=boxes,
        num_images=len(images) + len(repeats),
        num_boxes=len(boxes) + len(dropped),
        dropped=[*dropped, *repeats],
        notes=[*notes, *_repeated(repeated)],
    )


def _box(item: PageObject, image: RawImage, *, number: int) -> RawBox:
    return RawBox(number, image.id, item.category, item.xywh, record=item.record, difficult=item.difficult)


def _finding(item: PageObject, page: Page, *, split: str) -> Finding:
    box = box_text(item.xywh)
    return Finding(split, page.file, page.image, item.record, item.category, box, item.reason or "")


def _repeated(count: int) -> list[str]:
    return [f"{count} annotations are of an image that an earlier one names, which has the boxes of all"] * bool(count)
