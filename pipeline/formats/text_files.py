"""Plain text files of annotations: lists of images, and label files with a row of fields per object of an image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from pipeline.formats.root import MISSING, THREADS, Root, check_stays_inside


class LabelFile(NamedTuple):
    """An image and the rows of its label file; None without the file."""

    image: str
    file: str
    rows: list[list[str]] | None


def read_pages(root: Root, pairs: Iterable[tuple[str, str]], *, named_by: str) -> list[LabelFile]:
    """Read the label file of each image; fields are separated by white space, empty lines are left out.

    Args:
        pairs: paths of an image and of its label file.

    Raises:
        ValueError: if a file is not UTF-8 text.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(partial(_read_page, root, named_by=named_by), pairs))


def _read_page(root: Root, pair: tuple[str, str], *, named_by: str) -> LabelFile:
    image, path = pair
    try:
        data = root.read(path, named_by=named_by)
    except MISSING:
        return LabelFile(image, path, None)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{root.shown(path)} is not UTF-8 text ({error})") from None
    return LabelFile(image, path, [fields for line in text.splitlines() if (fields := line.split())])


def notes_on_missing(pages: list[LabelFile], *, split: str) -> list[str]:
    """Return a note on images without a label file.

    Raises:
        ValueError: if no image has one: then the labels are elsewhere.
    """
    without = [page for page in pages if page.rows is None]
    if len(without) == len(pages):
        raise ValueError(
            f"data.{split}: none of {len(pages)} images has a label file; {without[0].image} would have "
            f"{without[0].file}"
        )
    return [f"{len(without)} images have no label file and count as images without objects"] if without else []


def read_names(root: Root, path: str, *, key: str) -> list[str]:
    """Return the image names of a list such as ImageSets/Main/train.txt: one per line, without suffix."""
    try:
        lines = root.read(path, named_by=key).decode("utf-8-sig").splitlines()
    except MISSING:
        raise ValueError(f"{key}: there is no file {root.shown(path)}; check data.root and {key}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{key}: {root.shown(path)} is not a list of image names ({error})") from None
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        check_stays_inside(name, named_by=root.shown(path))
    return names


def parse_number(text: str) -> float:
    """Return a number, NaN for anything else."""
    try:
        return float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan
