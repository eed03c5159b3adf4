"""Laws of the columns of images: each kind of table says the same, names find images, a mistake is named."""

from __future__ import annotations

import io
import json
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings

from pipeline.cli.command import is_sentence
from pipeline.formats import SplitFiles, read_splits
from pipeline.formats.image_columns import read_image_columns
from pipeline.formats.records import RawImage
from pipeline.formats.root import Root
from pipeline.params.data import Columns
from tests.pipeline.formats.test_fuzzed_files import Mutation, mutations

ROWS = [
    {"file_name": "a.png", "patient": 7, "site": "north"},
    {"file_name": "b.png", "patient": None, "site": "south; left"},
    {"file_name": "c.png", "patient": 8, "site": None},
]
FOUND = {
    "train/a.png": {"patient": "7", "site": "north"},
    "train/b.png": {"site": "south; left"},
    "train/c.png": {"patient": "8"},
}
CSV = 'site,file_name,patient\nnorth,a.png,7\n"south; left",b.png,\n,c.png,8\n'


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


TABLES: dict[str, str | bytes] = {
    "t.csv": CSV,
    "semicolons.csv": 'site;file_name;patient\nnorth;a.png;7\n"south; left";b.png;\n;c.png;8\n',
    "t.tsv": CSV.replace(",", "\t"),
    "t.parquet": parquet(),
    "t.json": json.dumps({"images": [{"id": 3, **row} for row in ROWS]}),
}


def read(source: Any, table: str, *paths: str, names: tuple[str, ...] = ("patient", "site"), **more: Any) -> Any:
    images = [RawImage(number, path, None, "x") for number, path in enumerate(paths or FOUND)]
    columns = Columns(names=list(names), table=table, image=more.get("image"))
    return read_image_columns(Root(str(source.root)), columns, {"train": images}, {})


@pytest.mark.parametrize("table", TABLES)
def test_every_kind_of_table_gives_the_same_text(table: str, source: Any) -> None:
    source.write(table, TABLES[table])
    assert read(source, table) == FOUND


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a.png", "train/a.png"),
        ("a", "train/a.png"),
        ("train/a.png", "train/a.png"),
        ("train\\a.png", "train/a.png"),
        ("./train/a", "train/a.png"),
        ("deep/a.png", "train/deep/a.png"),
    ],
)
def test_an_image_is_named_by_its_path_or_its_end(written: str, path: str, source: Any) -> None:
    source.write("t.csv", f"filename,site\n{written},north\nother.png,south\n")
    assert read(source, "t.csv", path, "train/b.png", names=("site",)) == {path: {"site": "north"}}


def test_absolute_path_below_the_root_names_its_image(source: Any) -> None:
    source.write("t.csv", f"path,site\n{source.root}/train/a.png,north\n")
    assert read(source, "t.csv", "train/a.png", names=("site",)) == {"train/a.png": {"site": "north"}}


def test_the_most_specific_name_counts(source: Any) -> None:
    source.write("t.csv", "file,site\na.png,root\ntrain/a.png,train\n")
    found = read(source, "t.csv", "train/a.png", "a.png", names=("site",))
    assert {path: values["site"] for path, values in found.items()} == {"train/a.png": "train", "a.png": "root"}


def test_table_of_boxes_says_the_same_in_all_rows_of_an_image(source: Any) -> None:
    source.write("t.csv", "file,x,site\na.png,1,north\nb.png,2,south\na.png,3,\n")
    found = read(source, "t.csv", "a.png", "b.png", names=("site",))
    assert found == {"a.png": {"site": "north"}, "b.png": {"site": "south"}}


def test_field_inside_an_object(source: Any) -> None:
    source.write("t.json", json.dumps({"images": [{"file_name": "a.png", "extra": {"name": "x", "flag": True}}]}))
    found = read(source, "t.json", "a.png", names=("extra.name", "extra.flag"))
    assert found == {"a.png": {"extra.name": "x", "extra.flag": "true"}}


