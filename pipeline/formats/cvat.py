"""CVAT for images 1.1: an XML file with the labels and the images of a task, a job, or a project with its subsets.

Boxes, polygons, ellipses, masks and cuboids give their enclosing box, rotated as CVAT does: in degrees, clockwise on
the screen, about the centre. The file is parsed while it is read, image by image, so memory does not grow with it.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import ParseError

from defusedxml.ElementTree import iterparse

from pipeline.formats.outlines import NO_BOX, enclose, enclose_ellipse, enclose_rotated
from pipeline.formats.pages import Page, PageObject, join_pages
from pipeline.formats.recognised import IMAGE_SUFFIXES, Recognised, image_folder, split_of, split_or_train
from pipeline.formats.records import Box, Category, RawSplit, SplitFiles
from pipeline.formats.root import MISSING, THREADS, Root, check_stays_inside, join
from pipeline.formats.text_files import parse_number

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

WITHOUT_AREA = ("polyline", "points", "skeleton", "tag")
# Labels of these types mark no areas.
NOT_CLASSES = WITHOUT_AREA
CUBOID = [(f"x{corner}", f"y{corner}") for corner in ("tl1", "bl1", "tr1", "br1", "tl2", "bl2", "tr2", "br2")]
# CVAT's name of the subset of tasks that are in none.
DEFAULT = "default"
# Characters of an unknown element in a finding.
SHOWN = 40
# Folders with more XML files hold one for each image, as Pascal VOC does; then only annotations.xml may be CVAT's.
MANY = 16

BEGINNING = re.compile(r"\s*(<\?xml[^>]*>\s*)?<annotations[\s>]")
IMAGE = re.compile(r'<image\b[^>]*?\sname="([^"]+)"')
SUBSETS = re.compile(r'<subsets>([^<]*)</subsets>|<image\b[^>]*?\ssubset="([^"]+)"')


class _Image(NamedTuple):
    name: str
    subset: str
    size: tuple[int, int] | None
    objects: list[PageObject]


class _Content(NamedTuple):
    """What a file holds."""

    labels: list[str]
    images: list[_Image]


def read_cvat(root: Root, files: SplitFiles, *, split: str) -> RawSplit:
    """Read a split: the images of its subset, or all if the file has no subsets; images and boxes get ids from 1."""
    key, file = f"data.{split}.annotations", root.shown(files.annotations)
    try:
        with root.open(files.annotations, named_by=key) as stream:
            content = _parse(stream, file=file)
    except MISSING:
        raise ValueError(f"{key}: there is no file {file}; check data.root and {key} in params.yaml") from None
    chosen, notes = _select(content.images, split=split, file=file)
    with ThreadPoolExecutor(THREADS) as pool:
        places = list(pool.map(partial(_find_picture, root, files, file=file), chosen))
    pages = (Page(place, image.size, file, image.objects) for place, image in zip(places, chosen, strict=True))
    categories = [Category(number, name) for number, name in enumerate(content.labels, start=1)]
    return join_pages(pages, split=split, categories=categories or None, notes=notes)


def follow_cvat(root: Root, files: SplitFiles, *, split: str) -> tuple[list[str], list[str]]:
    """Return the XML file and the folder of the images."""
    return [files.annotations], [images_folder(files)]


def recognise_cvat(root: Root, paths: Sequence[str]) -> list[Recognised]:
    """Recognise XML files that begin as CVAT's for images do; a file with subsets is that of several splits."""
    splits: dict[str, SplitFiles] = {}
    for path in _likely(paths):
        head = root.head(path, named_by="data.root").decode("utf-8-sig", errors="replace")
        images = _images_of(paths, path, head) if BEGINNING.match(head) else None
        for split in _splits_in(path, head) if images is not None else ():
            first = splits.setdefault(split, SplitFiles(path, images or ""))
            if first.annotations != path and first.images == images:
                splits[split] = first._replace(more=(*first.more, path))
    ordered: dict[str, SplitFiles] = {split: splits[split] for split in ("train", "val", "test") if split in splits}
    listed = dict.fromkeys(file.annotations for files in ordered.values() for file in files.each)
    return [Recognised(ordered, f"{', '.join(listed)}, with <annotations> and <image>")] if "train" in ordered else []


