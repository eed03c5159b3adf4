"""Laws of the classes: their choice, their order, their ids, and that all splits share them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.formats import SplitFiles, read_splits, summarise


def test_chosen_classes_order_the_labels_and_others_are_counted(source: Any) -> None:
    boxes = [source.box(1), source.box(2, category_id=10), source.box(3, category_id=13), source.box(4, category_id=13)]
    content = source.coco([source.image(1)], boxes, ("cell", "virus", "dust"))
    split = source.read_coco(content, classes=["virus", "cell"])
    assert split.coco["categories"] == [{"id": 10, "name": "virus"}, {"id": 7, "name": "cell"}]
    assert [kept["id"] for kept in split.coco["annotations"]] == [1, 2]
    assert split.not_chosen == {"dust": 2}
    assert not split.dropped
    numbers = summarise({"train": split})["splits"]["train"]
    assert (numbers["boxes_dropped"], numbers["boxes_of_classes_not_chosen"]) == (0, {"dust": 2})


def test_class_that_occurs_nowhere_names_the_nearest(source: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.classes names 'viruss', which does not occur; the nearest .* 'virus'"):
        source.read_coco(source.coco([source.image(1)], [], ("cell", "virus")), classes=["viruss"])


def test_voc_classes_are_numbered_in_the_chosen_order(source: Any) -> None:
    source.write("JPEGImages/a.png", source.png())
    source.write_voc({"a": source.page(("disc", "1 1 4 4"), ("rod", "1 1 4 4"), ("wire", "1 1 4 4"))})
    split = source.read_voc(classes=["wire", "disc"])
    assert split.coco["categories"] == [{"id": 1, "name": "wire"}, {"id": 2, "name": "disc"}]


def test_all_splits_share_the_union_of_their_classes(source: Any) -> None:
    source.write("JPEGImages/a.png", source.png())
    source.write_voc({"a": source.page(("rod", "1 1 4 4"))})
    source.write_voc({"b": source.page(("disc", "1 1 4 4"))}, split="val")
    files = source.VOC_FILES | {"val": SplitFiles("ImageSets/Main/val.txt", "JPEGImages")}
    splits, notes = read_splits("voc", str(source.root), files)
    expected = [{"id": 1, "name": "disc"}, {"id": 2, "name": "rod"}]
    assert [split.coco["categories"] for split in splits.values()] == [expected, expected]
    assert notes == ["val has classes that no earlier split has: disc"]


def test_splits_that_disagree_on_an_id_are_an_error(source: Any) -> None:
    source.write("train.json", source.coco([], [], ("cell", "virus")))
    source.write("val.json", source.coco([], [], ("virus",)))
    files = source.COCO_FILES | {"val": SplitFiles("val.json", "images")}
    with pytest.raises(ValueError, match=r"data.val.annotations: class 'virus' has id 7"):
        read_splits("coco", str(source.root), files)
