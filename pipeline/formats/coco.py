"""COCO JSON: one file per split with `images`, `annotations` and `categories`.

The box of an annotation is its `bbox`; without one it is that of its `segmentation`, which is not read otherwise.

Ids of images and categories are the file's. Those of annotations are too, but for ids below 1 and repeated ones:
pycocotools takes an annotation of id 0 for no match at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.formats.numbering import number_uniquely
from pipeline.formats.outlines import NO_BOX, json_number
from pipeline.formats.recognised import Recognised, by_split, first_text, image_folder
from pipeline.formats.records import Box, Category, Finding, RawBox, RawImage, RawSplit, SplitFiles, box_text
from pipeline.formats.root import MISSING, Root, check_stays_inside, join
from pipeline.formats.segmentation import enclose_segmentation

Record = dict[str, Any]

# Ids are kept in arrays of int64.
SMALLEST_ID, LARGEST_ID = -(2**63), 2**63 - 1
# Supercategory of Roboflow's root category; other tools omit it.
NO_SUPERCATEGORY = (None, "", "none")

# Enough for the first key; a folder of another format may have thousands of JSON files.
BEGINNING_BYTES = 1024
COCO_BEGINNING = re.compile(r'\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:')
FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)+")')


def read_coco(root: Root, files: SplitFiles, *, split: str) -> RawSplit:
    """Read a split; categories, images and annotations keep the order of the file."""
    file = root.shown(files.annotations)
    content = _load(root, files.annotations, file=file, split=split)
    categories = _read_categories(content["categories"], content["annotations"], file=file)
    images, dropped = _read_images(content["images"], folder=files.images, file=file, split=split)
    given = [_integer(box, "id", where=f"{file}: annotations[{i}]") for i, box in enumerate(content["annotations"])]
    numbers = number_uniquely(given)
    boxes: list[RawBox] = []
    for item in _read_boxes(content["annotations"], numbers, images, categories, file=file, split=split):
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
        notes=_changed_ids(given, numbers),
    )


def recognise_coco(root: Root, paths: Sequence[str]) -> list[Recognised]:
    """Recognise JSON files that begin as COCO's do; `instances_` goes before COCO's other annotations."""
    files = {path: _begins_as_coco(root, path) for path in paths if path.lower().endswith(".json")}
    found = {path: image for path, image in files.items() if image is not None}
    instances = {path: image for path, image in found.items() if "instances_" in path}
    splits: dict[str, SplitFiles] = {}
    for split, names in by_split(instances or found).items():
        folders = {image_folder(paths, found[name], beside=name) for name in names}
        folder = folders.pop()
        if folder is not None and not folders:
            splits[split] = SplitFiles(names[0], "." if folder == "" else folder, tuple(names[1:]))
    listed = ", ".join(file for files in splits.values() for file in (files.annotations, *files.more))
    return [Recognised(splits, f"{listed}, with images, annotations and categories")] if "train" in splits else []


def _begins_as_coco(root: Root, path: str) -> str | None:
    """Return the first file_name in a file that begins with a key of COCO's."""
    beginning = root.head(path, named_by="data.root", size=BEGINNING_BYTES).decode("utf-8-sig", errors="replace")
    if not COCO_BEGINNING.match(beginning):
        return None
    head = root.head(path, named_by="data.root").decode("utf-8-sig", errors="replace")
    whole = head if FILE_NAME.search(head) else root.read(path, named_by="data.root").decode(errors="replace")
    return first_text(FILE_NAME, whole)


def _load(root: Root, path: str, *, file: str, split: str) -> Record:
    """Return the content of the file, after checking its three lists."""
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
            raise ValueError(f"{key}: {file} has an entry in {name!r} that is not a JSON object")
    return content


def _read_categories(records: list[Record], annotations: list[Record], *, file: str) -> list[Category]:
    """All categories; an id may stand once, and a name too, but for that of the data set, which a class may share."""
    used = {_key(annotation.get("category_id")) for annotation in annotations}
    categories: dict[int, Category] = {}
    for index, record in enumerate(records):
        number, name = _integer(record, "id", where=f"{file}: categories[{index}]"), record.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{file}: categories[{index}] (id {number}) has the name {name!r}; expected a string")
        category = Category(number, name, number not in used and _heads_all_others(record, records))
        namesakes = [other for other in categories.values() if name == other.name]
        if number in categories or any(other.names_data_set == category.names_data_set for other in namesakes):
            raise ValueError(f"{file}: category id {number} or name {name!r} occurs twice; give each class one id")
        categories[number] = category
    return list(categories.values())


