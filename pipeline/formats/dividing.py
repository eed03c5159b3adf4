"""The records of one split divided among several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.formats.records import Finding, RawSplit

LEFT_OUT = (
    "new, but of a group that would be in several splits with it; its boxes are dropped too, unless a line for it in "
    "data/splits.json names its split"
)


def divide(raw: RawSplit, splits: Sequence[str | None], parts: Sequence[str]) -> dict[str, RawSplit]:
    """Divide the records of a split among `parts`.

    Args:
        splits: the part [N] of each image; None drops it.
        parts: the first also gets the counts, findings and notes that concern no image of another part.
    """
    first, *others = parts
    raw = _leave_out(raw, [split is None for split in splits], split=first)
    part_of = {image.path: split for image, split in zip(raw.images, filter(None, splits), strict=True)}
    divided = {name: _select(raw, name, part_of) for name in others}
    rest = _select(raw, first, {**dict.fromkeys((finding.image for finding in raw.dropped), first), **part_of})
    return {
        first: replace(
            rest,
            num_images=raw.num_images - sum(part.num_images for part in divided.values()),
            num_boxes=raw.num_boxes - sum(part.num_boxes for part in divided.values()),
            notes=raw.notes,
        ),
        **divided,
    }


def _select(raw: RawSplit, part: str, part_of: Mapping[str, str]) -> RawSplit:
    """Return the records of the images of a part."""
    images = [image for image in raw.images if part_of[image.path] == part]
    ids = {image.id for image in images}
    boxes = [box for box in raw.boxes if box.image_id in ids]
    dropped = [finding._replace(split=part) for finding in raw.dropped if part_of.get(finding.image) == part]
    lost_images = sum(finding.record.startswith("image") for finding in dropped)
    return RawSplit(
        categories=raw.categories,
        images=images,
        boxes=boxes,
        num_images=len(images) + lost_images,
        num_boxes=len(boxes) + len(dropped) - lost_images,
        dropped=dropped,
    )


def _leave_out(raw: RawSplit, is_left_out: Sequence[bool], *, split: str) -> RawSplit:
    """Drop images with their boxes."""
    lost = [image for image, is_lost in zip(raw.images, is_left_out, strict=True) if is_lost]
    ids = {image.id for image in lost}
    return replace(
        raw,
        images=[image for image in raw.images if image.id not in ids],
        boxes=[box for box in raw.boxes if box.image_id not in ids],
        dropped=[*raw.dropped, *(Finding(split, image.file, image.path, "image", "", "", LEFT_OUT) for image in lost)],
    )
