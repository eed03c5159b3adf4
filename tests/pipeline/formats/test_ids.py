"""Laws of the ids: whatever numbers a COCO file uses, every box keeps its class, and pycocotools agrees with us."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.formats import Split, SplitFiles, read_splits, summarise
from pipeline.formats.numbering import number_uniquely
from tests.perfect_detections import perfect_aps

WIDTH, HEIGHT = 20, 10
# Small numbers meet each other and the places 0, 1, 2, ...; large ones are beyond 2^31, and beyond 2^53 as well.
IDS = st.one_of(st.integers(-3, 6), st.integers(-(2**63), 2**63 - 1))
NAMES = ("cell", "virus", "dust", "hair", "0")


@st.composite
def coco_contents(draw: st.DrawFn) -> dict[str, Any]:
    """A file with some ids of any numbers in any order; every box has its own place, so that one knows it again."""
    category_ids = draw(st.lists(IDS, unique=True, min_size=1, max_size=len(NAMES)))
    image_ids = draw(st.lists(IDS, unique=True, min_size=1, max_size=3))
    owners = draw(st.lists(st.tuples(IDS, st.sampled_from(image_ids), st.sampled_from(category_ids)), max_size=12))
    boxes = [[x % WIDTH, 5 * (x // WIDTH), 1 + x, 4] for x in range(len(owners))]
    return {
        "images": [{"id": number, "file_name": f"{place}.png"} for place, number in enumerate(image_ids)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box}
            for (number, image, category), box in zip(owners, boxes, strict=True)
        ],
        "categories": [{"id": number, "name": name} for number, name in zip(category_ids, NAMES, strict=False)],
    }


def boxes_of(content: Any) -> Counter[tuple[str, str, float, float]]:
    """How often each file has a box of a class at a place."""
    files = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    return Counter(
        (files[box["image_id"]], names[box["category_id"]], *map(float, box["bbox"][:2]))
        for box in content["annotations"]
    )


def read_content(root: Path, content: Any, **arguments: Any) -> tuple[Split, list[str]]:
    (root / "train.json").write_text(json.dumps(content))
    splits, notes = read_splits("coco", str(root), {"train": SplitFiles("train.json", ".")}, **arguments)
    return splits["train"], notes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ids")
    for place in range(3):
        Image.new("L", (WIDTH, HEIGHT), place).save(root / f"{place}.png")
    return root


@settings(max_examples=50)
@given(content=coco_contents())
def test_no_id_changes_a_box_or_its_class(folder: Path, content: Any) -> None:
    split, _ = read_content(folder, content)
    prepared: Any = split.coco
    assert [category["name"] for category in prepared["categories"]] == [c["name"] for c in content["categories"]]
    assert boxes_of(prepared) == boxes_of(content)
    assert not split.dropped

    names = {category["id"]: category["name"] for category in content["categories"]}
    per_class = Counter(names[box["category_id"]] for box in content["annotations"])
    assert Counter(summarise({"train": split})["splits"]["train"]["boxes_per_class"]) == per_class


@settings(max_examples=50)
@given(content=coco_contents())
def test_prepared_ids_are_unique_and_those_of_annotations_begin_at_1(folder: Path, content: Any) -> None:
    split, notes = read_content(folder, content)
    prepared: Any = split.coco
    ids = {kind: [record["id"] for record in prepared[kind]] for kind in ("images", "annotations", "categories")}
    assert all(len(set(numbers)) == len(numbers) for numbers in ids.values())
    assert min(ids["annotations"], default=1) >= 1
    for kind in ("images", "categories"):
        assert ids[kind] == [record["id"] for record in content[kind]]
    given_ids = [box["id"] for box in content["annotations"]]
    assert {number for number in given_ids if number >= 1} <= set(ids["annotations"])
    has_note = any("annotation ids were changed" in note for note in notes)
    assert has_note == (given_ids != ids["annotations"])


@settings(max_examples=50)
@given(content=coco_contents().filter(lambda content: content["annotations"]))
def test_perfect_detections_have_ap_1_here_and_in_pycocotools(folder: Path, content: Any) -> None:
    prepared: Any = read_content(folder, content)[0].coco
    assert perfect_aps(prepared) == pytest.approx([1.0, 1.0])


@given(st.lists(st.one_of(st.none(), IDS)))
def test_numbers_are_unique_from_1_and_stay_where_they_can(ids: list[int | None]) -> None:
    numbers = number_uniquely(ids)
    assert len(set(numbers)) == len(ids)
    assert all(number >= 1 for number in numbers)
    firsts = {number: place for place, number in reversed(list(enumerate(ids))) if number is not None and number >= 1}
    assert all(numbers[place] == number for number, place in firsts.items())
    assert max(numbers, default=0) <= max([len(ids), *firsts])


def test_annotations_that_share_an_id_are_both_kept_and_reported(folder: Path) -> None:
    box = {"id": 4, "image_id": 1, "category_id": 1}
    content = {
        "images": [{"id": 1, "file_name": "0.png"}],
        "annotations": [box | {"bbox": [1, 1, 2, 2]}, box | {"bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    split, notes = read_content(folder, content)
    assert [kept["id"] for kept in split.coco["annotations"]] == [4, 1]
    expected = (
        "train: 1 of 2 annotation ids were changed, because they were below 1 or not unique; the first from 4 to 1"
    )
    assert notes == [expected]


@pytest.mark.parametrize("word", [None, "1", 1.0, True, [1]])
def test_id_of_another_type_finds_no_image_of_the_id_minus_1(folder: Path, word: Any) -> None:
    content = {
        "images": [{"id": -1, "file_name": "0.png"}],
        "annotations": [{"id": 1, "image_id": word, "category_id": -1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": -1, "name": "cell"}],
    }
    split, _ = read_content(folder, content)
    assert [finding.reason for finding in split.dropped] == [f"no image record with id {word}"]