def _heads_all_others(record: Record, records: list[Record]) -> bool:
    """Return whether a category is the supercategory of all others and has none itself, like Roboflow's first one."""
    others = [other for other in records if other is not record]
    is_topmost = record.get("supercategory") in NO_SUPERCATEGORY
    return is_topmost and bool(others) and all(other.get("supercategory") == record["name"] for other in others)


def _read_images(
    records: list[Record], *, folder: str, file: str, split: str
) -> tuple[dict[int | None, RawImage], list[Finding]]:
    """Return images by id; drop repeated records, raise an error for two images with one id."""
    images: dict[int | None, RawImage] = {}
    dropped: list[Finding] = []
    for index, record in enumerate(records):
        number, name = _integer(record, "id", where=f"{file}: images[{index}]"), record.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{file}: images[{index}] (id {number}) has the file_name {name!r}; expected a path")
        check_stays_inside(name, named_by=f"{file}: image {number}")
        image = RawImage(id=number, path=join(folder, name), size=_size(record), file=file)
        first = images.setdefault(number, image)
        if first.path != image.path:
            raise ValueError(f"{file}: image id {number} is used for {first.path} and {image.path}; ids must be unique")
        if first is not image:
            dropped.append(Finding(split, file, image.path, f"image {number}", "", "", "repeated image record"))
    return images, dropped


def _read_boxes(
    records: list[Record],
    numbers: list[int],
    images: Mapping[int | None, RawImage],
    categories: list[Category],
    *,
    file: str,
    split: str,
) -> Iterator[RawBox | Finding]:
    """Yield each annotation as a box, or the reason why it is dropped."""
    names: dict[int | None, str] = {category.id: category.name for category in categories}
    firsts: dict[int, Record] = {}
    for number, record in zip(numbers, records, strict=True):
        image = images.get(_key(record.get("image_id")))
        name = names.get(_key(record.get("category_id")))
        first = firsts.setdefault(record["id"], record)
        box = _box(record)
        reason = _reason(first is not record and _is_same_box(first, record), image, name, record)
        if reason is not None or image is None or name is None:
            where = f"image {record.get('image_id')}" if image is None else image.path
            shown = f"id {record.get('category_id')}" if name is None else name
            bbox = box_text(box)
            yield Finding(split, file, where, f"annotation {record['id']}", shown, bbox, reason or "")
            continue
        yield RawBox(
            id=number,
            image_id=image.id,
            category=name,
            xywh=box,
            record=f"annotation {record['id']}",
            area=_area(record.get("area")),
            iscrowd=int(record.get("iscrowd") == 1),
        )


def _reason(is_repeated: bool, image: RawImage | None, name: str | None, record: Record) -> str | None:
    if is_repeated:
        return "repeated annotation; the first is kept"
    if image is None:
        return f"no image record with id {record.get('image_id')}"
    if name is None:
        return f"no category with id {record.get('category_id')}"
    if not record.get("bbox") and _box(record) is NO_BOX:
        return "no bbox, and no segmentation that gives one"
    return None


def _is_same_box(first: Record, second: Record) -> bool:
    keys = ("image_id", "category_id", "bbox", *(() if first.get("bbox") else ("segmentation",)))
    return all(first.get(key) == second.get(key) for key in keys)


def _changed_ids(given: list[int], numbers: list[int]) -> list[str]:
    """Return a note if annotations got new ids."""
    changed = [(old, new) for old, new in zip(given, numbers, strict=True) if old != new]
    if not changed:
        return []
    old, new = changed[0]
    return [
        f"{len(changed)} of {len(given)} annotation ids were changed, because they were below 1 or not unique; the "
        f"first from {old} to {new}"
    ]


def _integer(record: Record, key: str, *, where: str) -> int:
    value = record.get(key)
    if type(value) is not int:  # True is an int to isinstance
        raise ValueError(f"{where} has the {key} {value!r}; expected an integer")
    if not SMALLEST_ID <= value <= LARGEST_ID:
        raise ValueError(f"{where} has the {key} {value}; expected an integer of at most 64 bits")
    return value


def _key(value: object) -> int | None:
    """Return an id for a look-up; None, which is in no table, for anything but an integer."""
    return value if type(value) is int else None


def _size(record: Record) -> tuple[int, int] | None:
    width, height = record.get("width"), record.get("height")
    return (width, height) if type(width) is int and type(height) is int else None


def _box(record: Record) -> Box:
    """Return x, y, w, h of the bbox, else of the segmentation; NaN for anything but a number."""
    value = record.get("bbox") or None
    if value is None:
        return enclose_segmentation(record.get("segmentation"))
    if not isinstance(value, list) or len(value) != 4:
        return NO_BOX
    x, y, w, h = map(json_number, value)
    return (x, y, w, h)


def _area(value: object) -> float | None:
    """Return the segment's area if the file has a valid one."""
    area = json_number(value)
    return area if 0 < area < float("inf") else None
