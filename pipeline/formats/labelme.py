"""LabelMe: a folder of JSON files with its subfolders, one file per image.

Rectangles, polygons, circles and masks give their enclosing box; lines and points have none. Each shape is one object:
`group_id`, `flags` and `imageData` (a copy of the image) are not read.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.formats.outlines import NO_BOX, Point, enclose, enclose_circle, json_number
from pipeline.formats.pages import Page, PageObject, join_pages
from pipeline.formats.recognised import (
    IMAGE_SUFFIXES,
    Recognised,
    files_of_folders,
    first_text,
    image_folder,
    image_names,
)
from pipeline.formats.records import Box, RawSplit, SplitFiles
from pipeline.formats.root import THREADS, Root, join

WITHOUT_AREA = ("line", "linestrip", "point", "points")
# Least and largest number of points. X-AnyLabeling, which writes the same files, gives all four corners of a
# rectangle, and calls an oriented one a rotation.
NUM_POINTS = {
    "rectangle": (2, 4),
    "polygon": (3, sys.maxsize),
    "circle": (2, 2),
    "mask": (2, 2),
    "oriented_rectangle": (4, 4),
    "rotation": (4, 4),
}
# Characters of an unknown shape_type in a finding.
SHOWN = 40

BEGINNING = re.compile(r'\s*\{\s*"(version|flags|shapes|\w*[cC]olor|image(Path|Data|Height|Width))"\s*:')
SHAPES = re.compile(r'"shapes"\s*:\s*\[')
IMAGE_PATH = re.compile(r'"imagePath"\s*:\s*("(?:[^"\\]|\\.)+")')


def read_labelme(root: Root, files: SplitFiles, *, split: str) -> RawSplit:
    """Read a split; images and boxes get ids from 1, in the order of the sorted names of the JSON files."""
    key = f"data.{split}.annotations"
    if not root.can_list:
        raise ValueError(f"{key}: {root.protocol} cannot list folders, which data.format labelme needs; copy the data")
    listed = sorted(name for name, _ in root.walk(files.annotations, named_by=key))
    names = [name for name in listed if _is_json(name)]
    if not names:
        raise ValueError(f"{key}: there is no JSON file of LabelMe in {root.shown(files.annotations)}")
    with ThreadPoolExecutor(THREADS) as pool:
        pages = list(pool.map(partial(_read_page, root, files, key=key), names))
    return join_pages(pages, split=split, notes=[] if files.images else _without_json(files, listed, pages))


def follow_labelme(root: Root, files: SplitFiles, *, split: str) -> tuple[list[str], list[str]]:
    """Return no file, and the folders of the JSON files and of the images."""
    return [], list(dict.fromkeys([files.annotations, files.images or files.annotations]))


def recognise_labelme(root: Root, paths: Sequence[str]) -> list[Recognised]:
    """Recognise folders of which the first JSON file begins as LabelMe's do and has its image."""
    firsts: dict[str, str] = {}
    for path in filter(_is_json, paths):
        firsts.setdefault(posixpath.dirname(path), path)
    images = {folder: _images_of(root, paths, first) for folder, first in firsts.items() if _is_labelme(root, first)}
    splits = files_of_folders(images)
    listed = ", ".join(folder for files in splits.values() for folder in (files.annotations, *files.more))
    return [Recognised(splits, f"the JSON files with shapes in {listed}")] if "train" in splits else []


def _is_json(path: str) -> bool:
    return path.lower().endswith(".json") and not posixpath.basename(path).startswith(".")


def _is_labelme(root: Root, path: str) -> bool:
    head = root.head(path, named_by="data.root").decode("utf-8-sig", errors="replace")
    if not BEGINNING.match(head):
        return False
    return bool(SHAPES.search(head) or SHAPES.search(root.read(path, named_by="data.root").decode(errors="replace")))


def _images_of(root: Root, paths: Sequence[str], first: str) -> str | None:
    """Return the folder of the images, "" if each JSON file finds its own, None if there is no image."""
    name = first_text(IMAGE_PATH, root.read(first, named_by="data.root").decode(errors="replace")) or ""
    own = list(_candidates(root, SplitFiles(posixpath.dirname(first), ""), posixpath.basename(first), name))
    if any(path in set(paths) for path in own):
        return ""
    folders = (image_folder(paths, posixpath.basename(path), beside=first) for path in own)
    return next((folder or "." for folder in folders if folder is not None), None)


