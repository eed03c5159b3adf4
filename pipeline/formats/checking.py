"""Convert a reader's records to a prepared split: check images and boxes, record what is dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.formats.boxes import clip, find_fault, scale
from pipeline.formats.image_columns import lacking
from pipeline.formats.numbering import number_uniquely
from pipeline.formats.picture_cache import Picture
from pipeline.formats.pictures import notes_on_pictures
from pipeline.formats.records import (
    CocoAnnotation,
    CocoCategory,
    CocoImage,
    Difficult,
    Finding,
    RawBox,
    RawImage,
    RawSplit,
    Split,
    Suspicion,
    box_text,
)
from pipeline.formats.root import Root
from pipeline.params.data import Columns

DIFFICULT = "difficult, and data.difficult is drop"


def check_split(
    root: Root,
    raw: RawSplit,
    pictures: Sequence[Picture],
    categories: list[CocoCategory],
    *,
    split: str,
    difficult: Difficult,
    columns: Columns | None = None,
) -> Split:
    """Check every box of a split against the picture of its image; order and ids stay as in the reader's records."""
    images = _by_id(raw, pictures)
    ids = {category["name"]: category["id"] for category in categories}

    boxes = [_as_crowd(_in_pixels(box, images[box.image_id]), difficult) for box in raw.boxes]
    chosen = [box for box in boxes if box.category in ids or not box.category]
    seen = [box for box in chosen if images[box.image_id].is_there]
    faults = {box.id: _fault(box, images[box.image_id], difficult) for box in seen}
    kept = [box for box in seen if faults[box.id] is None]
    cut = [box for box in kept if clip(box.xywh, images[box.image_id].size) != box.xywh]
    boxes_of = Counter(box.image_id for box in chosen)
    annotated = [
        (box, number) for box in kept for number in (ids.values() if box.of_all_classes else [ids[box.category]])
    ]
    numbers = number_uniquely([box.id for box, _ in annotated])

    return Split(
        coco={
            "info": {"root": root.url, "split": split},
            "images": [image.coco() for image in images.values() if image.is_there],
            "annotations": [
                _annotation(box, images[box.image_id], number, category_id)
                for number, (box, category_id) in zip(numbers, annotated, strict=True)
            ],
            "categories": categories,
        },
        num_images=raw.num_images,
        num_boxes=raw.num_boxes + len(annotated) - len(kept),
        dropped=[
            *raw.dropped,
            *(image.lost(split, boxes_of[key]) for key, image in images.items() if not image.is_there),
            *(
                _finding(split, box, images[box.image_id], reason, "" if reason == DIFFICULT else "invalid")
                for box in seen
                if (reason := faults[box.id])
            ),
        ],
        clipped=[_finding(split, box, images[box.image_id], "clipped to the image", "outside") for box in cut],
        resized=[image.resized(split) for image in images.values() if image.is_there and image.claims_another_size],
        not_chosen=Counter(box.category for box in raw.boxes if box.category and box.category not in ids),
        notes=[*raw.notes, *notes_on_pictures(pictures)],
        suspicions=list(_suspect([image for image in images.values() if image.is_there], columns)),
        num_grey=sum(image.is_there and image.picture.is_grey for image in images.values()),
        num_turned=sum(image.is_there and image.picture.orientation > 1 for image in images.values()),
        readable={image.raw.path: image.raw.columns for image in images.values() if image.is_there},
        thumbnails={key: image.picture.thumbnail for key, image in images.items() if image.is_there},
    )


def count_boxes(
    raw: RawSplit, pictures: Sequence[Picture], categories: Sequence[CocoCategory], difficult: Difficult
) -> list[Counter[str]]:
    """Return for each image the number of its boxes of each class, as far as `check_split` keeps them; no crowds."""
    images = _by_id(raw, pictures)
    names = {category["name"] for category in categories}
    counts: dict[int, Counter[str]] = {image.id: Counter() for image in raw.images}
    for found in raw.boxes:
        image = images[found.image_id]
        box = _as_crowd(_in_pixels(found, image), difficult)
        if box.category in names and image.is_there and not box.iscrowd and _fault(box, image, difficult) is None:
            counts[box.image_id][box.category] += 1
    return [counts[image.id] for image in raw.images]


