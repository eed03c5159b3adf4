"""CSV: tables with one box per row, of keras-retinanet, of TensorFlow's object detection, of Open Images, and alike.

Corners are taken as given: width = xmax - xmin. A row with an image and neither class nor box names an image without
objects. Of a table with a column of splits, each split reads its rows. A table with two columns gives ids or names of
classes, for the other files of the split.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

from pipeline.formats.csv_classes import read_classes
from pipeline.formats.csv_columns import ClassFile, Columns, read_columns
from pipeline.formats.csv_text import Numbers, Row, read_rows
from pipeline.formats.image_files import find_images
from pipeline.formats.recognised import SPLIT_WORDS
from pipeline.formats.records import Box, Category, Finding, RawBox, RawImage, RawSplit, SplitFiles, box_text
from pipeline.formats.root import MISSING, Root
from pipeline.params.data import Table

# Characters of a name in a finding.
SHOWN = 100


def read_csv(root: Root, files: SplitFiles, *, split: str, form: Table | None = None) -> RawSplit:
    """Read a table of a split; images and boxes get ids from 1, in the order of the rows.

    Args:
        form: how it is written; None: found.

    Raises:
        ValueError: if its form is unknown or ambiguous, if a quote is not closed, or if it has no row for the split.
    """
    key, file = f"data.{split}.annotations", root.shown(files.annotations)
    try:
        table = read_columns(root.head(files.annotations, named_by=key), file=file, form=form)
        with root.open(files.annotations, named_by=key) as stream:
            rows = read_rows(stream, table.dialect, file=file)
            if table.has_header:
                next(rows)
            if isinstance(table, ClassFile):
                return read_classes(rows, table, file=file)
            content = _Content(root, table, folder=files.images, file=file, split=split)
            for row in rows:
                content.add(row)
    except MISSING:
        raise ValueError(f"{key}: there is no file {file}; check data.root and {key} in params.yaml") from None
    content.check()
    return content.as_split()


class _Content:
    """What the rows of a table say about one split."""

    def __init__(self, root: Root, table: Columns, *, folder: str, file: str, split: str) -> None:
        self._root = root
        self._table = table
        self._folder = folder
        self._file = file
        self._split = split
        self._numbers = Numbers(table.dialect)
        self._ids: dict[str, int] = {}
        self._paths: list[str] = []
        self._sizes: list[tuple[int, int] | None] = []
        self._boxes: list[RawBox] = []
        self._seen: set[tuple[int, str, Box]] = set()
        self._dropped: list[Finding] = []
        self._num_rows = 0
        self._splits: Counter[str] = Counter()
        self._fraction: str | None = None
        self._has_px = table.in_fractions

    def add(self, row: Row) -> None:
        """Add a row of any split."""
        if not self._is_of_split(row.cells):
            return
        self._num_rows += 1
        fault = self._find_fault(row.cells)
        if fault is not None:
            return self._drop(row, fault)
        image_id = self._image_id(row)
        texts = [row.cells[place] for place in self._table.box]
        category = row.cells[self._table.category]
        if any(texts) or category:
            self._add_box(row, image_id, category, texts)

    def _is_of_split(self, cells: list[str]) -> bool:
        place = self._table.split
        if place is None or place >= len(cells):
            return True
        self._splits[cells[place]] += 1
        return SPLIT_WORDS.get(cells[place].lower()) == self._split

    def _find_fault(self, cells: list[str]) -> str | None:
        width = self._table.width
        if len(cells) < width or any(cells[width:]):
            return f"{len(cells)} columns; expected {width}"
        return None if cells[self._table.image] else "no name of an image"

    def _image_id(self, row: Row) -> int:
        """Return the number of a row's image, which may be new."""
        name = row.cells[self._table.image]
        if name not in self._ids:
            path = self._root.below(self._folder, name)
            if path is None:
                raise ValueError(
                    f"{self._file}: line {row.line} names the image {name[:SHOWN]!r}, which is outside data.root; "
                    f"write paths relative to data.{self._split}.images"
                )
            self._paths.append(path)
            self._sizes.append(self._size(row))
            self._ids[name] = len(self._paths)
        return self._ids[name]

    def _size(self, row: Row) -> tuple[int, int] | None:
        if self._table.size is None:
            return None
        width, height = (self._numbers.read(row.cells[place], line=row.line) for place in self._table.size)
        return (int(width), int(height)) if width.is_integer() and height.is_integer() else None

    def _add_box(self, row: Row, image_id: int, category: str, texts: list[str]) -> None:
        x, y, third, fourth = (self._numbers.read(text, line=row.line) for text in texts)
        self._note_unit(texts, (x, y, third, fourth))
        box = self._table.as_box((x, y, third, fourth))
        key = (image_id, category, box)
        if key in self._seen:
            return self._drop(row, "repeated row; the first is kept", box_text(box))
        self._seen.add(key)
        is_crowd = self._table.crowd is not None and row.cells[self._table.crowd].lower() in ("1", "true")
        fractions = self._table.in_fractions
        number, record = len(self._boxes) + 1, f"line {row.line}"
        self._boxes.append(
            RawBox(number, image_id, category, box, record, iscrowd=int(is_crowd), in_fractions=fractions)
        )

    def _note_unit(self, texts: list[str], numbers: Box) -> None:
        """Note whether a number exceeds 1, as those in px do, and otherwise the first box with a fraction."""
        if not self._has_px:
            self._has_px = any(number > 1 for number in numbers)
            if self._fraction is None and any(0 < number < 1 for number in numbers):
                self._fraction = ", ".join(texts)

    def _drop(self, row: Row, reason: str, box: str = "") -> None:
        image, category = (
            row.cells[place][:SHOWN] if place < len(row.cells) else ""
            for place in (self._table.image, self._table.category)
        )
        record = f"line {row.line}"
        self._dropped.append(Finding(self._split, self._file, image, record, category, box, reason))

    def check(self) -> None:
        """Check what only all rows together show.

        Raises:
            ValueError: for a split without rows, decimal commas beside decimal points, or fractions in place of px.
        """
        key = f"data.{self._split}.annotations: {self._file}"
        if not self._num_rows and self._table.split is not None:
            words = ", ".join(repr(word[:SHOWN]) for word in islice(self._splits, 5)) or "no row"
            raise ValueError(
                f"{key} has no row of {self._split} in its column of splits, but {words}; name another file"
            )
        if not self._num_rows:
            raise ValueError(f"{key} has no row below its header; name a file with rows")
        self._numbers.check(file=self._file)
        if self._fraction is not None and not self._has_px:
            raise ValueError(
                f"{key}: no number of its boxes exceeds 1, as in {self._fraction[:SHOWN]}, so they are fractions of "
                "the image's sides; write px, or call the columns of image and class ImageID and LabelName, as Open "
                "Images does, whose boxes are fractions"
            )

    def as_split(self) -> RawSplit:
        """Return images and boxes; names that mean one file are one image."""
        found = find_images(self._root, self._paths, named_by=self._file)
        sizes = dict(zip(reversed(found), reversed(self._sizes), strict=True))
        numbers = {path: number for number, path in enumerate(dict.fromkeys(found), start=1)}
        boxes = self._boxes
        if len(numbers) < len(found):
            boxes = [replace(box, image_id=numbers[found[box.image_id - 1]]) for box in boxes]
        return RawSplit(
            categories=[Category(None, name) for name in sorted({box.category for box in boxes} - {""})],
            images=[RawImage(number, path, sizes[path], self._file) for path, number in numbers.items()],
            boxes=boxes,
            num_images=len(numbers),
            num_boxes=len(boxes) + len(self._dropped),
            dropped=self._dropped,
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        others = {word: count for word, count in self._splits.items() if word.lower() not in SPLIT_WORDS}
        listed = ", ".join(f"{count} rows of {word[:SHOWN]!r}" for word, count in islice(others.items(), 5))
        return [f"{self._file}: {listed} belong to no split and are not read"] if others else []
