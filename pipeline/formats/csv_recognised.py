"""Which tables of a folder `auto` takes for annotations, of which split, with which class files and images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from pipeline.formats.csv_columns import ClassFile, Columns, read_columns
from pipeline.formats.csv_text import read_rows
from pipeline.formats.image_files import guess_folder
from pipeline.formats.recognised import SPLIT_WORDS, Recognised, by_split, split_of
from pipeline.formats.records import SplitFiles
from pipeline.formats.root import Root

SUFFIXES = (".csv", ".tsv")
# Rows of a table of boxes, and images in them, that are looked at.
NUM_ROWS = 100
NUM_IMAGES = 3


class _Boxes(NamedTuple):
    """The beginning of a table of boxes."""

    table: Columns
    images: list[str]
    classes: set[str]


def recognise_csv(root: Root, paths: Sequence[str]) -> list[Recognised]:
    """Recognise tables of boxes whose images are there, with the class files that have all their classes."""
    seen = {path: _look(root, path) for path in paths if path.lower().endswith(SUFFIXES)}
    boxes = {path: found for path, found in seen.items() if isinstance(found, _Boxes)}
    folders = {path: _folder_of_images(paths, path, found.images) for path, found in boxes.items()}
    groups: dict[str, list[str]] = {}
    for path, found in boxes.items():
        for split in _splits_of(root, path, found.table) if folders[path] is not None else ():
            groups.setdefault(split, []).append(path)
    splits: dict[str, SplitFiles] = {}
    for split in ("train", "val", "test"):
        names = groups.get(split, [])
        if names and len({folders[name] for name in names}) == 1:
            more = [*names[1:], *_class_files(seen, set().union(*(boxes[name].classes for name in names)), split)]
            folder = folders[names[0]]
            splits[split] = SplitFiles(names[0], "." if folder in ("", None) else str(folder), tuple(more))
    listed = ", ".join(dict.fromkeys(file for files in splits.values() for file in (files.annotations, *files.more)))
    return [Recognised(splits, f"{listed}, with columns for image, class and box")] if "train" in splits else []


def _look(root: Root, path: str) -> _Boxes | set[str] | None:
    """Return the beginning of a table of boxes, the classes of a class file, or None for another file."""
    data = root.head(path, named_by="data.root")
    try:
        table = read_columns(data, file=path)
    except ValueError:
        return None
    rows: list[list[str]] = []
    try:
        for row in islice(
            read_rows(io.BytesIO(data), table.dialect, file=path), None if isinstance(table, ClassFile) else NUM_ROWS
        ):
            rows.append(row.cells)
    except ValueError:
        pass  # the beginning may end within a row
    rows = rows[1:] if table.has_header else rows
    if isinstance(table, ClassFile):
        return {cells[0] for cells in rows}
    whole = [cells for cells in rows if len(cells) >= table.width]
    images = list(dict.fromkeys(cells[table.image] for cells in whole if cells[table.image]))
    return _Boxes(table, images, {cells[table.category] for cells in whole} - {""})


def _folder_of_images(paths: Sequence[str], path: str, images: Sequence[str]) -> str | None:
    """Return the folder of the first image that is there."""
    folders = (guess_folder(paths, name, beside=path) for name in images[:NUM_IMAGES])
    return next((folder for folder in folders if folder is not None), None)


def _splits_of(root: Root, path: str, table: Columns) -> list[str]:
    """Return the splits of a table: those of its column, else the one that its path names."""
    if table.split is None:
        return list(by_split([path]))
    words = set()
    try:
        with root.open(path, named_by="data.root") as stream:
            for row in read_rows(stream, table.dialect, file=path):
                words.add(row.cells[table.split].lower() if len(row.cells) > table.split else "")
    except ValueError:
        return []  # reading it would say why
    return list(dict.fromkeys(split for word, split in SPLIT_WORDS.items() if word in words))


def _class_files(seen: Mapping[str, _Boxes | set[str] | None], used: set[str], split: str) -> list[str]:
    """Return the class files that have all classes used, but for those whose path names another split."""
    found = [path for path, classes in seen.items() if isinstance(classes, set) and used and used <= classes]
    return [path for path in found if split_of(path) in (None, split)]