@dataclass(frozen=True)
class _Image:
    """Size in the annotation, and size of the image file."""

    raw: RawImage
    picture: Picture

    @property
    def is_there(self) -> bool:
        return self.picture.fault is None

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.size

    @property
    def claims_another_size(self) -> bool:
        return self.raw.size not in (None, self.picture.size)

    def coco(self) -> CocoImage:
        width, height = self.picture.size
        image: CocoImage = {
            "id": self.raw.id,
            "file_name": self.raw.path,
            "width": width,
            "height": height,
            "sha256": self.picture.sha256,
        }
        return {**image, "columns": dict(self.raw.columns)} if self.raw.columns else image

    def lost(self, split: str, num_boxes: int) -> Finding:
        return self._finding(split, f"{self.picture.fault}; its {num_boxes} boxes are dropped too", "unreadable")

    def resized(self, split: str) -> Finding:
        claimed, true = self.raw.size or (0, 0), self.size
        reason = f"annotation says {claimed[0]}x{claimed[1]} px, the image has {true[0]}x{true[1]} px"
        swapped = "; its boxes seem to ignore the image's EXIF orientation" if claimed == true[::-1] else ""
        return self._finding(split, reason + swapped, "size")

    def _finding(self, split: str, reason: str, check: str) -> Finding:
        return Finding(split, self.raw.file, self.raw.path, "image", "", "", reason, check)


def _suspect(images: Sequence[_Image], columns: Columns | None) -> Iterator[Suspicion]:
    """Yield what is odd about the pictures of a split; grey ones are if there are others."""
    is_mixed = not all(image.picture.is_grey for image in images)
    for image in images:
        picture, number = image.picture, image.raw.id
        if picture.kind:
            yield Suspicion("pixel_format", number, None, picture.kind)
        if picture.is_grey and is_mixed:
            yield Suspicion("grey", number, None, "greyscale, read as RGB")
        if picture.orientation > 1:
            yield Suspicion("orientation", number, None, f"EXIF orientation {picture.orientation}, which is applied")
        if columns is not None and (reason := lacking(columns, image.raw.columns)):
            yield Suspicion("columns", number, None, reason)


def _by_id(raw: RawSplit, pictures: Sequence[Picture]) -> dict[int, _Image]:
    return {image.id: _Image(image, picture) for image, picture in zip(raw.images, pictures, strict=True)}


def _in_pixels(box: RawBox, image: _Image) -> RawBox:
    return replace(box, xywh=scale(box.xywh, image.size), in_fractions=False) if box.in_fractions else box


def _as_crowd(box: RawBox, difficult: Difficult) -> RawBox:
    return replace(box, iscrowd=1) if box.difficult and difficult == "crowd" else box


def _fault(box: RawBox, image: _Image, difficult: Difficult) -> str | None:
    if not box.category and not box.of_all_classes:
        return "no class name"
    fault = find_fault(box.xywh, image.size)
    return DIFFICULT if fault is None and box.difficult and difficult == "drop" else fault


def _annotation(box: RawBox, image: _Image, number: int, category_id: int) -> CocoAnnotation:
    """Return the box in the prepared format; the segment's area stays even if the box is clipped."""
    x, y, width, height = clip(box.xywh, image.size)
    return {
        "id": number,
        "image_id": box.image_id,
        "category_id": category_id,
        "bbox": [x, y, width, height],
        "area": width * height if box.area is None else box.area,
        "iscrowd": box.iscrowd,
    }


def _finding(split: str, box: RawBox, image: _Image, reason: str, check: str) -> Finding:
    return Finding(split, image.raw.file, image.raw.path, box.record, box.category, box_text(box.xywh), reason, check)
