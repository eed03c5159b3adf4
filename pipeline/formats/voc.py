"""Pascal VOC: a list of image names per split, one XML file per image in the folder `Annotations` beside `ImageSets`.

Corners are taken as given: x = xmin, width = xmax - xmin. The devkit counts pixels from 1 and includes the last one;
most tools that write this format today do neither, and a file does not say which it follows. `difficult` objects
are ordinary boxes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import ParseError

from defusedxml.ElementTree import fromstring

from pipeline.formats.recognised import Recognised, image_folder
from pipeline.formats.records import Box, Category, RawBox, RawImage, RawSplit, SplitFiles, repeated_images
from pipeline.formats.root import MISSING, THREADS, Root, check_stays_inside, join

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".tif", ".tiff", ".webp")

LISTED = re.compile(r"((?:.+/)?)ImageSets/Main/(?:train|trainval)\.txt")


class _Page(NamedTuple):
    """Content of the XML of one image."""

    file: str
    path: str
    size: tuple[int, int] | None
    objects: list[tuple[str, Box]]


def read_voc(root: Root, files: SplitFiles, *, split: str) -> RawSplit:
    """Read a split; images and boxes get ids from 1 in the order of the list."""
    listed = _read_list(root, files.annotations, split=split)
    stems = list(dict.fromkeys(listed))
    read = partial(_read_page, root, annotations_folder(files.annotations), files.images, list_file=files.annotations)
    with ThreadPoolExecutor(THREADS) as pool:
        pages = list(pool.map(read, stems))
    boxes = _number_boxes(pages)
    return RawSplit(
        categories=[Category(None, name) for name in sorted({box.category for box in boxes} - {""})],
        images=[RawImage(number, page.path, page.size, page.file) for number, page in enumerate(pages, start=1)],
        boxes=boxes,
        num_images=len(listed),
        num_boxes=len(boxes),
        dropped=repeated_images(listed, file=root.shown(files.annotations), split=split),
    )


def _read_list(root: Root, path: str, *, split: str) -> list[str]:
    """Return the image names of a list such as ImageSets/Main/train.txt: one per line, without suffix."""
    key = f"data.{split}.annotations"
    try:
        lines = root.read(path, named_by=key).decode("utf-8-sig").splitlines()
    except MISSING:
        raise ValueError(f"{key}: there is no file {root.shown(path)}; check data.root and {key}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{key}: {root.shown(path)} is not a list of image names ({error})") from None
    stems = [line.strip() for line in lines if line.strip()]
    for stem in stems:
        check_stays_inside(stem, named_by=root.shown(path))
    return stems


def annotations_folder(list_path: str) -> str:
    """Return `Annotations` beside the list's folder ImageSets, or beside the list itself without one."""
    parts = PurePosixPath(list_path).parts
    depth = parts.index("ImageSets") if "ImageSets" in parts else len(parts) - 1
    return "/".join([*parts[:depth], "Annotations"])


def follow_voc(root: Root, files: SplitFiles, *, split: str) -> tuple[list[str], list[str]]:
    """Return the list of a split, and the folders of its images and XML files."""
    return [files.annotations], [files.images, annotations_folder(files.annotations)]


def recognise_voc(root: Root, paths: Sequence[str]) -> list[Recognised]:
    """Recognise every folder with ImageSets/Main/train.txt (else trainval.txt) and Annotations."""
    homes = dict.fromkeys(listed[1] for path in paths if (listed := LISTED.fullmatch(path)))
    pages = [path for path in paths if path.lower().endswith(".xml")]
    found = []
    for home in homes:
        names = {name for name in ("train", "trainval", "val", "test") if f"{home}ImageSets/Main/{name}.txt" in paths}
        train = "train" if "train" in names else "trainval"
        page = next((path for path in pages if path.startswith(f"{home}Annotations/")), None)
        folder = page and _folder_of_images(paths, page)
        if folder is not None and train in names:
            lists = {"train": train} | {name: name for name in ("val", "test") if name in names}
            files = {split: f"{home}ImageSets/Main/{name}.txt" for split, name in lists.items()}
            splits = {split: SplitFiles(file, folder or ".") for split, file in files.items()}
            found.append(Recognised(splits, f"{', '.join(files.values())} and {home}Annotations"))
    return found


def _folder_of_images(paths: Sequence[str], page: str) -> str | None:
    """Return the folder that has the image of an XML file, judging by its name."""
    stem = PurePosixPath(page).stem
    folders = (image_folder(paths, stem + suffix, beside=page) for suffix in SUFFIXES)
    return next((folder for folder in folders if folder is not None), None)


def _read_page(root: Root, folder: str, pictures: str, stem: str, *, list_file: str) -> _Page:
    path = join(folder, f"{stem}.xml")
    file = root.shown(path)
    try:
        data = root.read(path, named_by=root.shown(list_file))
    except MISSING:
        raise ValueError(f"there is no file {file}, but {root.shown(list_file)} lists {stem!r}") from None
    page = _parse(data, file=file)
    objects = [_read_object(element) for element in page.findall("object")]
    return _Page(file, _find_picture(root, pictures, stem, page, file=file), _read_size(page), objects)


def _parse(data: bytes, *, file: str) -> Element:
    try:
        page: Element = fromstring(data)
    except (ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(f"{file} cannot be read as Pascal VOC XML ({error})") from None
    return page


def _read_object(element: Element) -> tuple[str, Box]:
    """Return class name ("" if missing) and x, y, w, h."""
    x1, y1, x2, y2 = (_number(element, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
    return (element.findtext("name") or "").strip(), (x1, y1, x2 - x1, y2 - y1)


def _read_size(page: Element) -> tuple[int, int] | None:
    width, height = _number(page, "size/width"), _number(page, "size/height")
    return (int(width), int(height)) if math.isfinite(width) and math.isfinite(height) else None


def _number(element: Element, path: str) -> float:
    """Return a number of the XML, NaN if it is missing or not a number."""
    try:
        return float(element.findtext(path) or "")
    except ValueError:
        return float("nan")


def _find_picture(root: Root, folder: str, stem: str, page: Element, *, file: str) -> str:
    """Return the XML's <filename> if that image exists, else the list's name with a common suffix."""
    named = (page.findtext("filename") or "").strip()
    candidates = ([named] if named else []) + [stem + suffix for suffix in SUFFIXES]
    found = _first_existing(root, folder, candidates, file=file)
    return join(folder, named or f"{stem}.jpg") if found is None else found


def _first_existing(root: Root, folder: str, names: Iterable[str], *, file: str) -> str | None:
    for name in names:
        check_stays_inside(name, named_by=file)
        if root.has_file(join(folder, name), named_by=file):
            return join(folder, name)
    return None


def _number_boxes(pages: list[_Page]) -> list[RawBox]:
    """Return all objects with ids from 1; `record` counts within the image, as in the XML."""
    boxes: list[RawBox] = []
    for image_id, page in enumerate(pages, start=1):
        for number, (name, xywh) in enumerate(page.objects, start=1):
            boxes.append(RawBox(len(boxes) + 1, image_id, name, xywh, record=f"object {number}"))
    return boxes
