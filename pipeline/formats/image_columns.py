"""Columns: what a table says of each image beside its boxes, e.g. its patient, video, site or camera.

A table is CSV with a header, Parquet, or the `images` of COCO JSON. It names an image by its path below the root of the
data set or by the end of it, `train/a.jpg` or `a.jpg`, with or without suffix. Values are text. No path in a table is
opened.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from pipeline.formats.csv_columns import ALIASES, ClassFile, plain_name, read_columns
from pipeline.formats.csv_text import Dialect, Row, find_dialects, read_rows
from pipeline.formats.records import RawImage, SplitFiles
from pipeline.formats.root import MISSING, Root
from pipeline.params.data import Columns, Table

KEY = "data.columns.table"
# Names in a message.
SHOWN = 12

Values = dict[str, str]


class _Entry(NamedTuple):
    """What one record of a table says: the image as it is named, and the columns that have a value."""

    table: str
    record: str
    image: str
    values: Values


def read_image_columns(
    root: Root,
    columns: Columns,
    images: Mapping[str, Sequence[RawImage]],
    files: Mapping[str, SplitFiles],
    *,
    form: Table | None = None,
) -> dict[str, Values]:
    """Return the columns of each image, by path; a column without a value is left out.

    Args:
        images, files: of each split; without a table in `columns`, the annotation files of a split have its columns.
        form: how annotation files are written if they are CSV; None: found.

    Raises:
        ValueError: if a table is missing, cannot be read or lacks a column, names none of the images, says two things
            of an image, or names two images alike.
    """
    if columns.tables:
        entries = [entry for path in columns.tables for entry in _read_table(root, path, columns)]
        return _match(root, entries, chain.from_iterable(images.values()))
    found: dict[str, Values] = {}
    for split, own in images.items():
        tables = [one.annotations for one in files[split].each if not _has_classes_only(root, one.annotations, form)]
        entries = [entry for path in tables for entry in _read_table(root, path, columns, form)]
        found |= _match(root, entries, own)
    return found


def lacking(columns: Columns, values: Mapping[str, str]) -> str:
    """Say which columns an image has no value of; empty if it has all."""
    without = [name for name in columns.names if name not in values]
    return f"no value of {', '.join(without)} (data.columns)" if without else ""


def _has_classes_only(root: Root, path: str, form: Table | None) -> bool:
    """Return whether an annotation file is a class file, as stands beside tables of boxes."""
    is_json = path.lower().endswith(".json")
    head = b"" if is_json else _read(root, path, head=True)
    return not is_json and isinstance(read_columns(head, file=root.shown(path), form=form), ClassFile)


def _read_table(root: Root, path: str, columns: Columns, form: Table | None = None) -> Iterator[_Entry]:
    suffix = posixpath.splitext(path)[1].lower()
    if suffix == ".json":
        return _read_json(root, path, columns)
    return _read_parquet(root, path, columns) if suffix == ".parquet" else _read_csv(root, path, columns, form)


def _read_csv(root: Root, path: str, columns: Columns, form: Table | None) -> Iterator[_Entry]:
    file = root.shown(path)
    dialect, header = _header(root, path, form)
    image, *places = _places(file, header, columns)
    with root.open(path, named_by=KEY) as stream:
        rows = read_rows(stream, dialect, file=file)
        next(rows)
        for row in rows:
            if len(row.cells) < len(header):
                raise ValueError(f"{file}: line {row.line} has {len(row.cells)} columns; expected {len(header)}")
            values = {name: row.cells[place] for name, place in zip(columns.names, places, strict=True)}
            yield _Entry(
                file, f"line {row.line}", row.cells[image], {key: text for key, text in values.items() if text}
            )


def _header(root: Root, path: str, form: Table | None) -> tuple[Dialect, list[str]]:
    """Return the first row, separated by the delimiter that gives the most cells."""
    file, beginning = root.shown(path), _read(root, path, head=True)
    found: list[tuple[Dialect, list[str]]] = []
    faults: list[ValueError] = []
    for dialect in find_dialects(beginning, form):
        try:
            found.append((dialect, next(read_rows(io.BytesIO(beginning), dialect, file=file), Row(0, [])).cells))
        except ValueError as fault:  # quotes that another delimiter may explain
            faults.append(fault)
    if not found:
        raise faults[0]
    return max(found, key=lambda one: len(one[1]))


def _read_parquet(root: Root, path: str, columns: Columns) -> Iterator[_Entry]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    file = root.shown(path)
    try:
        content = ParquetFile(io.BytesIO(_read(root, path)))
        header = content.schema_arrow.names
        image, *places = _places(file, header, columns)
        rows = content.read(columns=[header[place] for place in {image, *places}]).to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:  # the last is of a damaged value
        raise ValueError(f"{KEY}: {file} cannot be read as Parquet ({error})") from None
    yield from _entries(file, rows, header[image], columns, record="row")


def _read_json(root: Root, path: str, columns: Columns) -> Iterator[_Entry]:
    file = root.shown(path)
    try:
        content = json.loads(_read(root, path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{KEY}: {file} cannot be read as JSON ({error})") from None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise ValueError(f"{KEY}: {file} has no list 'images' of objects, as COCO JSON has")
    header = list(dict.fromkeys(chain.from_iterable(images)))
    known = {name for name in columns.names if any(_look_up(image, name) is not None for image in images)}
    image, *_ = _places(file, [*header, *(known - {*header})], columns)
    yield from _entries(file, images, header[image], columns, record="image")


def _entries(
    file: str, rows: Sequence[Mapping[str, Any]], image: str, columns: Columns, *, record: str
) -> Iterator[_Entry]:
    for number, row in enumerate(rows):
        texts = {name: _text(_look_up(row, name), f"{file}: {record} {number}", name) for name in columns.names}
        name = _text(row.get(image), f"{file}: {record} {number}", image)
        yield _Entry(file, f"{record} {number}", name, {key: text for key, text in texts.items() if text})


def _look_up(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key; without such a key, of a path of keys that are joined by dots."""
    if name in row or "." not in name:
        return row.get(name)
    first, _, rest = name.partition(".")
    inner = row.get(first)
    return _look_up(inner, rest) if isinstance(inner, dict) else None


