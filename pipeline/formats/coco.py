"""COCO JSON: one file per split with `images`, `annotations` and `categories`; polygons and masks are not read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.formats.records import Box, Category, Finding, RawBox, RawImage, RawSplit, SplitFiles, box_text
from pipeline.formats.root import MISSING, Root, check_stays_inside, join

Record = dict[str, Any]

NAN = float("nan")


def read_coco(root: Root, files: SplitFiles, *, split: str) -> RawSplit:
    """Read a split; ids and the order of categories stay as they are in the file."""
    file = root.shown(files.annotations)
    content = _load(root, files.annotations, file=file, split=split)
    categories = _read_categories(content["categories"], file=file)
    images, dropped = _read_images(content["images"], folder=files.images, file=file, split=split)
    boxes: list[RawBox] = []
    for item in _read_boxes(content["annotations"], images, categories, file=file, split=split):
        if isinstance(item, RawBox):
            boxes.append(item)
        else:
            dropped.append(item)
    return RawSplit(
        categories=categories,
        images=list(images.values()),
        boxes=boxes,
        num_images=len(content["images"]),
        num_boxes=len(content["annotations"]),
        dropped=dropped,
    )


def _load(root: Root, path: str, *, file: str, split: str) -> Record:
    """The file's content, with its three lists in place."""
    key = f"data.{split}.annotations"
    try:
        content: Record = json.loads(root.read(path, named_by=key))
    except MISSING:
        raise ValueError(f"{key}: there is no file {file}; check data.root and {key} in params.yaml") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}: {file} cannot be read as COCO JSON ({error})") from None
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ValueError(f"{key}: {file} has no list {name!r}; a COCO file has images, annotations and categories")
        if not all(isinstance(record, dict) for record in content[name]):
            raise ValueError(f"{key}: {file} has an entry in {name!r} that is no object with keys and values")
    return content


def _read_categories(records: list[Record], *, file: str) -> list[Category]:
    categories: dict[int, Category] = {}
    for index, record in enumerate(records):
        number, name = _integer(record, "id", where=f"{file}: categories[{index}]"), record.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{file}: categories[{index}] (id {number}) has the name {name!r}; expected a text")
        if number in categories or any(name == other.name for other in categories.values()):
            raise ValueError(f"{file}: category id {number} or name {name!r} stands twice; give each class one id")
        categories[number] = Category(number, name)
    return list(categories.values())


def _read_images(
    records: list[Record], *, folder: str, file: str, split: str
) -> tuple[dict[int, RawImage], list[Finding]]:
    """Images by id; a record that stands twice is dropped, two pictures under one id are an error."""
    images: dict[int, RawImage] = {}
    dropped: list[Finding] = []
    for index, record in enumerate(records):
        number, name = _integer(record, "id", where=f"{file}: images[{index}]"), record.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{file}: images[{index}] (id {number}) has the file_name {name!r}; expected a path")
        check_stays_inside(name, named_by=f"{file}: image {number}")
        image = RawImage(id=number, path=join(folder, name), size=_size(record), file=file)
        first = images.setdefault(number, image)
        if first.path != image.path:
            raise ValueError(f"{file}: image id {number} is given to {first.path} and to {image.path}; ids are unique")
        if first is not image:
            dropped.append(Finding(split, file, image.path, f"image {number}", "", "", "image record stands twice"))
    return images, dropped


def _read_boxes(
    records: list[Record], images: dict[int, RawImage], categories: list[Category], *, file: str, split: str
) -> Iterator[RawBox | Finding]:
    """Each annotation as a box, or the reason why it belongs to no image, class or id of its own."""
    names = {category.id: category.name for category in categories}
    seen: set[int] = set()
    for index, record in enumerate(records):
        number = _integer(record, "id", where=f"{file}: annotations[{index}]")
        image = images.get(_key(record.get("image_id")))
        name = names.get(_key(record.get("category_id")))
        shown = f"id {record.get('category_id')}" if name is None else name
        reason = _reason(number in seen, image, name, record)
        seen.add(number)
        if reason is not None or image is None or name is None:
            where = f"image {record.get('image_id')}" if image is None else image.path
            bbox = box_text(_numbers(record.get("bbox")))
            yield Finding(split, file, where, f"annotation {number}", shown, bbox, reason or "")
            continue
        yield RawBox(
            id=number,
            image_id=image.id,
            category=name,
            xywh=_numbers(record.get("bbox")),
            record=f"annotation {number}",
            area=_area(record.get("area")),
            iscrowd=int(record.get("iscrowd") == 1),
        )


def _reason(is_repeated: bool, image: RawImage | None, name: str | None, record: Record) -> str | None:
    if is_repeated:
        return "annotation id stands twice; the first is kept"
    if image is None:
        return f"no image record with id {record.get('image_id')}"
    if name is None:
        return f"no category with id {record.get('category_id')}"
    return None


def _integer(record: Record, key: str, *, where: str) -> int:
    value = record.get(key)
    if type(value) is not int:  # True is an int to isinstance
        raise ValueError(f"{where} has the {key} {value!r}; expected a whole number")
    return value


def _key(value: object) -> int:
    """A foreign id to look up; -1, which no table holds, for anything that is no integer."""
    return value if type(value) is int else -1


def _size(record: Record) -> tuple[int, int] | None:
    width, height = record.get("width"), record.get("height")
    return (width, height) if type(width) is int and type(height) is int else None


def _numbers(value: object) -> Box:
    """x, y, w, h; NaN where the file holds something else."""
    if not isinstance(value, list) or len(value) != 4:
        return (NAN, NAN, NAN, NAN)
    x, y, w, h = map(_number, value)
    return (x, y, w, h)


def _number(value: object) -> float:
    """A number of the file as float; NaN for anything else, also for integers beyond the floats."""
    try:
        return float(value) if type(value) in (int, float) else NAN  # type: ignore[arg-type]
    except OverflowError:
        return NAN


def _area(value: object) -> float | None:
    """The segment's area where the file gives a usable one."""
    area = _number(value)
    return area if 0 < area < float("inf") else None
