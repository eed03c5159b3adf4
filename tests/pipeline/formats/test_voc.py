"""Laws of the Pascal VOC reader."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.formats import Split, SplitFiles, read_splits
from pipeline.formats.looking import look
from pipeline.formats.root import Root
from pipeline.formats.sources import read_from


def test_voc_corners_are_taken_as_given_and_all_is_numbered_from_one(source: Any) -> None:
    source.write("JPEGImages/a.png", source.png())
    source.write("JPEGImages/b.png", source.png(1))
    pages = {
        "b": source.page(("rod", "0 1 20 9"), filename="b.png"),
        "a": source.page(("disc", "1.5 2 3 4"), ("rod", "2 2 5 6")),
    }
    source.write_voc(pages)
    split = source.read_voc()
    assert [(kept["id"], kept["file_name"]) for kept in split.coco["images"]] == [
        (1, "JPEGImages/b.png"),
        (2, "JPEGImages/a.png"),
    ]
    assert split.coco["categories"] == [{"id": 1, "name": "disc"}, {"id": 2, "name": "rod"}]
    assert [tuple(kept.values()) for kept in split.coco["annotations"]] == [
        (1, 1, 2, [0.0, 1.0, 20.0, 8.0], 160.0, 0),
        (2, 2, 1, [1.5, 2.0, 1.5, 2.0], 3.0, 0),
        (3, 2, 2, [2.0, 2.0, 3.0, 4.0], 12.0, 0),
    ]
    assert not split.dropped and not split.clipped


def test_voc_object_whose_corners_are_equal_is_dropped_by_its_number_in_the_file(source: Any) -> None:
    source.write("JPEGImages/a.png", source.png())
    source.write_voc({"a": source.page(("rod", "1 1 4 4"), ("rod", "4 4 4 4"), ("rod", "x 4 5 5"), ("", "1 1 4 4"))})
    split = source.read_voc()
    assert [(finding.record, finding.reason) for finding in split.dropped] == [
        ("object 2", "zero area"),
        ("object 3", "not four finite numbers"),
        ("object 4", "no class name"),
    ]
    assert split.dropped[0].file == f"{source.root}/Annotations/a.xml"


def test_voc_picture_is_found_by_filename_else_by_the_name_in_the_list(source: Any) -> None:
    source.write("JPEGImages/other.png", source.png())
    source.write("JPEGImages/b.jpeg", source.png(1))
    source.write_voc(
        {
            "a": source.page(("rod", "1 1 4 4"), filename="other.png"),
            "b": source.page(filename="gone"),
            "c": source.page(),
        }
    )
    split = source.read_voc()
    assert [kept["file_name"] for kept in split.coco["images"]] == ["JPEGImages/other.png", "JPEGImages/b.jpeg"]
    assert [finding.reason for finding in split.dropped] == ["image is missing; its 0 boxes are dropped too"]


def test_voc_image_listed_twice_counts_once(source: Any) -> None:
    source.write("JPEGImages/a.png", source.png())
    source.write_voc({"a": source.page(("rod", "1 1 4 4"))})
    source.write("ImageSets/Main/train.txt", "a\n\na\r\n")
    split = source.read_voc()
    assert (len(split.coco["images"]), split.num_images) == (1, 2)
    assert [finding.reason for finding in split.dropped] == ["listed twice"]


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        ("<annotation>", r"a\.xml cannot be read as Pascal VOC XML"),
        ('<!DOCTYPE x [<!ENTITY e "boom">]><annotation>&e;</annotation>', r"a\.xml cannot be read as .*Entit"),
        ("<annotation><filename>../secret.png</filename></annotation>", r"a\.xml names '\.\./secret\.png'"),
        ("<annotation><filename>C:/me/a.png</filename></annotation>", r"a\.xml names 'C:/me/a\.png'"),
        ("<annotations><image/></annotations>", r"a\.xml begins with <annotations>; expected <annotation>, as"),
    ],
)
def test_broken_or_hostile_xml_is_named(source: Any, xml: str, sentence: str) -> None:
    source.write_voc({"a": xml})
    with pytest.raises(ValueError, match=sentence):
        source.read_voc()


def test_missing_xml_names_the_list(source: Any) -> None:
    source.write("ImageSets/Main/train.txt", "a")
    with pytest.raises(ValueError, match=r"no file .*Annotations/a.xml, but .*Main/train.txt lists 'a'"):
        source.read_voc()


# ---- folders of XML files --------------------------------------------------------------------------------------------


def read_folder(source: Any, folder: str, images: str = "") -> Split:
    return read_splits("voc", str(source.root), {"train": SplitFiles(folder, images)})[0]["train"]


def names(split: Split) -> list[str]:
    return [image["file_name"] for image in split.coco["images"]]


def test_folder_is_read_with_its_subfolders_and_images_beside_the_files(source: Any) -> None:
    for path in ("train/b", "train/deep/a"):
        source.write(f"{path}.xml", source.page(("rod", "1 2 4 6"), filename=f"{path[-1]}.png"))
        source.write(f"{path}.png", source.png())
    source.write("train/._b.xml", b"\0\5\x16\7")  # the file that macOS packs beside b.xml
    split = read_folder(source, "train")
    assert names(split) == ["train/b.png", "train/deep/a.png"]
    assert [box["bbox"] for box in split.coco["annotations"]] == [[1, 2, 3, 4]] * 2
    assert not split.dropped and not split.notes


@pytest.mark.parametrize("place", ["images/deep/a.png", "images/a.png"])
def test_images_of_a_folder_may_be_in_another(source: Any, place: str) -> None:
    source.write("labels/deep/a.xml", source.page(("rod", "1 2 4 6")))
    source.write(place, source.png())
    assert names(read_folder(source, "labels", "images")) == [place]


def test_image_of_two_files_has_the_boxes_of_both(source: Any) -> None:
    source.write("labels/a.png", source.png())
    for name, corners in (("a", "1 2 4 6"), ("b", "0 0 3 3")):
        source.write(f"labels/{name}.xml", source.page(("rod", corners)))
    split = read_folder(source, "labels")
    assert (names(split), split.num_images) == (["labels/a.png"], 1)
    assert [box["bbox"] for box in split.coco["annotations"]] == [[1, 2, 3, 4], [0, 0, 3, 3]]


def test_images_of_a_list_are_in_jpegimages_unless_params_say_otherwise(source: Any) -> None:
    source.write("JPEGImages/a.png", source.png())
    source.write_voc({"a": source.page(("rod", "1 1 4 4"))})
    files = {"train": SplitFiles("ImageSets/Main/train.txt", "")}
    assert names(read_splits("voc", str(source.root), files)[0]["train"]) == ["JPEGImages/a.png"]
    found, folders = read_from(Root(str(source.root)), "voc", files)
    assert [each.path for each in (*found, *folders)] == ["ImageSets/Main/train.txt", "JPEGImages", "Annotations"]


def test_folder_without_files_and_a_web_server_are_named(source: Any) -> None:
    source.write("labels/a.png", source.png())
    with pytest.raises(ValueError, match=r"data\.train\.annotations: there is no XML file in .*/labels; name such"):
        read_folder(source, "labels")
    with pytest.raises(ValueError, match="https cannot list the folder labels; name a list of the images"):
        read_splits("voc", "https://localhost/data", {"train": SplitFiles("labels", "")})


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        # Roboflow
        (
            ["train/a.xml", "train/a.png", "valid/b.xml", "valid/b.png"],
            {"train": SplitFiles("train", ""), "val": SplitFiles("valid", "")},
        ),
        # labelImg
        (["a.xml", "a.png"], {"train": SplitFiles(".", "")}),
        (["labels/a.xml", "images/a.png"], {"train": SplitFiles("labels", "images")}),
        (
            ["annotations/train/a.xml", "images/train/a.png", "annotations/val/a.xml", "images/val/a.png"],
            {
                "train": SplitFiles("annotations/train", "images/train"),
                "val": SplitFiles("annotations/val", "images/val"),
            },
        ),
    ],
)
def test_auto_finds_folders_of_xml_files(source: Any, paths: list[str], expected: dict[str, SplitFiles]) -> None:
    for path in paths:
        source.write(path, source.png() if path.endswith(".png") else source.page(("rod", "1 2 4 6")))
    resolved = look(Root(str(source.root)))
    assert (resolved.format, resolved.files) == ("voc", expected)
    assert set(read_from(Root(str(source.root)), "voc", resolved.files)[0]) == set()
    splits, _ = read_splits("voc", str(source.root), resolved.files)
    assert sum(len(split.coco["images"]) for split in splits.values()) == len(paths) / 2


# ---- difficult objects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difficult", "crowds", "reasons"),
    [("keep", [0, 0], []), ("crowd", [1, 0], []), ("drop", [0], ["difficult, and data.difficult is drop"])],
)
def test_difficult_objects_are_kept_evaluated_only_or_dropped(
    source: Any, difficult: str, crowds: list[int], reasons: list[str]
) -> None:
    source.write("JPEGImages/a.png", source.png())
    hard = source.page(("rod", "1 1 4 4"))
    easy = hard[hard.index("<object>") : hard.index("</annotation>")].replace("<difficult>1", "<difficult>0")
    source.write_voc({"a": hard.replace("</annotation>", f"{easy}</annotation>")})
    split = source.read_voc(difficult=difficult)
    assert [box["iscrowd"] for box in split.coco["annotations"]] == crowds
    assert [finding.reason for finding in split.dropped] == reasons
    assert split.num_boxes == 2
