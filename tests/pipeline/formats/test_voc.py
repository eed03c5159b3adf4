"""Laws of the Pascal VOC reader."""

from __future__ import annotations

from typing import Any

import pytest


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
