"""What the first row of a table says: header or not, and which column holds what.

The delimiter is the one of comma, semicolon, tab and pipe under which the first row is of a known form.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.formats.csv_text import DELIMITERS, Dialect, Row, find_dialects, parse_decimal, read_rows
from pipeline.formats.records import Box
from pipeline.params.data import Table

# Names of columns, without case, spaces and punctuation, and without a leading bbox or box. The first found counts.
ALIASES = {
    "image": ("filename", "file", "filepath", "path", "imagepath", "imagename", "imagefile", "image", "img", "imageid"),
    "class": ("class", "classname", "label", "labelname", "category", "categoryname", "celltype", "name"),
    "split": ("split", "set", "subset"),
    "crowd": ("isgroupof", "iscrowd"),
    "xmin": ("xmin", "x1", "left"),
    "ymin": ("ymin", "y1", "top"),
    "xmax": ("xmax", "x2", "right"),
    "ymax": ("ymax", "y2", "bottom"),
    "x": ("x", "xmin", "x1", "left"),
    "y": ("y", "ymin", "y1", "top"),
    "xcenter": ("xcenter", "xcentre", "centerx", "centrex", "cx"),
    "ycenter": ("ycenter", "ycentre", "centery", "centrey", "cy"),
    "w": ("w", "width"),
    "h": ("h", "height"),
    "image width": ("imagewidth", "imgwidth", "imagew", "imgw", "width"),
    "image height": ("imageheight", "imgheight", "imageh", "imgh", "height"),
}
# With corners x0, y0, x1, y1, the second corner is x1, y1.
FROM_ZERO = {"x0": "xmin", "y0": "ymin", "x1": "xmax", "y1": "ymax"}
ID_NAMES = ("id", "classid", "index", "classindex")
OPEN_IMAGES = {"imageid", "labelname"}
EXPECTED = (
    "a header with columns for image, class and box; or rows path,x1,y1,x2,y2,class; or a class file with rows "
    "class,id; or Open Images' class descriptions"
)
# Characters of a first row in a message.
SHOWN = 200

Numbers4 = tuple[float, float, float, float]


class Columns(NamedTuple):
    """Columns of a table of boxes, by their place from 0."""

    dialect: Dialect
    has_header: bool
    width: int
    """number of columns"""
    image: int
    category: int
    box: tuple[int, int, int, int]
    as_box: Callable[[Numbers4], Box]
    """the numbers of these columns -> x, y, w, h"""
    size: tuple[int, int] | None = None
    """width and height of the image"""
    split: int | None = None
    crowd: int | None = None
    in_fractions: bool = False


class ClassFile(NamedTuple):
    """A table of classes: name and id, or, of Open Images, identifier and name."""

    dialect: Dialect
    has_header: bool
    gives_ids: bool


def read_columns(beginning: bytes, *, file: str, form: Table | None = None) -> Columns | ClassFile:
    """Find the delimiter and the columns of a table by its first row.

    Args:
        beginning: the first bytes of the file, at least that row
        file: its name in messages
        form: how the table is written, as far as that is given

    Raises:
        ValueError: if the first row is of no known form, or of one under several delimiters; with what it lacks.
    """
    found: list[Columns | ClassFile] = []
    faults: list[tuple[int, str]] = []  # the more cells, the more likely its delimiter
    for dialect in find_dialects(beginning, form):
        try:
            cells = next(read_rows(io.BytesIO(beginning), dialect, file=file), Row(0, [])).cells
        except ValueError as error:
            faults.append((1, str(error)))
            continue
        try:
            found.append(_interpret(cells, dialect))
        except ValueError as error:
            faults.append((len(cells) if len(cells) > 1 else 0, f"{file} {error}"))
    if len(found) > 1:
        names = " and by ".join(DELIMITERS[one.dialect.delimiter] for one in found)
        raise ValueError(
            f"{file} can be separated by {names}; put cells with such a character in quotes, or set data.csv.delimiter"
        )
    if not found:
        raise ValueError(max(faults, key=lambda fault: fault[0])[1])
    return found[0]


def _interpret(cells: list[str], dialect: Dialect) -> Columns | ClassFile:
    """Return what a first row says; raise a ValueError with what it lacks."""
    if not cells:
        raise ValueError(f"is empty; expected {EXPECTED}")
    is_number = [_is_number(cell, dialect) for cell in cells]
    if _is_plain_row(cells, is_number):
        return Columns(dialect, has_header=False, width=6, image=0, category=5, box=(1, 2, 3, 4), as_box=_from_corners)
    if len(cells) == 2:
        return _interpret_pair(cells, dialect)
    if any(is_number):
        raise ValueError(f"has the first row {dialect.delimiter.join(cells)[:SHOWN]!r}; expected {EXPECTED}")
    return _interpret_header(cells, dialect)


def _is_number(cell: str, dialect: Dialect) -> bool:
    number = parse_decimal(cell, dialect)
    return number == number


def _is_plain_row(cells: list[str], is_number: list[bool]) -> bool:
    """Return whether a row is path,x1,y1,x2,y2,class or path,,,,, for an image without objects."""
    name, *corners, category = cells[:6] if len(cells) >= 6 else ["", ""]
    is_box = all(is_number[1:5]) and bool(category)
    return bool(name) and not any(cells[6:]) and (is_box or not (any(corners) or category))


def _interpret_pair(cells: list[str], dialect: Dialect) -> ClassFile:
    first, second = map(plain_name, cells)
    if re.fullmatch("-?[0-9]+", cells[1]):
        return ClassFile(dialect, has_header=False, gives_ids=True)
    if first in ALIASES["class"] and second in ID_NAMES:
        return ClassFile(dialect, has_header=True, gives_ids=True)
    if (first, second) == ("labelname", "displayname"):
        return ClassFile(dialect, has_header=True, gives_ids=False)
    if re.fullmatch("/[a-z]+/[A-Za-z0-9_]+", cells[0]):
        return ClassFile(dialect, has_header=False, gives_ids=False)
    raise ValueError(f"has the first row {dialect.delimiter.join(cells)[:SHOWN]!r}; expected {EXPECTED}")


def _interpret_header(cells: list[str], dialect: Dialect) -> Columns:
    names = _column_names(cells)
    place = {role: _find(role, names) for role in ALIASES}
    box = _find_box(place)
    missing = [role for role in ("image", "class") if place[role] is None]
    lacks = [f"{role} ({', '.join(ALIASES[role])})" for role in missing] + ([] if box else [_box_lacks(place)])
    if lacks or box is None:
        shown = dialect.delimiter.join(cells)[:SHOWN]
        raise ValueError(f"has the header {shown!r}, but no column for {' and none for '.join(lacks)}")
    columns, as_box = box
    size = (place["image width"], place["image height"])
    has_size = None not in size and not set(size) & set(columns)
    return Columns(
        dialect,
        has_header=True,
        width=len(cells),
        image=place["image"] or 0,
        category=place["class"] or 0,
        box=columns,
        as_box=as_box,
        size=(size[0] or 0, size[1] or 0) if has_size else None,
        split=place["split"],
        crowd=place["crowd"],
        in_fractions=set(names) >= OPEN_IMAGES,
    )


def _column_names(cells: Sequence[str]) -> list[str]:
    """Return the names of the columns as in ALIASES; those of a box's sides are w and h."""
    names = []
    for cell in cells:
        name = plain_name(cell)
        inner = name.removeprefix("bbox").removeprefix("box")
        names.append({"width": "w", "height": "h"}.get(inner, inner) if inner != name and inner else name)
    return [FROM_ZERO.get(name, name) for name in names] if "x0" in names else names


