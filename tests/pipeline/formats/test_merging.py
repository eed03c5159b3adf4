"""Laws of a split in several annotation files: as if all had been written into one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.formats import Split, SplitFiles, declared_files, read_splits
from pipeline.formats.root import Root
from pipeline.formats.sources import read_from
from pipeline.params import load_params


def read(source: Any, *names: str, **options: Any) -> Split:
    for image in ("a", "b"):
        source.write(f"images/{image}.png", source.png())
    files = {"train": SplitFiles(names[0], "images", names[1:])}
    return read_splits("coco", str(source.root), files, **options)[0]["train"]


def test_files_of_disjoint_images_are_one_split(source: Any) -> None:
    source.write("first.json", source.coco([source.image(4)], [source.box(9, image_id=4)]))
    source.write("second.json", source.coco([source.image(6, "b.png")], [source.box(9, [0, 0, 2, 2], image_id=6)]))
    coco = read(source, "first.json", "second.json").coco
    assert [(image["id"], image["file_name"]) for image in coco["images"]] == [(4, "images/a.png"), (6, "images/b.png")]
    # the second 9 gets the smallest free number
    assert [(box["id"], box["image_id"], box["bbox"]) for box in coco["annotations"]] == [
        (9, 4, [1, 2, 3, 4]),
        (1, 6, [0, 0, 2, 2]),
    ]


def test_image_of_two_files_has_the_boxes_of_both(source: Any) -> None:
    """As exports with one file per class have it; their ids begin with the same numbers."""
    both = [source.image(1), source.image(2, "b.png")]
    source.write("cells.json", source.coco(both, [source.box(1), source.box(2, image_id=2)]))
    content = json.loads(source.coco(both[::-1], [source.box(1, [0, 0, 5, 5], category_id=8)]))
    content["categories"] = [{"id": 8, "name": "virus"}]
    source.write("viruses.json", json.dumps(content))
    split = read(source, "cells.json", "viruses.json")
    assert (split.num_images, split.num_boxes, len(split.dropped)) == (2, 3, 0)
    assert [image["id"] for image in split.coco["images"]] == [1, 2]
    boxes = [(box["image_id"], box["category_id"], box["bbox"]) for box in split.coco["annotations"]]
    assert boxes == [(1, 7, [1, 2, 3, 4]), (2, 7, [1, 2, 3, 4]), (1, 8, [0, 0, 5, 5])]


def test_two_images_of_one_id_in_two_files_are_numbered_anew(source: Any) -> None:
    source.write("first.json", source.coco([source.image(1)], [source.box(1)]))
    source.write("second.json", source.coco([source.image(1, "b.png")], [source.box(1, [0, 0, 5, 5])]))
    coco = read(source, "first.json", "second.json").coco
    assert [(image["id"], image["file_name"]) for image in coco["images"]] == [(1, "images/a.png"), (2, "images/b.png")]
    assert [(box["image_id"], box["bbox"]) for box in coco["annotations"]] == [(1, [1, 2, 3, 4]), (2, [0, 0, 5, 5])]


def test_files_that_disagree_on_a_class_are_refused(source: Any) -> None:
    source.write("first.json", source.coco([source.image(1)], []))
    source.write("second.json", source.coco([source.image(1)], [], names=("virus",)))
    with pytest.raises(ValueError, match="class 'virus' has id 7, but before 'cell' has id 7; give all splits and"):
        read(source, "first.json", "second.json")


@pytest.mark.usefixtures("project")
def test_params_name_one_file_or_several_and_the_manifest_compares_each() -> None:
    data = load_params().data
    section = data.train.model_copy(update={"annotations": ["a.json", "b.json"], "images": "images"})
    files = declared_files(data.model_copy(update={"train": section, "val": section, "test": None}))
    assert files == {name: SplitFiles("a.json", "images", ("b.json",)) for name in ("train", "val")}
    found, folders = read_from(Root("data/raw"), "coco", files)
    assert [source.path for source in found] == ["a.json", "b.json"]
    assert [source.path for source in folders] == ["images"]