def _read_page(root: Root, files: SplitFiles, name: str, *, key: str) -> Page:
    path = join(files.annotations, name)
    file = root.shown(path)
    content = _load(root.read(path, named_by=key), file=file)
    named = content.get("imagePath")
    candidates = list(_candidates(root, files, name, named if isinstance(named, str) else ""))
    found = (image for image in candidates if root.has_file(image, named_by=file))
    width, height = content.get("imageWidth"), content.get("imageHeight")
    size = (width, height) if type(width) is int and type(height) is int else None
    objects = [_read_shape(shape, record=f"shape {count}") for count, shape in enumerate(content["shapes"], start=1)]
    return Page(next(found, candidates[0]), size, file, objects)


def _load(data: bytes, *, file: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON of LabelMe ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError(
            f"{file} has no list 'shapes', as LabelMe's files have; move it out of the folder, or set data.format to "
            "its format"
        )
    return content


def _candidates(root: Root, files: SplitFiles, name: str, image_path: str) -> Iterator[str]:
    """Yield the paths below the root where the image of a JSON file may be, the likeliest first.

    First where imagePath says. It may be a path of another machine, so then the same name, and then the name of the
    JSON file with a usual suffix, in the folder of the images: `images`, or that of the JSON file.

    Args:
        name: of the JSON file, below `files.annotations`
    """
    inner, own = posixpath.split(name)
    home = join(files.annotations, inner)
    folders = [join(files.images, inner), files.images] if files.images else [home]
    plain = image_path.replace("\\", "/")
    base = posixpath.basename(plain)
    names = [*([base] if base else []), *image_names(posixpath.splitext(own)[0])]
    places = [(files.images or home, plain)] * bool(base) + [(folder, each) for each in names for folder in folders]
    found = (root.below(folder, path) for folder, path in places)
    yield from dict.fromkeys(path for path in found if path is not None)


def _read_shape(shape: object, *, record: str) -> PageObject:
    if not isinstance(shape, dict):
        return PageObject("", NO_BOX, record, "not a JSON object")
    label = shape.get("label")
    category = str(label).strip() if type(label) in (str, int) else ""
    given = shape.get("shape_type", "polygon")  # files before LabelMe 3.16 have polygons only, and no such key
    kind = given[:SHOWN] if isinstance(given, str) else type(given).__name__
    points = _read_points(shape.get("points"))
    reason = _reason(kind, len(points))
    box = NO_BOX if reason else _enclose(kind, points)
    return PageObject(category, box, record, reason, difficult=shape.get("difficult") is True)


def _reason(kind: str, num_points: int) -> str | None:
    """Return why a shape gives no box."""
    if kind in WITHOUT_AREA:
        return f"a shape of type {kind} has no area"
    if kind not in NUM_POINTS:
        return f"unknown shape_type {kind}"
    least, largest = NUM_POINTS[kind]
    return None if least <= num_points <= largest else f"a {kind} with {num_points} points [x, y]"


def _read_points(value: object) -> list[Point]:
    """Return the points; none if one is not [x, y]."""
    points = value if isinstance(value, list) else []
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        return []
    return [(json_number(x), json_number(y)) for x, y in points]


def _enclose(kind: str, points: list[Point]) -> Box:
    if kind == "circle":
        return enclose_circle(*points)
    x, y, width, height = enclose(points)
    # The corners of a mask are its first and its last pixel.
    return (x, y, width + 1, height + 1) if kind == "mask" else (x, y, width, height)


def _without_json(files: SplitFiles, listed: Sequence[str], pages: Sequence[Page]) -> list[str]:
    """Return a note on images in the folder that no JSON file names: they may be images not yet annotated."""
    used = {page.image for page in pages}
    paths = (posixpath.normpath(join(files.annotations, name)) for name in listed)
    alone = [path for path in paths if path.lower().endswith(IMAGE_SUFFIXES) and path not in used]
    if not alone:
        return []
    return [
        f"{len(alone)} images have no JSON file and are not read, e.g. {alone[0]}; an image without objects needs a "
        "file with `shapes: []`"
    ]
