"""Pascal VOC: one XML file per image, those of a list in ImageSets, or those of a folder with its subfolders.

Corners are taken as given: x = xmin, width = xmax - xmin. The devkit counts pixels from 1 and includes the last one;
most tools that write this format today do neither, and a file does not say which it follows.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import ParseError

from defusedxml.ElementTree import fromstring

from pipeline.formats.pages import Page, PageObject, join_pages
from pipeline.formats.recognised import Recognised, files_of_folders, image_folder, image_names
from pipeline.formats.records import RawSplit, SplitFiles, repeated_images
from pipeline.formats.root import MISSING, THREADS, Root, check_stays_inside, join
from pipeline.formats.text_files import parse_number, read_names

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LISTED = re.compile(r"((?:.+/)?)ImageSets/Main/(?:train|trainval)\.txt")
BEGINNING = re.compile(r"\s*(<\?xml[^>]*>\s*)?<annotation[\s>]")
# Characters of an unknown element in a message.
SHOWN = 40


class _Pages(NamedTuple):
    """The XML files of a split."""

    folder: str
    names: list[str]
    """below the folder"""
    images: str
    """the folder of their images"""
    named_by: str
    """the list, or the parameter that names the folder"""


def read_voc(root: Root, files: SplitFiles, *, split: str) -> RawSplit:
    """Read a split; images and boxes get ids from 1, in the order of the list or of the names in the folder."""
    found = _find_pages(root, files, key=f"data.{split}.annotations")
    with ThreadPoolExecutor(THREADS) as pool:
        pages = list(pool.map(partial(_read_page, root, found), dict.fromkeys(found.names)))
    stems = [name.removesuffix(".xml") for name in found.names]
    return join_pages(pages, split=split, repeats=repeated_images(stems, file=found.named_by, split=split))


def follow_voc(root: Root, files: SplitFiles, *, split: str) -> tuple[list[str], list[str]]:
    """Return the list of a split, if it has one, and the folders of its images and XML files."""
    lists = [files.annotations] if is_list(files.annotations) else []
    folder = annotations_folder(files.annotations)
    return lists, list(dict.fromkeys([_images_folder(files), folder]))


def is_list(annotations: str) -> bool:
    """Return whether this is a list of names such as ImageSets/Main/train.txt, not a folder of XML files."""
    return annotations.lower().endswith(".txt")


def annotations_folder(annotations: str) -> str:
    """Return the folder of the XML files: for a list `Annotations` beside ImageSets, or beside the list without one."""
    if not is_list(annotations):
        return annotations
    parts = annotations.split("/")
    depth = parts.index("ImageSets") if "ImageSets" in parts else len(parts) - 1
    return "/".join([*parts[:depth], "Annotations"])


def _images_folder(files: SplitFiles) -> str:
    """Return the folder of the images: `images`, else JPEGImages beside Annotations for a list, else the XML's."""
    folder = annotations_folder(files.annotations)
    beside = join(posixpath.dirname(folder), "JPEGImages") if is_list(files.annotations) else folder
    return files.images or beside


def _find_pages(root: Root, files: SplitFiles, *, key: str) -> _Pages:
    folder, images = annotations_folder(files.annotations), _images_folder(files)
    if is_list(files.annotations):
        names = [f"{stem}.xml" for stem in read_names(root, files.annotations, key=key)]
        return _Pages(folder, names, images, root.shown(files.annotations))
    if not root.can_list:
        raise ValueError(f"{key}: {root.protocol} cannot list the folder {folder}; name a list of the images (.txt)")
    names = sorted(name for name, _ in root.walk(folder, named_by=key) if _is_xml(name))
    if not names:
        raise ValueError(
            f"{key}: there is no XML file in {root.shown(folder)}; name such a folder, or a list that ends with .txt"
        )
    return _Pages(folder, names, images, key)


def _is_xml(path: str) -> bool:
    return path.lower().endswith(".xml") and not posixpath.basename(path).startswith(".")


def recognise_voc(root: Root, paths: Sequence[str]) -> list[Recognised]:
    """Recognise folders with ImageSets and Annotations, and beside them folders of XML files with their images."""
    homes = dict.fromkeys(listed[1] for path in paths if (listed := LISTED.fullmatch(path)))
    lists = {home: found for home in homes if (found := _recognise_lists(paths, home))}
    pages = [path for path in paths if _is_xml(path) and not path.startswith(tuple(lists))]
    return [*lists.values(), *_recognise_folders(root, paths, pages)]