def plain_name(cell: str) -> str:
    """Return the name of a column without case, spaces and punctuation."""
    return re.sub(r"[\W_]", "", cell.lower())


def _find(role: str, names: Sequence[str]) -> int | None:
    """Return the place of the first of a role's names that the header has."""
    for name in ALIASES[role]:
        if names.count(name) > 1:
            raise ValueError(f"has the column {name!r} twice; name each column once")
        if name in names:
            return names.index(name)
    return None


def _find_box(place: dict[str, int | None]) -> tuple[tuple[int, int, int, int], Callable[[Numbers4], Box]] | None:
    """Return the columns of a box: its corners, else a corner and its sides, else its centre and its sides."""
    for roles, as_box in BOXES.items():
        x, y, third, fourth = (place[role] for role in roles)
        if x is not None and y is not None and third is not None and fourth is not None:
            return (x, y, third, fourth), as_box
    return None


def _box_lacks(place: dict[str, int | None]) -> str:
    """Return which columns of a box are missing: of its corners, if it has one of the second corner."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    if place["xmax"] is not None or place["ymax"] is not None:
        return " and none for ".join(f"{role} ({', '.join(ALIASES[role])})" for role in corners if place[role] is None)
    return "the box (xmin, ymin, xmax, ymax; or x, y, w, h)"


def _from_corners(numbers: Numbers4) -> Box:
    x1, y1, x2, y2 = numbers
    return (x1, y1, x2 - x1, y2 - y1)


def _from_corner(numbers: Numbers4) -> Box:
    return numbers


def _from_centre(numbers: Numbers4) -> Box:
    x, y, w, h = numbers
    return (x - w / 2, y - h / 2, w, h)


BOXES: dict[tuple[str, str, str, str], Callable[[Numbers4], Box]] = {
    ("xmin", "ymin", "xmax", "ymax"): _from_corners,
    ("x", "y", "w", "h"): _from_corner,
    ("xcenter", "ycenter", "w", "h"): _from_centre,
}
