"""Tables with two columns: classes with ids, or Open Images' identifiers of classes with their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline.formats.csv_columns import ClassFile
from pipeline.formats.csv_text import Row
from pipeline.formats.records import Category, RawSplit

# At most 18 digits: a 64-bit integer.
CLASS_ID = re.compile("-?[0-9]{1,18}")
# Characters of a name in a message.
SHOWN = 100


def read_classes(rows: Iterator[Row], table: ClassFile, *, file: str) -> RawSplit:
    """Return the classes of a class file, or the names of Open Images' identifiers; no images.

    Two identifiers with one name stay two classes: the name is followed by the identifier.

    Raises:
        ValueError: for a row of another form, and for a repeated class or id.
    """
    entries = [_read_entry(row, table, file=file) for row in rows]
    _check_once([first for first, _ in entries], file=file)
    if table.gives_ids:
        _check_once([int(number) for _, number in entries], file=file)
        return RawSplit([Category(int(number), name) for name, number in entries], [], [], 0, 0)
    times = Counter(name for _, name in entries)
    names = {code: name if times[name] == 1 else f"{name} ({code})" for code, name in entries}
    return RawSplit([], [], [], 0, 0, class_names=names)


def _read_entry(row: Row, table: ClassFile, *, file: str) -> tuple[str, str]:
    cells = row.cells
    is_pair = len(cells) == 2 and all(cells)
    if not is_pair or (table.gives_ids and not CLASS_ID.fullmatch(cells[1])):
        expected = "class,id with an integer id" if table.gives_ids else "identifier,name"
        raise ValueError(
            f"{file}: line {row.line} is {table.dialect.delimiter.join(cells)[:SHOWN]!r}; expected {expected}"
        )
    return cells[0], cells[1]


def _check_once(values: Sequence[object], *, file: str) -> None:
    value, count = Counter(values).most_common(1)[0] if values else ("", 1)
    if count > 1:
        raise ValueError(
            f"{file} has {str(value)[:SHOWN]!r} {count} times; list each class once, with an id of its own"
        )