def _recognise_lists(paths: Sequence[str], home: str) -> Recognised | None:
    """Recognise ImageSets/Main/train.txt (else trainval.txt) and Annotations below `home`, which is "" or ends in /."""
    names = {name for name in ("train", "trainval", "val", "test") if f"{home}ImageSets/Main/{name}.txt" in paths}
    page = next((path for path in paths if path.startswith(f"{home}Annotations/") and _is_xml(path)), None)
    folder = _folder_of_images(paths, page) if page else None
    if folder is None:
        return None
    lists = {"train": "train" if "train" in names else "trainval"} | {
        name: name for name in ("val", "test") if name in names
    }
    files = {split: f"{home}ImageSets/Main/{name}.txt" for split, name in lists.items()}
    splits = {split: SplitFiles(file, folder or ".") for split, file in files.items()}
    return Recognised(splits, f"{', '.join(files.values())} and {home}Annotations")


def _recognise_folders(root: Root, paths: Sequence[str], pages: Sequence[str]) -> list[Recognised]:
    """Recognise folders of which the first XML file begins as Pascal VOC's do and has its image."""
    firsts: dict[str, str] = {}
    for path in pages:
        firsts.setdefault(posixpath.dirname(path), path)
    images = {folder: _place_of_images(paths, first) for folder, first in firsts.items() if _is_voc(root, first)}
    splits = files_of_folders(images)
    listed = ", ".join(folder for files in splits.values() for folder in (files.annotations, *files.more))
    return [Recognised(splits, f"the XML files with <annotation> in {listed}")] if "train" in splits else []


def _is_voc(root: Root, path: str) -> bool:
    return bool(BEGINNING.match(root.head(path, named_by="data.root").decode("utf-8-sig", errors="replace")))


def _place_of_images(paths: Sequence[str], page: str) -> str | None:
    """Return the folder of the images, "" for that of the XML files, None if there is no image."""
    folder = _folder_of_images(paths, page)
    return "" if folder == posixpath.dirname(page) else (folder or ".") if folder is not None else None


def _folder_of_images(paths: Sequence[str], page: str) -> str | None:
    """Return the folder that has the image of an XML file, judging by its name."""
    stem = posixpath.splitext(posixpath.basename(page))[0]
    folders = (image_folder(paths, name, beside=page) for name in image_names(stem))
    return next((folder for folder in folders if folder is not None), None)


def _read_page(root: Root, pages: _Pages, name: str) -> Page:
    file = root.shown(join(pages.folder, name))
    try:
        data = root.read(join(pages.folder, name), named_by=pages.named_by)
    except MISSING:
        stem = name.removesuffix(".xml")
        raise ValueError(f"there is no file {file}, but {pages.named_by} lists {stem!r}") from None
    page = _parse(data, file=file)
    objects = [
        _read_object(each, record=f"object {count}") for count, each in enumerate(page.findall("object"), start=1)
    ]
    return Page(_find_picture(root, pages.images, name, page, file=file), _read_size(page), file, objects)


def _parse(data: bytes, *, file: str) -> Element:
    try:
        page: Element = fromstring(data)
    except (ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(f"{file} cannot be read as Pascal VOC XML ({error})") from None
    if page.tag != "annotation":
        raise ValueError(f"{file} begins with <{page.tag[:SHOWN]}>; expected <annotation>, as Pascal VOC has it")
    return page


def _read_object(element: Element, *, record: str) -> PageObject:
    """Return an object; its class is "" if missing."""
    corners = (_number(element, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
    x1, y1, x2, y2 = corners
    category, difficult = (element.findtext("name") or "").strip(), (element.findtext("difficult") or "").strip()
    return PageObject(category, (x1, y1, x2 - x1, y2 - y1), record, difficult=difficult == "1")


def _number(element: Element, path: str) -> float:
    return parse_number(element.findtext(path) or "")


def _read_size(page: Element) -> tuple[int, int] | None:
    width, height = _number(page, "size/width"), _number(page, "size/height")
    return (int(width), int(height)) if math.isfinite(width) and math.isfinite(height) else None


def _find_picture(root: Root, folder: str, name: str, page: Element, *, file: str) -> str:
    """Return the XML's <filename> if that image exists, else the XML's own name with a usual suffix.

    Args:
        name: of the XML file; its image may be in a subfolder of that name
    """
    inner, own = posixpath.split(name)
    named = (page.findtext("filename") or "").strip()
    names = [*([named] if named else []), *image_names(posixpath.splitext(own)[0])]
    for each in names:
        check_stays_inside(each, named_by=file)
    places = dict.fromkeys(join(place, each) for each in names for place in (join(folder, inner), folder))
    found = (place for place in places if root.has_file(place, named_by=file))
    return next(found, next(iter(places)))