def _text(value: object, where: str, name: str) -> str:
    """Return a value as text, the same for 7, 7.0 and "7"; empty for none."""
    if value is None or value != value:
        return ""
    if isinstance(value, (dict, list)):
        raise ValueError(f"{where} has a {type(value).__name__} as {name!r}; expected text or a number")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _places(file: str, header: Sequence[str], columns: Columns) -> list[int]:
    """Return the places of the image's column and of the wanted ones."""
    image = _image_place(header, columns.image)
    listed = ", ".join(header[:SHOWN]) + (", .." if len(header) > SHOWN else "")
    if image is None:
        wanted = f"for the image ({', '.join(ALIASES['image'])})" if columns.image is None else columns.image
        raise ValueError(f"data.columns.image: {file} has no column {wanted}; its columns are {listed}")
    for name in columns.names:
        if name not in header:
            raise ValueError(f"data.columns.names has {name!r}, but the columns of {file} are {listed}")
    return [image, *(header.index(name) for name in columns.names)]


def _image_place(header: Sequence[str], given: str | None) -> int | None:
    """Return the place of the column that names the image."""
    if given is not None:
        return header.index(given) if given in header else None
    plain = [plain_name(name) for name in header]
    return next((plain.index(name) for name in ALIASES["image"] if name in plain), None)


def _match(root: Root, entries: Sequence[_Entry], images: Iterable[RawImage]) -> dict[str, Values]:
    """Return the values of each image, by path."""
    rows = _merge(root, entries)
    owners: dict[str, str] = {}
    found: dict[str, Values] = {}
    for image in images:
        key = next((key for key in _names(image.path) if key in rows), None)
        if key is None:
            continue
        if owners.setdefault(key, image.path) != image.path:
            raise ValueError(
                f"{rows[key].table}: {rows[key].record} names {rows[key].image!r}, which is {owners[key]} and "
                f"{image.path}; write paths relative to data.root"
            )
        found[image.path] = rows[key].values
    if not found and entries:
        raise ValueError(
            f"{entries[0].table} names none of the images: {entries[0].record} has {entries[0].image!r}; expected "
            "paths relative to data.root, or the ends of such"
        )
    return found


def _merge(root: Root, entries: Sequence[_Entry]) -> dict[str, _Entry]:
    """Return one entry for each name of an image, with the values of all its records."""
    merged: dict[str, _Entry] = {}
    for entry in entries:
        path = root.below("", entry.image)
        name = entry.image if path is None else path
        first = merged.setdefault(name, entry)
        for column, value in entry.values.items():
            if first.values.get(column, value) != value:
                raise ValueError(
                    f"{entry.table}: {entry.record} has {value!r} as {column} of {entry.image}, and {first.record} "
                    f"{first.values[column]!r}; give each image one value"
                )
        merged[name] = first._replace(values=first.values | entry.values)
    return merged


def _names(path: str) -> Iterator[str]:
    """Yield the names that mean an image, the most specific first: ends of its path, each also without suffix."""
    parts = path.split("/")
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        yield end
        yield posixpath.splitext(end)[0]


def _read(root: Root, path: str, *, head: bool = False) -> bytes:
    try:
        return root.head(path, named_by=KEY) if head else root.read(path, named_by=KEY)
    except MISSING:
        raise ValueError(f"{KEY}: there is no file {root.shown(path)}; check data.root and {KEY}") from None