@pytest.mark.parametrize(
    ("table", "names", "image", "sentence"),
    [
        (CSV, ("pat",), None, r"names has 'pat', but the columns of .*t\.csv are site, file_name, patient"),
        (CSV, ("site",), "slide", r"t\.csv has no column slide; its columns are site, file_name, patient"),
        ("who,site\n", ("site",), None, r"columns\.image: .*t\.csv has no column for the image \(filename, .*\); its"),
        ("file,site\nx.png,n\n", ("site",), None, r"names none of the images: line 2 has 'x\.png'; expected paths"),
        ("file,site\n../a.png,n\n", ("site",), None, r"names none of the images: line 2 has '\.\./a\.png'"),
        ("file,site\na.png,n\na.png,s\n", ("site",), None, r"line 3 has 's' as site of a\.png, and line 2 'n'; give"),
        ("file,site\nd.png,n\n", ("site",), None, r"line 2 names 'd\.png', which is train/d\.png and val/d\.png;"),
        ("file,site\na.png\n", ("site",), None, r"line 2 has 1 columns; expected 2"),
        ('file,site\n"a.png,n\n', ("site",), None, r"line 2 cannot be read as CSV .*; correct its quotes"),
        ("", ("site",), None, r"has no column for the image"),
        (b"\xff\xd8", ("site",), None, r"is not UTF-8 text"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    table: str | bytes, names: tuple[str, ...], image: str | None, sentence: str, source: Any
) -> None:
    source.write("t.csv", table)
    with pytest.raises(ValueError, match=sentence):
        read(source, "t.csv", "a.png", "train/d.png", "val/d.png", names=names, image=image)


@pytest.mark.parametrize(
    ("table", "content", "sentence"),
    [
        ("gone.csv", None, r"data\.columns\.table: there is no file .*gone\.csv; check data\.root and data\.columns"),
        ("../t.csv", None, r"data\.columns\.table names '\.\./t\.csv', which is not a relative path below"),
        ("t.parquet", b"PAR", r"t\.parquet cannot be read as Parquet \("),
        ("t.json", b"{", r"t\.json cannot be read as JSON \("),
        ("t.json", b'{"images": [3]}', r"t\.json has no list 'images' of objects, as COCO JSON has"),
        ("t.json", b'{"images": [{"file_name": "a", "site": [1]}]}', r"image 0 has a list as 'site'; expected text"),
        ("t.json", b'{"images": [{"file_name": "a"}]}', r"has 'site', but the columns of .*t\.json are file_name"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read_are_named(table: str, content: bytes | None, sentence: str, source: Any) -> None:
    source.root.mkdir()
    if content is not None:
        source.write(table, content)
    with pytest.raises(ValueError, match=sentence):
        read(source, table, names=("site",))


def test_annotation_files_are_the_table_of_their_own_split(source: Any) -> None:
    """Both splits have an image of this name."""
    for split, site in (("train", "north"), ("val", "south")):
        source.write(f"{split}/a.png", source.png(len(split)))
        source.write(f"{split}.json", source.coco([source.image(1, site=site)], [source.box(1)]))
    files = {split: SplitFiles(f"{split}.json", split) for split in ("train", "val")}
    columns = Columns(names=["site"], table=None, image=None)
    splits, _ = read_splits("coco", str(source.root), files, columns=columns)
    found = {image["file_name"]: image["columns"] for split in splits.values() for image in split.coco["images"]}
    assert found == {"train/a.png": {"site": "north"}, "val/a.png": {"site": "south"}}


def test_column_of_csv_annotations_beside_a_class_file(source: Any) -> None:
    source.write("images/a.png", source.png())
    source.write("t.csv", "image,class,x1,y1,x2,y2,patient\na.png,rod,1,2,4,6,7\na.png,rod,2,2,5,6,7\n")
    source.write("classes.csv", "class,id\nrod,0\n")
    files = {"train": SplitFiles("t.csv", "images", ("classes.csv",))}
    columns = Columns(names=["patient"], table=None, image=None)
    split = read_splits("csv", str(source.root), files, columns=columns)[0]["train"]
    assert [image["columns"] for image in split.coco["images"]] == [{"patient": "7"}]
    assert len(split.coco["annotations"]) == 2


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=40)
@given(mutation=mutations)
def test_mutated_tables_give_text_of_images_or_one_sentence(table: str, mutation: Mutation) -> None:
    whole = TABLES[table]
    content = mutation.of(whole.encode() if isinstance(whole, str) else whole)
    fsspec.filesystem("memory").pipe_file(f"/mutated/{table}", content)
    images = [RawImage(number, path, None, "x") for number, path in enumerate(FOUND)]
    columns = Columns(names=["patient", "site"], table=table, image=None)
    try:
        found = read_image_columns(Root("memory://mutated"), columns, {"train": images}, {})
    except ValueError as raised:
        error = raised
    else:
        assert found.keys() <= FOUND.keys()
        assert all(isinstance(text, str) and text for values in found.values() for text in values.values())
        return
    assert is_sentence(error)


def test_damaged_value_of_a_parquet_file_is_a_sentence(source: Any) -> None:
    """It once ended in a UnicodeDecodeError."""
    source.write("t.parquet", TABLES["t.parquet"].replace(b"north", b"\xf4orth"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read as Parquet \('utf-8' codec") as error:
        read(source, "t.parquet")
    assert is_sentence(error.value)
