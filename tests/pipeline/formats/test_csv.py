"""Laws of the CSV reader: its forms, columns and findings, and when a table is refused."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest

from pipeline.cli.command import is_sentence
from pipeline.formats import Split, SplitFiles, read_splits
from pipeline.formats.root import Root


def read(source: Any, *texts: str | bytes, split: str = "train", **arguments: Any) -> Split:
    """The split of tables; images/a.png and images/b.png are there, of 20 x 10 px."""
    for grey, name in enumerate("ab"):
        source.write(f"images/{name}.png", source.png(grey))
    names = [f"table{number}.csv" for number, _ in enumerate(texts)]
    for name, text in zip(names, texts, strict=True):
        source.write(name, text)
    files = {split: SplitFiles(names[0], "images", tuple(names[1:]))}
    return read_splits("csv", str(source.root), files, **arguments)[0][split]


def boxes(split: Split) -> list[Any]:
    """Image, class and box of every annotation."""
    images = {image["id"]: image["file_name"].removeprefix("images/") for image in split.coco["images"]}
    names = {category["id"]: category["name"] for category in split.coco["categories"]}
    rows = split.coco["annotations"]
    return [[images[row["image_id"]], names[row["category_id"]], *map(pytest.approx, row["bbox"])] for row in rows]


def test_rows_of_keras_retinanet_have_no_header_and_an_empty_row_is_an_image_without_objects(source: Any) -> None:
    split = read(source, "a.png,1,2,4,6,rod\nb.png,,,,,\na.png,0,0,20,10,disc\n")
    assert boxes(split) == [["a.png", "rod", 1, 2, 3, 4], ["a.png", "disc", 0, 0, 20, 10]]
    assert [image["file_name"] for image in split.coco["images"]] == ["images/a.png", "images/b.png"]
    assert split.coco["categories"] == [{"id": 1, "name": "disc"}, {"id": 2, "name": "rod"}]
    assert not split.dropped and not split.notes


def test_class_file_gives_ids_and_order_and_its_classes_alone_are_classes(source: Any) -> None:
    split = read(source, "a.png,1,2,4,6,rod\na.png,1,2,4,6,rot\n", "rod,7\ndisc,0\n")
    assert split.coco["categories"] == [{"id": 7, "name": "rod"}, {"id": 0, "name": "disc"}]
    assert boxes(split) == [["a.png", "rod", 1, 2, 3, 4]]
    assert split.not_chosen == {"rot": 1}
    assert split.notes == ["the class file does not have rot; boxes of such classes are dropped and counted"]


HEADERS = [
    ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.png,20,10,rod,1,2,4,6"),  # TensorFlow, Roboflow
    ("filename,cell_type,xmin,xmax,ymin,ymax", "a.png,rod,1,4,2,6"),  # BCCD
    ("label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height", "rod,1,2,3,4,a.png,20,10"),
    ("Image ID,Label,X,Y,Width,Height", "a,rod,1,2,3,4"),  # with x, y only, width is the box's
    ("path,name,x,y,w,h,width,height", "a.png,rod,1,2,3,4,20,10"),  # w is the box's, so width is the image's
    ("file_name,category,left,top,right,bottom", "a.png,rod,1,2,4,6"),
    ("image,class,left,top,width,height", "a.png,rod,1,2,3,4"),
    ("image,class,x0,y0,x1,y1", "a.png,rod,1,2,4,6"),
    ("image_path,label,x_center,y_center,w,h", "a.png,rod,2.5,4,3,4"),
    ("image_id,file_name,class,x1,y1,x2,y2", "17,a.png,rod,1,2,4,6"),  # a file's name goes before an id
    (",filename,class,xmin,ymin,xmax,ymax", "0,a.png,rod,1,2,4,6"),  # pandas' index
    ("filename,class,class_id,xmin,ymin,xmax,ymax,score", "a.png,rod,3,1,2,4,6,nan"),
]


@pytest.mark.parametrize(("header", "row"), HEADERS, ids=[header for header, _ in HEADERS])
def test_columns_are_found_by_their_names_in_any_order(source: Any, header: str, row: str) -> None:
    split = read(source, f"{header}\n{row}\n")
    assert boxes(split) == [["a.png", "rod", 1, 2, 3, 4]]
    assert not split.dropped and not split.resized


def test_size_of_the_image_is_compared(source: Any) -> None:
    split = read(source, "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,20,11,rod,1,2,4,6\n")
    assert [finding.reason for finding in split.resized] == ["annotation says 20x11 px, the image has 20x10 px"]


OPEN_IMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction\n"


def test_open_images_has_fractions_groups_and_names_of_its_identifiers(source: Any) -> None:
    # In an image of 20 x 10 px: x = 0.05 * 20 = 1, y = 0.2 * 10 = 2, w = (0.2 - 0.05) * 20, h = (0.6 - 0.2) * 10.
    rows = "a,xclick,/m/01,1,0.05,0.2,0.2,0.6,0,0,0,0\nb,xclick,/m/02,1,0,1,0,1,-1,0,1,0\n"
    split = read(source, OPEN_IMAGES + rows, "/m/02,Person\n/m/01,Rod\n/m/03,Tree\n")
    assert boxes(split) == [["a.png", "Rod", 1, 2, 3, 4], ["b.png", "Person", 0, 0, 20, 10]]
    assert [box["iscrowd"] for box in split.coco["annotations"]] == [0, 1]
    assert [category["name"] for category in split.coco["categories"]] == ["Person", "Rod"]


def test_two_identifiers_with_one_name_stay_two_classes(source: Any) -> None:
    rows = "a,x,/m/01,1,0.05,0.2,0.2,0.6,0,0,0,0\na,x,/m/02,1,0,1,0,1,0,0,0,0\n"
    split = read(source, OPEN_IMAGES + rows, "LabelName,DisplayName\n/m/01,Bat\n/m/02,Bat\n")
    assert [category["name"] for category in split.coco["categories"]] == ["Bat (/m/01)", "Bat (/m/02)"]


def test_each_split_reads_its_rows_of_a_table_with_a_column_of_splits(source: Any) -> None:
    table = "set,image,class,x1,y1,x2,y2\nTrain,a.png,rod,1,2,4,6\nvalid,b.png,disc,0,0,5,5\nextra,a.png,rod,1,1,2,2\n"
    train, val = read(source, table), read(source, table, split="val")
    assert (boxes(train), boxes(val)) == ([["a.png", "rod", 1, 2, 3, 4]], [["b.png", "disc", 0, 0, 5, 5]])
    note = f"{source.root}/table0.csv: 1 rows of 'extra' belong to no split and are not read"
    assert train.notes == val.notes == [note]
    with pytest.raises(ValueError, match=r"has no row of test in its column of splits, but 'Train', 'valid', 'extra';"):
        read(source, table, split="test")


def test_row_that_is_no_box_is_dropped_with_its_line_and_reason(source: Any) -> None:
    rows = ["a.png,1,2,4,6,rod", "a.png,1,2,4,6,rod", "a.png,1,2,4", "a.png,1,2,4,6,rod,x", "a.png,1,1_0,4,6,rod"]
    rows += [
        "a.png,4,2,1,6,rod",
        "a.png,1,2,1,6,rod",
        "a.png,30,2,40,6,rod",
        "a.png,1,2,4,6,",
        ",1,2,4,6,rod",
        "",
        ",,",
    ]
    rows += ["gone.png,1,2,4,6,rod", "a.png,,,,,rod", "a.png,2,2,4,6,rod,,"]
    split = read(source, "\n".join(rows))
    assert {finding.record: finding.reason for finding in split.dropped} == {
        "line 2": "repeated row; the first is kept",
        "line 3": "4 columns; expected 6",
        "line 4": "7 columns; expected 6",
        "line 5": "not four finite numbers",
        "line 6": "negative width or height",
        "line 7": "zero area",
        "line 8": "completely outside the image",
        "line 9": "no class name",
        "line 10": "no name of an image",
        "image": "image is missing; its 1 boxes are dropped too",
        "line 14": "not four finite numbers",
    }
    assert (split.num_boxes, len(split.coco["annotations"])) == (13, 2)
    assert {finding.file for finding in split.dropped} == {f"{source.root}/table0.csv"}


def test_two_names_of_one_file_are_one_image(source: Any) -> None:
    split = read(source, "a.png,1,2,4,6,rod\n./a.png,2,2,4,6,rod\na,3,2,4,6,rod\nimages/../a.png,4,2,5,6,rod\n")
    assert [(image["id"], image["file_name"]) for image in split.coco["images"]] == [(1, "images/a.png")]
    assert [box["image_id"] for box in split.coco["annotations"]] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", "is empty; expected a header with columns for image, class and box; or rows path,x1,y1,x2,y2,class"),
        ("\n \n\n", "is empty"),
        ("image,class,xmin,ymin,xmax\na,b,1,1,1", r"but no column for ymax \(ymax, y2, bottom\)"),
        ("image,xmin,ymin,xmax,ymax", r"but no column for class \(class, classname, label, "),
        (
            "image_id,width,height,bbox,source",
            r"no column for class .* and none for the box \(xmin, ymin, xmax, ymax; or",
        ),
        ("image;class;xmax", "but no column for xmin .* and none for ymin .* and none for ymax"),
        ("image,class,class,x,y,w,h", "has the column 'class' twice; name each column once"),
        ("a.png,1,2,3,4", r"has the first row 'a\.png,1,2,3,4'; expected a header"),
        ("rod,1", "names no image"),
        ("hello", "has the header 'hello', but no column for image"),
        ("rod,disc", "has the first row 'rod,disc'; expected"),
        ("image,class,x,y,w,h\n", "has no row below its header"),
        ("../../b.png,1,2,4,6,rod", r"line 1 names the image '\.\./\.\./b\.png', which is outside data\.root"),
        ("/etc/b.png,1,2,4,6,rod", "outside data.root"),
        ("C:/b.png,1,2,4,6,rod", "outside data.root"),
        ("%2e%2e/%2e%2e/b.png,1,2,4,6,rod", "not a relative path below"),
        ("%2e%2e/b,1,2,4,6,rod", "not a relative path below"),
        (
            "a.png,0.1,0.2,0.4,1,rod",
            r"no number of its boxes exceeds 1, as in 0\.1, 0\.2, 0\.4, 1, so they are fractions",
        ),
    ],
)
def test_table_that_is_unknown_or_leaves_the_root_is_one_sentence(source: Any, table: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        read(source, table)
    assert is_sentence(raised.value)
    assert "table0.csv" in str(raised.value)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ("rod,1\ndisc,1", "has '1' 2 times"),
        ("rod,1\nrod,2", "has 'rod' 2 times"),
        ("rod,1\ndisc", r"line 2 is 'disc'; expected class,id with an integer id"),
        ("rod,1\ndisc,x", r"line 2 is 'disc,x'; expected class,id"),
        ("rod,1" + "0" * 30, r"line 1 is .*; expected class,id"),
        ("/m/01,Rod\n/m/01,Disc", "has '/m/01' 2 times"),
    ],
)
def test_broken_class_file_is_one_sentence(source: Any, classes: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        read(source, "a.png,1,2,4,6,rod", classes)
    assert is_sentence(raised.value)
    assert "table1.csv" in str(raised.value)


def test_box_within_one_pixel_is_in_pixels(source: Any) -> None:
    assert boxes(read(source, "a.png,0,0,1,1,rod")) == [["a.png", "rod", 0, 0, 1, 1]]


def test_missing_table_names_file_and_key(source: Any) -> None:
    with pytest.raises(
        ValueError, match=r"data\.val\.annotations: there is no file .*/gone\.csv; check data\.root and"
    ):
        read_splits("csv", str(source.root), {"val": SplitFiles("gone.csv", "images")})


@pytest.mark.parametrize("can_list", [True, False])  # a web server cannot
def test_images_without_suffix_are_found_behind_a_url(
    source: Any, can_list: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Root, "can_list", can_list)
    store = fsspec.filesystem("memory")
    table = {"/table/t.csv": b"deep/a,1,2,4,6,rod\nb,1,2,4,6,rod\nc,1,2,4,6,rod\n"}
    store.pipe(table | {f"/table/images/{name}": source.png() for name in ("deep/a.png", "c", "c.png")})
    split = read_splits("csv", "memory://table", {"train": SplitFiles("t.csv", "images")})[0]["train"]
    store.rm("/table", recursive=True)
    assert [image["file_name"] for image in split.coco["images"]] == ["images/deep/a.png", "images/c"]
    assert [finding.image for finding in split.dropped] == ["images/b.jpg"]