def _likely(paths: Sequence[str]) -> list[str]:
    xml = [path for path in paths if path.lower().endswith(".xml") and not posixpath.basename(path).startswith(".")]
    counts = Counter(map(posixpath.dirname, xml))
    return [
        path for path in xml if counts[posixpath.dirname(path)] <= MANY or posixpath.basename(path) == "annotations.xml"
    ]


def _images_of(paths: Sequence[str], path: str, head: str) -> str | None:
    """Return the folder of the images, "" for that of CVAT's exports, None if the first image is not there."""
    found = IMAGE.search(head)
    name = html.unescape(found[1]) if found else ""
    folder = images_folder(SplitFiles(path, ""))
    if not name or any(each.startswith(f"{folder}/") and f"/{each}".endswith(f"/{name}") for each in paths):
        return "" if name else None
    other = image_folder(paths, name, beside=path)
    return other if other is None else other or "."


def _splits_in(path: str, head: str) -> list[str]:
    """Return the splits of which a file has subsets, else the one that its path names."""
    subsets = [html.unescape(name) for meta, one in SUBSETS.findall(head) for name in (*meta.split("\n"), one)]
    splits = set(_splits_of(name.strip() for name in subsets if name.strip()).values()) - {None}
    return [split for split in ("train", "val", "test") if split in splits] or [split_or_train(path)]


def images_folder(files: SplitFiles) -> str:
    """Return the folder of the images: `images`, else the folder of that name beside the XML file, as CVAT exports."""
    return files.images or join(posixpath.dirname(files.annotations), "images")


def _parse(stream: IO[bytes], *, file: str) -> _Content:
    """Read labels and images; each child of the document is released when it has been read.

    Raises:
        ValueError: when this is no XML, or XML of something else.
    """
    content = _Content([], [])
    for child in _children(_events(stream, file=file), file=file):
        if child.tag == "meta":
            content.labels.extend(_read_labels(child))
        elif child.tag == "image":
            content.images.append(_read_image(child, content.labels, file=file))
    if not content.images:
        raise ValueError(f"{file} has no <image>; expected an export as 'CVAT for images 1.1'")
    return content


