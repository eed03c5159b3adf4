"""Records of the readers, and the prepared COCO dictionary built from them.

Boxes are (x, y, width, height) in absolute pixels, as COCO files hold them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NotRequired, TypedDict

from pipeline.formats.duplicates import Copies

Box = tuple[float, float, float, float]

Difficult = Literal["keep", "crowd", "drop"]
"""What becomes of difficult objects: ordinary boxes, crowds, which are not trained on, or dropped records."""


class SplitFiles(NamedTuple):
    """Locations of one split, relative to the data set's root."""

    annotations: str
    images: str
    more: tuple[str, ...] = ()
    """further annotation files of the split"""

    @property
    def each(self) -> list[SplitFiles]:
        """One entry for each annotation file."""
        return [SplitFiles(file, self.images) for file in (self.annotations, *self.more)]


class Category(NamedTuple):
    """A class in the source; `id` is None for formats with names only."""

    id: int | None
    name: str
    names_data_set: bool = False
    """a root category, judging by this file: supercategory of all others, without boxes"""


class Finding(NamedTuple):
    """A record that was dropped or changed, with words to find it."""

    split: str
    file: str
    """the annotation file, list or XML that contains the record"""
    image: str
    record: str
    """"object 3", "annotation 455475", or "image" where it concerns the whole image"""
    category: str
    box: str
    reason: str
    check: str = "invalid"
    """the policy in data.checks that says what becomes of such records; empty: other parameters leave it out"""


@dataclass(frozen=True, slots=True)
class RawBox:
    """An annotated box before checking; unreadable numbers are NaN."""

    id: int
    image_id: int
    category: str
    xywh: Box
    record: str
    """its name in the source: "object 3" of its image, "annotation 455475" """
    area: float | None = None
    """the segment's area, px^2; None: width * height"""
    iscrowd: int = 0
    in_fractions: bool = False
    """whether `xywh` is in fractions of the image's sides, not px"""
    difficult: bool = False
    """marked as hard to recognise, even for people"""
    of_all_classes: bool = False
    """a region of no class of its own, which becomes one annotation of each class of the data set"""


@dataclass(frozen=True)
class RawImage:
    """An annotated image, with the size given in the annotation, None if there is none."""

    id: int
    path: str
    """relative to the data set's root"""
    size: tuple[int, int] | None
    """width, height"""
    file: str
    """the file that names it"""
    columns: Mapping[str, str] = field(default_factory=dict)
    """what `data.columns` says of it"""


@dataclass(frozen=True)
class RawSplit:
    """All records of one split, in file order."""

    categories: list[Category]
    images: list[RawImage]
    boxes: list[RawBox]
    num_images: int
    num_boxes: int
    """images and boxes in the source, including those in `dropped`"""
    dropped: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """sentences on the split as a whole"""
    class_names: dict[str, str] = field(default_factory=dict)
    """names for the identifiers that boxes of the split's other files have as class"""


class CocoInfo(TypedDict):
    """Location of the images: a path relative to the project, or a URL."""

    root: str
    split: str


class CocoImage(TypedDict):
    """An image; `file_name` is relative to the root, width and height are those of the file, in px."""

    id: int
    file_name: str
    width: int
    height: int
    sha256: str
    columns: NotRequired[dict[str, str]]
    """what `data.columns` says of it: the patient, the camera, .."""


class CocoAnnotation(TypedDict):
    """A box [x, y, w, h] in px; ids are at least 1; crowds (iscrowd 1) are used in evaluation only."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int


class CocoCategory(TypedDict):
    """A class with its id in the source; gaps and 0 are allowed."""

    id: int
    name: str


class CocoSplit(TypedDict):
    """The prepared form of a split, data/prepared/<split>.json; a label 0..K-1 is an index into `categories`."""

    info: CocoInfo
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class Suspicion(NamedTuple):
    """What a check found in a record that is valid.

    Attributes:
        check: the key in data.checks.
        annotation: None where it concerns the image.
    """

    check: str
    image_id: int
    annotation: CocoAnnotation | None
    reason: str


@dataclass(frozen=True)
class Split:
    """A prepared split, and all records that were dropped or changed."""

    coco: CocoSplit
    num_images: int
    """images in the source, including dropped ones"""
    num_boxes: int
    """boxes in the source: those kept (a region of all classes once for each), of classes not chosen, and dropped"""
    dropped: list[Finding] = field(default_factory=list)
    clipped: list[Finding] = field(default_factory=list)
    """kept, clipped to the image"""
    resized: list[Finding] = field(default_factory=list)
    """kept with the true size of the image, which differs from the annotation's"""
    not_chosen: Counter[str] = field(default_factory=Counter)
    """boxes of each class that `data.classes` excludes"""
    notes: list[str] = field(default_factory=list)
    """sentences on the split as a whole"""
    noticed: list[Finding] = field(default_factory=list)
    """suspicious records that stay"""
    suspicions: list[Suspicion] = field(default_factory=list)
    """of its images, which no policy was applied to yet"""
    num_grey: int = 0
    num_turned: int = 0
    """images stored in greyscale, and with an EXIF orientation"""
    readable: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """columns of its images that can be read, also of those that a policy drops, by path"""
    copies: Copies | None = None
    """near-identical pictures of all splits, where they were searched to cut train"""
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    """small grey pictures of the images, by id, see retinanet/data/pixels.py; none of drawn images"""


def repeated_images(listed: list[str], *, file: str, split: str) -> list[Finding]:
    """Return a finding for every further occurrence of an image in a list."""
    repeats = [image for image, count in Counter(listed).items() for _ in range(count - 1)]
    return [Finding(split, file, image, "image", "", "", "listed twice") for image in repeats]


def box_text(box: Box) -> str:
    """Format [x, y, w, h] with few digits, for messages."""
    return "[" + ", ".join(f"{side:.10g}" for side in box) + "]"


def printable(text: str) -> str:
    """Return text that every terminal prints: halves of characters, which JSON may have, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
