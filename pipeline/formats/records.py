"""What the readers hand over, and the prepared COCO dictionary that is made of it.

Boxes are (x, y, width, height) in absolute pixels, as COCO files hold them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

Box = tuple[float, float, float, float]


class SplitFiles(NamedTuple):
    """Where one split lies; both paths are relative to the data set's root."""

    annotations: str
    images: str


class Category(NamedTuple):
    """A class as its source knows it; `id` is None where the format has names only."""

    id: int | None
    name: str
    names_data_set: bool = False
    """no class, as far as this file tells: it heads all others and has no box"""


class Finding(NamedTuple):
    """One record that did not come through as it stood, in words for a person who looks for it."""

    split: str
    file: str
    """the annotation file or list, or the XML, in which the record stands"""
    image: str
    record: str
    """"object 3", "annotation 455475", or "picture" where it concerns the whole image"""
    category: str
    box: str
    reason: str


@dataclass(frozen=True)
class RawBox:
    """One annotated box, not checked yet; numbers that cannot be read are NaN."""

    id: int
    image_id: int
    category: str
    xywh: Box
    record: str
    """how the source calls it: "object 3" of its image, "annotation 455475" """
    area: float | None = None
    """the segment's area, px^2; None: width * height"""
    iscrowd: int = 0


@dataclass(frozen=True)
class RawImage:
    """One annotated picture; its size is what the annotation claims, None where it claims nothing."""

    id: int
    path: str
    """relative to the data set's root"""
    size: tuple[int, int] | None
    """width, height"""
    file: str
    """the file that speaks of it"""


@dataclass(frozen=True)
class RawSplit:
    """All that a reader found in one split, in file order."""

    categories: list[Category]
    images: list[RawImage]
    boxes: list[RawBox]
    num_images: int
    num_boxes: int
    """images and boxes in the source, those of `dropped` included"""
    dropped: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """sentences on the split as a whole"""


class CocoInfo(TypedDict):
    """Where the pictures lie: a path relative to the project, or a URL."""

    root: str
    split: str


class CocoImage(TypedDict):
    """A picture; `file_name` is relative to the root, width and height are its own, in px."""

    id: int
    file_name: str
    width: int
    height: int
    sha256: str


class CocoAnnotation(TypedDict):
    """A box [x, y, w, h] in px; ids are at least 1; crowds (iscrowd 1) are for the evaluator and never train."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int


class CocoCategory(TypedDict):
    """A class under its source's id; gaps are allowed, and so is 0."""

    id: int
    name: str


class CocoSplit(TypedDict):
    """The prepared form of a split, data/prepared/<split>.json; a label 0..K-1 is a place in `categories`."""

    info: CocoInfo
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


@dataclass(frozen=True)
class Split:
    """A prepared split, and all that was left out or changed on the way to it."""

    coco: CocoSplit
    num_images: int
    """images in the source, the dropped ones included"""
    num_boxes: int
    """boxes in the source: those kept, those of classes not chosen, and those dropped"""
    dropped: list[Finding] = field(default_factory=list)
    clipped: list[Finding] = field(default_factory=list)
    """kept, cut at the picture's edge"""
    resized: list[Finding] = field(default_factory=list)
    """kept with the picture's true size, where the annotation gave another"""
    not_chosen: Counter[str] = field(default_factory=Counter)
    """boxes of each class that `data.classes` leaves out"""
    notes: list[str] = field(default_factory=list)
    """sentences on the split as a whole"""


def box_text(box: Box) -> str:
    """[x, y, w, h] with as many digits as a person would write."""
    return "[" + ", ".join(f"{side:.10g}" for side in box) + "]"
