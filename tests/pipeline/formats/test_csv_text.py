"""Laws of a table as text: delimiter, quotes, encoding, decimal mark; what is written is read; no input breaks it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.cli.command import is_sentence
from pipeline.formats import Split, SplitFiles, read_splits
from pipeline.params.data import Table
from tests.pipeline.formats.conftest import Source
from tests.pipeline.formats.test_csv import OPEN_IMAGES, boxes, read

FORM = Table(delimiter=None, quote=None, decimal=None)
PICTURE = Source(Path()).png()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_the_one_under_which_the_first_row_makes_sense(source: Any, delimiter: str) -> None:
    rows = [["a.png", "1", "2", "4", "6", "a rod"], ["b.png", "", "", "", "", ""]]
    header = ["filename", "xmin", "ymin", "xmax", "ymax", "class"]
    for table in (rows, [header, *rows]):
        split = read(source, "\r\n".join(map(delimiter.join, table)))
        assert boxes(split) == [["a.png", "a rod", 1, 2, 3, 4]]
        assert len(split.coco["images"]) == 2


def test_quotes_hold_delimiters_and_quotes(source: Any) -> None:
    split = read(source, '"a.png", "1",2,4,6,"rod, ""long"" | a;b"\n')
    assert boxes(split) == [["a.png", 'rod, "long" | a;b', 1, 2, 3, 4]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_text_is_utf8_or_has_a_byte_order_mark(source: Any, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    split = read(source, f"{mark}filename,class,x,y,w,h\na.png,r\u00f6d,1,2,3,4\n".encode(encoding))
    assert boxes(split) == [["a.png", "r\u00f6d", 1, 2, 3, 4]]


def test_comma_is_a_decimal_mark_where_it_is_not_the_delimiter(source: Any) -> None:
    assert boxes(read(source, "a.png;1,5;2;4,25;6;rod")) == [["a.png", "rod", 1.5, 2, 2.75, 4]]
    dropped = read(source, "a.png;1;2;4;6;rod\na.png;1,5;2;1.004,25;6;rod").dropped
    assert [finding.reason for finding in dropped] == ["not four finite numbers"]
    with pytest.raises(ValueError, match=r"line 1 has 1,5 and line 2 has 4\.25, so it is not known whether the comma"):
        read(source, "a.png;1,5;2;4;6;rod\na.png;1;2;4.25;6;rod")


@pytest.mark.parametrize(
    ("table", "form"),
    [
        ("a.png:1:2:4:6:rod", {"delimiter": ":"}),
        ("a.png;1;2;4;6;rod,1,2,4,6,x", {"delimiter": ";"}),  # a comma would do, too
        ("a.png,'1,0','2','4,0','6','rod'", {"quote": "'", "decimal": ","}),
        ("a.png;1;2;4,0;6;rod", {"decimal": ","}),
        ("a.png;1;2;4.0;6;rod", {"decimal": "."}),
    ],
)
def test_given_form_is_that_of_the_table(source: Any, table: str, form: dict[str, str]) -> None:
    (box,) = boxes(read(source, table, form=FORM.model_copy(update=form)))
    assert [box[0], box[1].partition(",")[0], *box[2:]] == ["a.png", "rod", 1, 2, 3, 4]


def test_quotes_are_ordinary_characters_where_there_are_none(source: Any) -> None:
    table = 'a.png,1,2,4,6,"rod\na.png,2,2,5,6,"rod\n'
    assert boxes(read(source, table, form=FORM.model_copy(update={"quote": "none"}))) == [
        ["a.png", '"rod', 1, 2, 3, 4],
        ["a.png", '"rod', 2, 2, 3, 4],
    ]


def test_the_other_mark_makes_no_number_where_the_decimal_mark_is_given(source: Any) -> None:
    """Without it this table would be refused, because both marks occur."""
    table = "a.png;0;2;4;6;rod\na.png;1,5;2;4;6;rod\na.png;1;2;4.25;6;rod"
    for mark, kept in ((",", 1.5), (".", 1)):
        split = read(source, table, form=FORM.model_copy(update={"decimal": mark}))
        assert [box[2] for box in boxes(split)] == [0, kept]
        assert [finding.reason for finding in split.dropped] == ["not four finite numbers"]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"a.png,1,2,4,6,r\xf6d", r"is not UTF-8 text .*; save it as UTF-8"),
        (b"\xff\xfea", "is not UTF-8 text"),
        (b'a.png,1,2,4,6,rod\na.png,1,2,4,6,"rod\n', r"line 2 cannot be read as CSV .*; correct its quotes"),
        (b'a.png,1,2,4,6,"rod\na.png,1,2,4,6,"rod"\n', r"line 2 cannot be read as CSV"),
        (b'a.png,1,2,4,6,"rod', r"line 1 cannot be read as CSV"),
        (b'a,1,2,4,6,rod\nb,1,2,4,6,"rod\nb,1,2,4,6,rod\nb,1,2,4,6,"\n', r"begins in line 2 ends in line 4; close its"),
        (b"a.png,1,2,4,6," + b"x" * 200_000, "cannot be read as CSV"),
        (b"rod,1|x", r"has the first row 'rod,1\|x'"),
    ],
)
def test_text_that_would_lose_rows_is_one_sentence(source: Any, table: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        read(source, table)
    assert is_sentence(raised.value)
    assert "table0.csv" in str(raised.value)


def test_table_that_two_delimiters_separate_is_refused(source: Any) -> None:
    with pytest.raises(
        ValueError, match="can be separated by comma and by semicolon; put cells with such a character in"
    ):
        read(source, "a.png,1,2,4,6,rod;1;2;4;6;rod")


# ---- round trips -----------------------------------------------------------------------------------------------------

SIDES = st.integers(0, 15), st.integers(0, 6), st.integers(1, 5), st.integers(1, 3)
WHOLE = st.tuples(*SIDES).map(lambda box: tuple(map(float, box)))
SHIFTED = WHOLE.map(lambda box: (box[0] + 0.25, box[1] + 0.125, box[2] - 0.5, box[3] - 0.0625))
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
TABLES = st.lists(
    st.tuples(st.sampled_from(["a.png", "b.png"]), NAMES, WHOLE | SHIFTED), min_size=1, max_size=8, unique=True
)

Rows = list[tuple[str, str, tuple[float, float, float, float]]]


def as_table(rows: Rows, form: str) -> list[list[object]]:
    """The rows of a table of one of the forms; an image has 20 x 10 px."""
    made = []
    for image, name, (x, y, w, h) in rows:
        made.append(
            {
                "keras": [image, x, y, x + w, y + h, name],
                "tensorflow": [image, 20, 10, name, x, y, x + w, y + h],
                "corner": [h, w, y, x, name, image],
                "centre": [name, x + w / 2, y + h / 2, w, h, image],
                "open images": [image[0], "x", name, 1, x / 20, (x + w) / 20, y / 10, (y + h) / 10, 0, 0, 0, 0],
            }[form]
        )
    headers = {
        "keras": [],
        "tensorflow": [["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]],
        "corner": [["height", "width", "y", "x", "label", "file_name"]],
        "centre": [["name", "cx", "cy", "w", "h", "path"]],
        "open images": [OPEN_IMAGES.strip().split(",")],
    }
    return [*headers[form], *made]


def written(table: Sequence[Sequence[object]], delimiter: str, comma: bool, quoting: Any) -> bytes:
    text = io.StringIO()
    cells = [[str(c).replace(".", ",") if comma and isinstance(c, float) else c for c in row] for row in table]
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows(cells)
    return text.getvalue().encode()


def read_bytes(data: bytes, *more: bytes) -> Split:
    store = fsspec.filesystem("memory")
    files = {f"/csv/{number}.csv": content for number, content in enumerate((data, *more))}
    store.pipe(files | {"/csv/a.png": PICTURE, "/csv/b.png": PICTURE})
    names = [name.removeprefix("/csv/") for name in files]
    try:
        return read_splits("csv", "memory://csv", {"train": SplitFiles(names[0], "", tuple(names[1:]))})[0]["train"]
    finally:
        store.rm("/csv", recursive=True)


@settings(max_examples=150, deadline=None)
@given(
    rows=TABLES,
    form=st.sampled_from(["keras", "tensorflow", "corner", "centre", "open images"]),
    delimiter=st.sampled_from(",;\t|"),
    has_commas=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_boxes_written_in_any_form_are_read(
    rows: Rows, form: str, delimiter: str, has_commas: bool, quoting: Any
) -> None:
    split = read_bytes(written(as_table(rows, form), delimiter, has_commas and delimiter != ",", quoting))
    assert boxes(split) == [[image, name, *map(pytest.approx, box)] for image, name, box in rows]
    assert not split.dropped and not split.clipped and not split.resized


# ---- mutations -------------------------------------------------------------------------------------------------------

TABLE = (
    b'filename,width,height,class,xmin,ymin,xmax,ymax,split\na.png,20,10,rod,1,2,4,6,train\nb,20,10,"d",0,0,9,9,val\n'
)
PLAIN = b"a.png;1,5;2;4;6;rod\nb.png;;;;;\na.png;0;0;20;10;disc\n"
GROUPS = OPEN_IMAGES.encode() + b"a,x,/m/1,1,0.05,0.2,0.2,0.6,0,0,0,0\nb,x,/m/2,1,0,1,0,1,-1,0,1,0\n"
STARTS = [(TABLE,), (PLAIN, b"rod;1\ndisc;0\n"), (GROUPS, b"/m/1,Rod\n/m/2,Disc\n")]
PIECES = st.sampled_from(
    [
        *("a.png,1,2,4,6,rod\n", '"', '""', ",", ";", "\t", "|", "\n", "\r", " ", "\0", "\ufeff"),
        *("nan", "1e999", "-", "_", "9" * 30, "0.5", "1,5", "../", "%2e%2e/", "://", "::", "test", "x0", "w"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from(STARTS),
    which=st.integers(0, 1),
    place=st.integers(0, 240),
    cut=st.integers(0, 40),
    put=st.one_of(st.binary(max_size=12), st.lists(PIECES, max_size=6).map(lambda pieces: "".join(pieces).encode())),
)
@example(start=STARTS[0], which=0, place=0, cut=240, put=b"")
def test_mutated_table_gives_valid_boxes_or_one_sentence(
    start: tuple[bytes, ...], which: int, place: int, cut: int, put: bytes
) -> None:
    files = list(start)
    which = min(which, len(files) - 1)
    files[which] = files[which][:place] + put + files[which][place + cut :]
    try:
        split, error = read_bytes(*files), None
    except ValueError as raised:
        split, error = None, raised
    assert error is None or is_sentence(error)
    if split is not None:
        check_books(split)


def check_books(split: Split) -> None:
    """Every box kept is inside its image, and every box of the source is kept or reported."""
    json.dumps(split.coco, allow_nan=False)
    for x, y, w, h in (box["bbox"] for box in split.coco["annotations"]):
        assert -1e-6 <= x < x + w <= 20 + 1e-6 and -1e-6 <= y < y + h <= 10 + 1e-6
    lost = sum(int(each.reason.split("its ")[1].split()[0]) for each in split.dropped if " boxes are" in each.reason)
    rows = sum(each.record != "image" for each in split.dropped)
    assert split.num_boxes == len(split.coco["annotations"]) + rows + lost + sum(split.not_chosen.values())
