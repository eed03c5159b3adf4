"""Records of several annotation files joined to those of one split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, count

from pipeline.formats.numbering import number_uniquely
from pipeline.formats.records import Category, RawImage, RawSplit

# Classes in a note.
SHOWN = 8


def merge(parts: Sequence[RawSplit]) -> RawSplit:
    """Join the records of the files of one split, in the order of the files.

    An image that several files name is one image with the boxes of all. Image ids stay if they are unique over all
    files, else images are numbered from 1; annotation ids stay where they occur first. A class without an id takes that
    of its name in another file. Where a file has classes with ids and no images, only classes with ids are classes.
    """
    if len(parts) == 1:
        return parts[0]
    images: dict[str, RawImage] = {}
    for image in chain.from_iterable(part.images for part in parts):
        images.setdefault(image.path, image)
    numbers = _image_numbers(list(images.values()))
    class_names = {given: name for part in parts for given, name in part.class_names.items()}
    boxes = [
        replace(box, image_id=numbers[path], category=class_names.get(box.category, box.category))
        for part in parts
        for paths in [{image.id: image.path for image in part.images}]
        for box in part.boxes
        for path in [paths[box.image_id]]
    ]
    ids = number_uniquely([box.id for box in boxes])
    repeated = sum(len(part.images) for part in parts) - len(images)
    given = chain.from_iterable(part.categories for part in parts)
    categories = _merge_categories(one._replace(name=class_names.get(one.name, one.name)) for one in given)
    is_listed = any(part.categories and not part.images for part in parts)
    unlisted = [one.name for one in categories if one.id is None and is_listed]
    return RawSplit(
        categories=[one for one in categories if one.id is not None or not is_listed],
        images=[replace(image, id=numbers[path]) for path, image in images.items()],
        boxes=[replace(box, id=number) for box, number in zip(boxes, ids, strict=True)],
        num_images=sum(part.num_images for part in parts) - repeated,
        num_boxes=sum(part.num_boxes for part in parts),
        dropped=[finding for part in parts for finding in part.dropped],
        notes=[*dict.fromkeys(note for part in parts for note in part.notes), *_notes_on_unlisted(unlisted)],
    )


def _notes_on_unlisted(names: Sequence[str]) -> list[str]:
    listed = ", ".join(names[:SHOWN]) + (", .." if len(names) > SHOWN else "")
    return [f"the class file does not have {listed}; boxes of such classes are dropped and counted"] if names else []


def _image_numbers(images: Sequence[RawImage]) -> dict[str, int]:
    """Return the id of each path."""
    ids = [image.id for image in images]
    numbers = ids if len(set(ids)) == len(ids) else count(1)
    return {image.path: number for image, number in zip(images, numbers, strict=False)}


def _merge_categories(categories: Iterable[Category]) -> list[Category]:
    """Return each class once, in the order of first occurrence; two ids of one name both stay, and are refused later.

    A class that only names the data set in one file is a class if it has boxes in another.
    """
    merged: dict[tuple[int | None, str], Category] = {}
    for category in categories:
        first = merged.setdefault((category.id, category.name), category)
        if not category.names_data_set:
            merged[category.id, category.name] = first._replace(names_data_set=False)
    named = {name for number, name in merged if number is not None}
    return [category for (number, name), category in merged.items() if number is not None or name not in named]
