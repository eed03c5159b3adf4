"""Laws of what `auto` takes for tables of boxes: with their splits, class files and images, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.formats import SplitFiles
from pipeline.formats.looking import look
from pipeline.formats.root import Root
from tests.pipeline.formats.test_csv import OPEN_IMAGES

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
ROW = "a.png,20,10,rod,1,2,4,6\n"


def seen(source: Any, **files: str) -> dict[str, SplitFiles]:
    """The files of each split of a folder with the image a.png in images/ and these tables, by name."""
    source.write("images/a.png", source.png())
    for name, text in files.items():
        source.write(f"{name}.csv", text)
    found = look(Root(str(source.root)))
    assert found.format == "csv"
    return found.files


def test_tables_are_of_the_split_that_their_name_tells(source: Any) -> None:
    files = {"train": HEADER + ROW, "valid": HEADER + ROW, "submission": "filename,class\na.png,rod\n"}
    assert seen(source, **files) == {
        "train": SplitFiles("train.csv", "images"),
        "val": SplitFiles("valid.csv", "images"),
    }


def test_class_file_goes_with_the_tables_whose_classes_it_has(source: Any) -> None:
    files = {"annotations": "a.png,,,,,\na.png,1,2,4,6,rod\n", "classes": "rod,0\ndisc,1\n", "epochs": "one,3\ntwo,4\n"}
    assert seen(source, **files) == {"train": SplitFiles("annotations.csv", "images", ("classes.csv",))}


def test_roboflow_has_a_table_and_a_class_file_in_the_folder_of_each_split(source: Any) -> None:
    for folder in ("train", "valid"):
        source.write(f"{folder}/a.png", source.png())
        source.write(f"{folder}/_annotations.csv", "a.png,1,2,4,6,rod\n")
        source.write(f"{folder}/_classes.csv", "rod,0\n")
    both = "train/_classes.csv", "valid/_classes.csv"
    assert look(Root(str(source.root))).files == {
        "train": SplitFiles("train/_annotations.csv", "train", both[:1]),
        "val": SplitFiles("valid/_annotations.csv", "valid", both[1:]),
    }


def test_column_of_splits_gives_the_splits(source: Any) -> None:
    table = "file,class,x,y,w,h,split\n" + "a.png,rod,1,2,3,4,train\n" * 200 + "a.png,rod,1,2,3,4,Test\n"
    assert seen(source, table=table) == {split: SplitFiles("table.csv", "images") for split in ("train", "test")}


def test_open_images_goes_with_the_names_of_its_identifiers(source: Any) -> None:
    table = OPEN_IMAGES + "a,x,/m/0999,1,0.05,0.2,0.2,0.6,0,0,0,0\n"
    names = "".join(f"/m/{number:04},class {number}\n" for number in range(1000))
    found = look_at_open_images(source, table, names)
    assert found == {
        "train": SplitFiles("train-annotations-bbox.csv", "train", ("class-descriptions-boxable.csv",)),
        "val": SplitFiles("validation-annotations-bbox.csv", "validation", ("class-descriptions-boxable.csv",)),
    }


def look_at_open_images(source: Any, table: str, names: str) -> dict[str, SplitFiles]:
    for split in ("train", "validation"):
        source.write(f"{split}/a.png", source.png())
        source.write(f"{split}-annotations-bbox.csv", table)
    source.write("class-descriptions-boxable.csv", names)
    return look(Root(str(source.root))).files


@pytest.mark.parametrize(
    "table",
    [
        HEADER,  # no row, so no image
        HEADER + ROW.replace("a.png", "gone.png"),
        "epoch,loss\n1,0.5\n",
        "rod,0\ndisc,1\n",
        "a.png,rod\n",
        "\0\1\2",
        '"',
        "file,class,x,y,w,h,split\na.png,rod,1,2,3,4,extra\n",
    ],
)
def test_other_tables_are_not_taken(source: Any, table: str) -> None:
    with pytest.raises(ValueError, match="auto recognises no data set"):
        seen(source, table=table)


def test_beginning_that_ends_within_a_row_is_enough(source: Any) -> None:
    assert seen(source, table=HEADER + ROW + 'a.png,20,10,"ro') == {"train": SplitFiles("table.csv", "images")}
