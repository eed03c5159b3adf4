"""Laws of the KITTI reader: folders and lists, rows, DontCare, and no input that ends without a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.cli.command import is_sentence
from pipeline.formats import Split, SplitFiles, read_splits, summarise
from pipeline.formats.looking import look
from pipeline.formats.root import Root
from pipeline.formats.sources import read_from
from retinanet.data.records import Records
from retinanet.evaluation.coco_eval import evaluate_detections
from tests.pipeline.formats.conftest import Source

FOLDER = SplitFiles("training/label_2", "training/image_2")
LIST = SplitFiles("lists/train.txt", "training/image_2")
REST = "1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"


def row(name: str = "Car", corners: str = "1 2 4 6", rest: str = REST) -> str:
    return f"{name} 0.00 0 -1.58 {corners} {rest}"


REGION = row("DontCare", "10 0 20 10", "-1 -1 -1 -1000 -1000 -1000 -10").replace("0.00 0 -1.58", "-1 -1 -10")


def read(source: Any, *labels: str | bytes, files: SplitFiles = FOLDER, **arguments: Any) -> Split:
    """The split of images 000000, 000001, .. with these label files."""
    for number, text in enumerate(labels):
        source.write(f"training/image_2/{number:06}.png", source.png(number))
        source.write(f"training/label_2/{number:06}.txt", text)
    return read_splits("kitti", str(source.root), {"train": files}, **arguments)[0]["train"]


def boxes(split: Split) -> list[Any]:
    names = {category["id"]: category["name"] for category in split.coco["categories"]}
    return [
        [row["image_id"], names[row["category_id"]], *map(pytest.approx, row["bbox"]), row["iscrowd"]]
        for row in split.coco["annotations"]
    ]


def test_rows_have_15_columns_or_16_with_a_score(source: Any) -> None:
    split = read(source, f"{row()}\n{row('Van', '0 0 20.00 10.00')} 0.9\n", row("Pedestrian", "1.5 2 3 4"))
    assert boxes(split) == [
        [1, "Car", 1, 2, 3, 4, 0],
        [1, "Van", 0, 0, 20, 10, 0],
        [2, "Pedestrian", 1.5, 2, 1.5, 2, 0],
    ]
    assert [category["name"] for category in split.coco["categories"]] == ["Car", "Pedestrian", "Van"]
    assert not split.dropped and not split.clipped and not split.notes


def test_dont_care_is_a_crowd_of_every_class_of_the_data_set(source: Any) -> None:
    labels = f"{row()}\n{REGION}\n{row('Van', '0 0 5 5')}", row("Tram")
    split = read(source, *labels, classes=["Car", "Tram"])
    assert boxes(split) == [
        [1, "Car", 1, 2, 3, 4, 0],
        [1, "Car", 10, 0, 10, 10, 1],
        [1, "Tram", 10, 0, 10, 10, 1],
        [2, "Tram", 1, 2, 3, 4, 0],
    ]
    assert [box["id"] for box in split.coco["annotations"]] == [1, 2, 3, 4]
    assert split.not_chosen == {"Van": 1}
    numbers = summarise({"train": split})["splits"]["train"]
    assert (numbers["boxes"], numbers["boxes_crowd"], numbers["boxes_dropped"]) == (4, 2, 0)
    assert numbers["boxes_per_class"] == {"Car": 1, "Tram": 1}
    assert numbers["width_px"]["max"] == 3
    assert split.notes == ["1 regions DontCare are crowds of every class: ignored in evaluation, unused in training"]


def test_detections_in_dont_care_are_ignored_and_it_does_not_train(source: Any) -> None:
    split = read(source, f"{row()}\n{REGION}\n{row('Van', '0 0 5 5')}\n")
    coco: Any = split.coco
    # Both classes are found; the first detection of each lies in the region and would otherwise halve the precision.
    found = [[12, 2, 16, 8], [1, 2, 4, 6], [11, 1, 19, 9], [0, 0, 5, 5]]
    scores, labels = [0.9, 0.8, 0.9, 0.8], [0, 0, 1, 1]
    assert average_precision(coco, found, scores, labels) == pytest.approx(1)
    assert average_precision(coco, [[6, 2, 9, 8], *found[1:]], scores, labels) == pytest.approx(0.75)
    assert Records(coco)[0].boxes.tolist() == [[1, 2, 4, 6], [0, 0, 5, 5]]


def average_precision(coco: Any, found: list[list[int]], scores: list[float], labels: list[int]) -> float | None:
    detections = np.array(found, np.float32), np.array(scores, np.float32), np.array(labels, np.int64)
    return evaluate_detections(coco, {1: detections}).metrics["AP"]


def test_list_of_ids_has_its_labels_beside_the_images(source: Any) -> None:
    source.write("lists/train.txt", "000002\n000000\n000002\n\n000009\n")
    split = read(source, row(), row("Van"), row("Tram"), files=LIST)
    assert boxes(split) == [[1, "Tram", 1, 2, 3, 4, 0], [2, "Car", 1, 2, 3, 4, 0]]
    assert [image["file_name"][-10:] for image in split.coco["images"]] == ["000002.png", "000000.png"]
    assert sorted((each.image[-10:], each.reason) for each in split.dropped) == [
        ("000002", "listed twice"),
        ("000009.jpg", "image is missing; its 0 boxes are dropped too"),
    ]
    assert split.num_images == 4
    files, folders = read_from(Root(str(source.root)), "kitti", {"train": LIST})
    assert [each.path for each in files] == ["lists/train.txt"]
    assert [each.path for each in folders] == ["training/image_2", "training/label_2"]
    assert [each.path for each in read_from(Root(str(source.root)), "kitti", {"train": FOLDER})[0]] == []


def test_image_without_label_file_has_no_objects_and_a_label_file_without_image_is_named(source: Any) -> None:
    source.write("training/image_2/000007.png", source.png())
    source.write("training/label_2/000008.txt", row())
    split = read(source, row(), "")
    assert [image["file_name"][-10:] for image in split.coco["images"]] == ["000000.png", "000001.png", "000007.png"]
    assert split.notes == ["1 images have no label file and count as images without objects"]
    assert [(each.image[-10:], each.reason) for each in split.dropped] == [
        ("000008.png", "image is missing; its 1 boxes are dropped too")
    ]


def test_row_that_is_no_object_is_dropped_with_its_number_and_reason(source: Any) -> None:
    rows = [row(), row(), "Car 0 0 0 1 2 4 6", f"{row()} 1 2", row(corners="1 x 4 6"), row(corners="4 2 1 6")]
    rows += [row(corners="30 2 40 6"), REGION, REGION, REGION.replace("10 0 20 10", "10 0 10 10")]
    split = read(source, "\n".join(rows))
    assert {finding.record: finding.reason for finding in split.dropped} == {
        "row 2": "repeated row; the first is kept",
        "row 3": "8 columns; expected 15, or 16 with a score",
        "row 4": "17 columns; expected 15, or 16 with a score",
        "row 5": "not four finite numbers",
        "row 6": "negative width or height",
        "row 7": "completely outside the image",
        "row 9": "repeated row; the first is kept",
        "row 10, DontCare": "zero area",
    }
    assert (split.num_boxes, len(split.coco["annotations"])) == (10, 2)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (SplitFiles("training/labels", "training/image_2"), r"none of 1 images has a label file; .*/000000\.png would"),
        (SplitFiles("nowhere", "nowhere"), r"there is no image in .*nowhere and no label file in .*nowhere"),
        (SplitFiles("gone.txt", "training/image_2"), r"data\.train\.annotations: there is no file .*gone\.txt; check"),
        (SplitFiles("out.txt", "training/image_2"), r"out\.txt names '\.\./a', which is not a relative path below"),
        (SplitFiles("../labels", "training/image_2"), r"names '\.\./labels"),
        (SplitFiles("bytes.txt", "training/image_2"), r"bytes\.txt is not a list of image names"),
        (SplitFiles("binary", "training/image_2"), r"000000\.txt is not UTF-8 text"),
    ],
)
def test_what_is_missing_broken_or_outside_is_one_sentence(source: Any, files: SplitFiles, sentence: str) -> None:
    source.write("out.txt", "../a")
    source.write("bytes.txt", b"\xff")
    source.write("binary/000000.txt", b"\xff")
    with pytest.raises(ValueError, match=sentence) as raised:
        read(source, row(), files=files)
    assert is_sentence(raised.value)


def test_folder_behind_a_web_server_asks_for_a_list() -> None:
    with pytest.raises(ValueError, match="http cannot list folders; name a text file with one image id per line"):
        read_splits("kitti", "http://127.0.0.1:9", {"train": FOLDER})


# ---- recognition -----------------------------------------------------------------------------------------------------


def test_folders_are_recognised_by_their_rows(source: Any) -> None:
    read(source, "", row())
    source.write("training/calib/000000.txt", "P0: 1 2 3 4 5 6 7 8 9 10 11 12\n")
    source.write("testing/image_2/000000.png", source.png())
    assert look(Root(str(source.root))).format == "kitti"
    assert look(Root(str(source.root))).files == {"train": FOLDER}
    source.write("val/labels/000000.txt", row())
    source.write("val/images/000000.png", source.png())
    assert look(Root(str(source.root))).files == {"train": FOLDER, "val": SplitFiles("val/labels", "val/images")}


def test_lists_are_recognised_but_for_that_of_the_test_images(source: Any) -> None:
    read(source, row(), row(), row())
    lists = {"train": "000000\n000002\n", "val": "000001\n", "trainval": "000000\n", "test": "000000\n000001\n"}
    for name, text in lists.items():
        source.write(f"ImageSets/{name}.txt", text)
    assert look(Root(str(source.root))).files == {
        split: SplitFiles(f"ImageSets/{split}.txt", "training/image_2") for split in ("train", "val")
    }


def test_list_is_of_no_use_where_the_labels_are_not_beside_the_images(source: Any) -> None:
    source.write("labels/000000.txt", row())
    source.write("images/000000.png", source.png())
    source.write("train.txt", "000000\n")
    assert look(Root(str(source.root))).files == {"train": SplitFiles("labels", "images")}


def test_two_cameras_are_two_candidates(source: Any) -> None:
    read(source, row())
    source.write("training/label_3/000000.txt", row())
    with pytest.raises(ValueError, match=r"in 2 ways.*\n  kitti: training/label_2, whose.*\n  kitti: training/label_3"):
        look(Root(str(source.root)))


# ---- round trips and mutations ---------------------------------------------------------------------------------------

SIDES = st.tuples(st.integers(0, 1500), st.integers(0, 700), st.integers(1, 500), st.integers(1, 300))
OBJECTS = st.lists(
    st.tuples(st.sampled_from(["Car", "Van", "Person_sitting"]), SIDES), min_size=1, max_size=6, unique=True
)


def read_files(files: dict[str, bytes], which: SplitFiles) -> Split:
    store = fsspec.filesystem("memory")
    store.pipe({f"/kitti/{name}": content for name, content in files.items()})
    try:
        return read_splits("kitti", "memory://kitti", {"train": which})[0]["train"]
    finally:
        store.rm("/kitti", recursive=True)


@settings(max_examples=60, deadline=None)
@given(objects=OBJECTS)
def test_boxes_written_with_two_decimals_are_read(objects: list[tuple[str, tuple[int, int, int, int]]]) -> None:
    sides = [(name, [side / 100 for side in box]) for name, box in objects]
    rows = [row(name, f"{x:.2f} {y:.2f} {x + w:.2f} {y + h:.2f}") for name, (x, y, w, h) in sides]
    files = {"l/a.txt": "\n".join(rows).encode(), "i/a.png": Source(Path()).png()}
    split = read_files(files, SplitFiles("l", "i"))
    assert boxes(split) == [[1, name, *(pytest.approx(side, abs=1e-9) for side in box), 0] for name, box in sides]
    assert not split.dropped and not split.clipped


FILES = {
    "train.txt": b"000000\n000001\n",
    "label_2/000000.txt": f"{row()}\n{REGION}\n{row('Van', '0 0 5 5')} 0.5\n".encode(),
    "label_2/000001.txt": row("Tram", "0.5 1.25 19.75 9.5").encode(),
    "image_2/000000.png": Source(Path()).png(),
    "image_2/000001.png": Source(Path()).png(1),
}
PIECES = st.sampled_from(
    [
        *(f"{row()}\n", f"{REGION}\n", "DontCare ", "1e999", "-", "_", " ", "\n", "\r", "nan", "\0", "../", "9" * 30),
        "%2e",
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    target=st.sampled_from([name for name in FILES if name.endswith(".txt")]),
    has_list=st.booleans(),
    place=st.integers(0, 200),
    cut=st.integers(0, 40),
    put=st.one_of(st.binary(max_size=12), st.lists(PIECES, max_size=6).map(lambda pieces: "".join(pieces).encode())),
)
@example(target="train.txt", has_list=True, place=0, cut=40, put=b"")
def test_mutated_file_gives_valid_boxes_or_one_sentence(
    target: str, has_list: bool, place: int, cut: int, put: bytes
) -> None:
    files = FILES | {target: FILES[target][:place] + put + FILES[target][place + cut :]}
    try:
        split, error = read_files(files, SplitFiles("train.txt" if has_list else "label_2", "image_2")), None
    except ValueError as raised:
        split, error = None, raised
    assert error is None or is_sentence(error)
    if split is not None:
        json.dumps(split.coco, allow_nan=False)
        for x, y, w, h in (box["bbox"] for box in split.coco["annotations"]):
            assert -1e-6 <= x < x + w <= 20 + 1e-6 and -1e-6 <= y < y + h <= 10 + 1e-6
        lost = sum(
            int(each.reason.split("its ")[1].split()[0]) for each in split.dropped if " boxes are" in each.reason
        )
        rows = sum(each.record != "image" for each in split.dropped)
        assert split.num_boxes == len(split.coco["annotations"]) + rows + lost
        assert len({box["id"] for box in split.coco["annotations"]}) == len(split.coco["annotations"])