def _events(stream: IO[bytes], *, file: str) -> Iterator[tuple[str, Element]]:
    """Yield start and end of each element."""
    try:
        yield from iterparse(stream, events=("start", "end"))
    except (ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(f"{file} cannot be read as XML of CVAT ({error})") from None


def _children(events: Iterator[tuple[str, Element]], *, file: str) -> Iterator[Element]:
    """Yield each child of the document when it is complete, and remove it afterwards."""
    open_elements: list[Element] = []
    for event, element in events:
        if event == "start":
            open_elements.append(element)
            _check(element, depth=len(open_elements), file=file)
        else:
            open_elements.pop()
            if len(open_elements) == 1:
                yield element
                open_elements[0].clear()


def _check(element: Element, *, depth: int, file: str) -> None:
    if depth == 1 and element.tag != "annotations":
        raise ValueError(f"{file} begins with <{element.tag[:SHOWN]}>; expected <annotations>, as CVAT writes")
    if depth == 2 and element.tag == "track":
        raise ValueError(
            f"{file} has tracks: it was exported as 'CVAT for video 1.1'; export it as 'CVAT for images 1.1', which "
            "has the same boxes frame by frame"
        )


def _read_labels(meta: Element) -> list[str]:
    """Return the names of the labels that are classes, in the order of the file: those that may mark an area."""
    labels = [label for labels in meta.iter("labels") for label in labels.findall("label")]
    # The points of a skeleton are labels with a parent.
    classes = [each for each in labels if each.findtext("type") not in NOT_CLASSES and not each.findtext("parent")]
    names = [(each.findtext("name") or "").strip() for each in classes]
    return [name for name in dict.fromkeys(names) if name]


def _read_image(element: Element, labels: list[str], *, file: str) -> _Image:
    name = element.get("name") or ""
    if not name:
        raise ValueError(f"{file}: <image id={element.get('id')!r}> has no name; expected a path")
    check_stays_inside(name, named_by=f"{file}: image {element.get('id')}")
    width, height = _number(element, "width"), _number(element, "height")
    size = (int(width), int(height)) if width.is_integer() and height.is_integer() else None
    objects = [_read_object(each, labels, record=f"object {count}") for count, each in enumerate(element, start=1)]
    return _Image(name, element.get("subset") or "", size, objects)


def _read_object(element: Element, labels: list[str], *, record: str) -> PageObject:
    category = (element.get("label") or "").strip()
    reason = _reason(element.tag, category, labels)
    return PageObject(category, NO_BOX if reason else SHAPES[element.tag](element), record, reason)


def _reason(tag: str, category: str, labels: list[str]) -> str | None:
    """Return why an object gives no box."""
    if tag in WITHOUT_AREA:
        return f"a shape of type {tag} has no area"
    if tag not in SHAPES:
        return f"unknown shape {tag[:SHOWN]}"
    if labels and category and category not in labels:
        return "no such label in <meta>"
    return None


def _number(element: Element, name: str, default: str = "") -> float:
    return parse_number(element.get(name, default))


def _read_box(element: Element) -> Box:
    x1, y1, x2, y2 = (_number(element, corner) for corner in ("xtl", "ytl", "xbr", "ybr"))
    return enclose_rotated((x1, y1, x2 - x1, y2 - y1), _number(element, "rotation", "0"))


def _read_polygon(element: Element) -> Box:
    """Return the box of points "x,y;x,y;..."."""
    pairs = [pair.split(",") for pair in (element.get("points") or "").split(";")]
    if not all(len(pair) == 2 for pair in pairs):
        return NO_BOX
    return enclose([(parse_number(x), parse_number(y)) for x, y in pairs])


def _read_ellipse(element: Element) -> Box:
    x, y, across, along = (_number(element, name) for name in ("cx", "cy", "rx", "ry"))
    return enclose_ellipse((x, y), (across, along), degrees=_number(element, "rotation", "0"))


def _read_mask(element: Element) -> Box:
    """Return the box of a mask's run-length code, which CVAT writes beside it."""
    left, top, width, height = (_number(element, name) for name in ("left", "top", "width", "height"))
    return (left, top, width, height)


def _read_cuboid(element: Element) -> Box:
    return enclose([(_number(element, x), _number(element, y)) for x, y in CUBOID])


SHAPES: Mapping[str, Callable[[Element], Box]] = {
    "box": _read_box,
    "polygon": _read_polygon,
    "ellipse": _read_ellipse,
    "mask": _read_mask,
    "cuboid": _read_cuboid,
}


def _select(images: list[_Image], *, split: str, file: str) -> tuple[list[_Image], list[str]]:
    """Return the images of a split, and notes; all images if no subset of the file has the name of a split."""
    subsets = Counter(image.subset or DEFAULT for image in images)
    splits = _splits_of(subsets)
    if not any(splits.values()):
        return images, []
    chosen = [image for image in images if splits[image.subset or DEFAULT] == split]
    if not chosen:
        raise ValueError(
            f"data.{split}.annotations: {file} has no subset for {split}, but {', '.join(subsets)}; name another file, "
            "or rename a subset to Train, Validation or Test"
        )
    named = [(name, count, splits[name]) for name, count in subsets.items() if name == DEFAULT or not splits[name]]
    notes = [
        f"{file}: the {count} images of subset {name} are read as {of}"
        if of
        else f"{file}: the {count} images of subset {name} are in no split, as its name has none of train, val and test"
        for name, count, of in named
    ]
    return chosen, notes if split == "train" else []


def _splits_of(subsets: Iterable[str]) -> dict[str, str | None]:
    """Return the split of each subset, by the words of its name; CVAT's default one is train if another has a split."""
    splits = {subset: split_of(subset) for subset in subsets}
    return splits | ({DEFAULT: "train"} if DEFAULT in splits and any(splits.values()) else {})


def _find_picture(root: Root, files: SplitFiles, image: _Image, *, file: str) -> str:
    """Return the path of an image: in the folder of the images or, in the export of a project, in that of its subset.

    The frames of a video have names without a suffix.
    """
    folder = images_folder(files)
    places = [join(folder, image.name), *([join(join(folder, image.subset), image.name)] if image.subset else [])]
    suffixes = ("", *((".PNG", *IMAGE_SUFFIXES) if "." not in posixpath.basename(image.name) else ()))
    candidates = (place + suffix for place in reversed(places) for suffix in suffixes)
    return next((each for each in candidates if root.has_file(each, named_by=file)), places[0])
