"""YOLO: data.yaml, and one text file per image with a row per object, in fractions of the image's sides.

A row is a class index and a box (centre x, centre y, width, height), or the corners x, y of a polygon or of an
oriented box, which gives its enclosing box. The label file of images/a.jpg is labels/a.txt: the last folder `images`
of the path is replaced. An image without a label file, or with an empty one, has no objects.
"""

from __future__ import annotations

import math
import posixpath

from pipeline.formats.records import (
    Box,
    Category,
    Finding,
    RawBox,
    RawImage,
    RawSplit,
    SplitFiles,
    box_text,
    repeated_images,
)
from pipeline.formats.root import MISSING, Root, join
from pipeline.formats.text_files import LabelFile, notes_on_missing, parse_number, read_pages
from pipeline.formats.yolo_config import YoloConfig, read_config

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".jp2", ".mpo", ".png", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")
# Text files that tools write among the labels.
NOT_LABELS = ("classes.txt", "labels.txt", "obj.names.txt")
# Digits of a wrong class index in a finding.
SHOWN = 40
NAN = float("nan")
NO_BOX = (NAN, NAN, NAN, NAN)


def read_yolo(root: Root, files: SplitFiles, *, split: str) -> RawSplit:
    """Read a split; images and boxes get ids from 1, in the order of the folders (sorted) and text files."""
    config = read_config(root, files, split=split)
    file = root.shown(files.annotations)
    listed = _list_images(root, config, file=file)
    images = list(dict.fromkeys(listed))
    if not images:
        raise ValueError(
            f"data.{split}.images: there is no image in {', '.join(map(root.shown, config.folders + config.lists))}, "
            f"which {file} names"
        )
    orphans = _find_orphans(root, config, images, file=file)
    pages = read_pages(root, [(image, _label_file(image)) for image in images + orphans], named_by=file)
    boxes, dropped = _read_boxes(root, pages, config.names, split=split)
    return RawSplit(
        categories=[Category(index, name) for index, name in config.names.items()],
        images=[RawImage(number, page.image, None, root.shown(page.file)) for number, page in enumerate(pages, 1)],
        boxes=boxes,
        num_images=len(listed) + len(orphans),
        num_boxes=sum(len(page.rows or ()) for page in pages),
        dropped=dropped + repeated_images(listed, file=file, split=split),
        notes=config.notes + notes_on_missing(pages, split=split),
    )


def follow_yolo(root: Root, files: SplitFiles, *, split: str) -> tuple[list[str], list[str]]:
    """Return the files and folders of a split: data.yaml, text files; folders of images and of labels."""
    config = read_config(root, files, split=split)
    listed = [image for path in config.lists for image in _read_list(root, config, path, file=files.annotations)]
    folders = list(dict.fromkeys(config.folders + [posixpath.dirname(image) for image in listed]))
    return [files.annotations, *config.lists], list(dict.fromkeys([*folders, *map(labels_folder, folders)]))


def labels_folder(folder: str) -> str:
    """Replace the last `images` in the path of a folder by `labels`, as Ultralytics does."""
    parts = folder.split("/")
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return "/".join(parts)


def _label_file(image: str) -> str:
    folder, name = posixpath.split(image)
    return join(labels_folder(folder), posixpath.splitext(name)[0] + ".txt")


def _list_images(root: Root, config: YoloConfig, *, file: str) -> list[str]:
    images = []
    for folder in config.folders:
        names = [name for name, _ in root.walk(folder, named_by=file)]
        images += [join(folder, name) for name in sorted(names) if name.lower().endswith(SUFFIXES)]
    return images + [image for path in config.lists for image in _read_list(root, config, path, file=file)]


def _read_list(root: Root, config: YoloConfig, path: str, *, file: str) -> list[str]:
    """Return the images of a text file; paths are relative to it, else to `path` of data.yaml, else to the root."""
    lines = [line.strip() for line in _read_text(root, path, named_by=file).splitlines() if line.strip()]
    home = posixpath.dirname(path)
    for base in dict.fromkeys([home, config.base, ""]) if lines else []:
        first = root.below(base, lines[0])
        if first is not None and root.has_file(first, named_by=root.shown(path)):
            home = base
            break
    images = []
    for number, line in enumerate(lines, start=1):
        image = root.below(home, line)
        if image is None:
            raise ValueError(f"{root.shown(path)} names {line!r} (line {number}), which is outside data.root")
        images.append(image)
    return images


def _read_text(root: Root, path: str, *, named_by: str) -> str:
    try:
        return root.read(path, named_by=named_by).decode("utf-8-sig")
    except MISSING:
        raise ValueError(f"there is no file {root.shown(path)}, which {named_by} names") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{root.shown(path)} is not UTF-8 text ({error})") from None


def _find_orphans(root: Root, config: YoloConfig, images: list[str], *, file: str) -> list[str]:
    """Return a path for the missing image of each label file that has none, in folders that are read as a whole."""
    known = {_label_file(image) for image in images}
    orphans: dict[str, str] = {}
    for folder in config.folders:
        labels = labels_folder(folder)
        for name, _ in root.walk(labels, named_by=file):
            is_label = name.endswith(".txt") and posixpath.basename(name) not in NOT_LABELS
            if is_label and (path := join(labels, name)) not in known:
                orphans[path] = join(folder, name.removesuffix(".txt") + ".jpg")
    return sorted(orphans.values())


def _read_boxes(
    root: Root, pages: list[LabelFile], names: dict[int, str], *, split: str
) -> tuple[list[RawBox], list[Finding]]:
    """Return all valid rows with ids from 1, and the others."""
    boxes: list[RawBox] = []
    dropped: list[Finding] = []
    for image_id, page in enumerate(pages, start=1):
        seen: set[tuple[str, Box]] = set()
        for number, fields in enumerate(page.rows or [], start=1):
            name, box, reason = _read_row(fields, names)
            if (name, box) in seen:
                reason = "repeated row; the first is kept"
            seen |= {(name, box)} if reason is None else set()
            record = f"row {number}"
            if reason is None:
                boxes.append(RawBox(len(boxes) + 1, image_id, name, box, record=record, in_fractions=True))
            else:
                file = root.shown(page.file)
                dropped.append(Finding(split, file, page.image, record, name, box_text(box), reason))
    return boxes, dropped


def _read_row(fields: list[str], names: dict[int, str]) -> tuple[str, Box, str | None]:
    """Return class, box in fractions of the image, and why the row is no box."""
    values = list(map(parse_number, fields))
    index = int(values[0]) if values[0].is_integer() else -1
    name = names.get(index, fields[0][:SHOWN])
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        reason = f"{len(fields)} columns; expected class and 4 numbers, or class and at least 3 corners x y"
        return name, NO_BOX, reason
    if index not in names:
        return name, NO_BOX, f"no class with index {name} in names"
    return name, _enclose(values[1:]), None


def _enclose(numbers: list[float]) -> Box:
    """Return x, y, width, height of a box given by its centre, or of the corners x1, y1, x2, y2, ..."""
    if len(numbers) == 4:
        x, y, width, height = numbers
        return (x - width / 2, y - height / 2, width, height)
    if not all(map(math.isfinite, numbers)):
        return NO_BOX
    xs, ys = numbers[::2], numbers[1::2]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
