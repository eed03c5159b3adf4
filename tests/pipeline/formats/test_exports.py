"""Data sets as Roboflow and CVAT export them, through the stage prepare: no class meets another, none is made up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.prepare import PREPARED, REPORT, main
from tests.perfect_detections import perfect_aps

REPOSITORY = Path(__file__).parents[3]
WIDTH, HEIGHT = 64, 48
CELLS = ("Platelets", "RBC", "WBC")
FOLDERS = {"train": "train", "val": "valid", "test": "test"}

Content = dict[str, Any]


def roboflow_categories(group: str = "cells", names: tuple[str, ...] = CELLS) -> list[Content]:
    """The data set's own name under id 0, then the classes from 1."""
    classes = [{"id": number, "name": name, "supercategory": group} for number, name in enumerate(names, start=1)]
    return [{"id": 0, "name": group, "supercategory": "none"}, *classes]


def cvat_categories(first: int = 0) -> list[Content]:
    return [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(CELLS, start=first)]


def random_content(seed: int, categories: list[Content], used: list[int]) -> Content:
    """Images and annotations with ids from 0; each picture has some boxes of the used category ids."""
    rng = np.random.default_rng(seed)
    images = [{"id": n, "file_name": f"{n}_jpg.rf.png", "width": WIDTH, "height": HEIGHT} for n in range(4)]
    boxes = [
        {"image_id": image["id"], "category_id": used[k % len(used)], "bbox": [8 * k, 4 * k, 6 + k, 5], "iscrowd": 0}
        for image in images
        for k in range(int(rng.integers(1, 7)))
    ]
    annotations = [box | {"id": n, "area": (6 + k) * 5} for n, box in enumerate(boxes) for k in [box["bbox"][2] - 6]]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def write_export(folder: Path, contents: dict[str, Content], *, classes: list[str] | None = None) -> None:
    """A folder for each split with _annotations.coco.json among the pictures, and params.yaml that names them."""
    for seed, (split, content) in enumerate(contents.items()):
        place = folder / "data/raw" / FOLDERS[split]
        place.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for image in content["images"]:
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / image["file_name"])
        (place / "_annotations.coco.json").write_text(json.dumps(content))
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    places = {
        split: {"annotations": f"{name}/_annotations.coco.json", "images": name} for split, name in FOLDERS.items()
    }
    params["data"] |= {"format": "coco", "root": "data/raw", "classes": classes, **places}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def prepare() -> tuple[dict[str, Any], Content]:
    """The prepared splits, and the report."""
    main([])
    splits = {split: json.loads((PREPARED / f"{split}.json").read_text()) for split in FOLDERS}
    return splits, json.loads(REPORT.read_text())


def boxes_per_class(content: Content) -> Counter[str]:
    names = {category["id"]: category["name"] for category in content["categories"]}
    return Counter(names[box["category_id"]] for box in content["annotations"])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("categories", "used"),
    [(roboflow_categories(), [1, 2, 3]), (cvat_categories(), [0, 1, 2]), (cvat_categories(1), [1, 3])],
)
def test_every_class_keeps_its_boxes_and_perfect_detections_have_ap_1(
    project: Path, categories: list[Content], used: list[int]
) -> None:
    contents = {split: random_content(seed, categories, used) for seed, split in enumerate(FOLDERS)}
    write_export(project, contents)
    splits, report = prepare()
    for split, content in contents.items():
        prepared = splits[split]
        assert [category["name"] for category in prepared["categories"]] == list(CELLS)
        assert boxes_per_class(prepared) == boxes_per_class(content)
        assert report["splits"][split]["boxes_per_class"] == {name: boxes_per_class(content)[name] for name in CELLS}
        assert report["splits"][split]["boxes_dropped"] == 0
        assert perfect_aps(prepared) == pytest.approx([1.0, 1.0])


def test_entry_that_names_the_data_set_is_no_class_and_the_report_says_so(project: Path) -> None:
    write_export(project, {split: random_content(0, roboflow_categories(), [1, 2, 3]) for split in FOLDERS})
    splits, report = prepare()
    assert [category["name"] for category in splits["train"]["categories"]] == list(CELLS)
    expected = (
        "category 'cells' (id 0) has no box and is the supercategory of all others: it names the data set and is "
        "not a class; list it in data.classes to make it one"
    )
    assert report["notes"].count(expected) == 1


def test_class_may_have_the_name_of_the_data_set(project: Path) -> None:
    contents = {split: random_content(0, roboflow_categories("fish", ("fish",)), [1]) for split in FOLDERS}
    write_export(project, contents)
    splits, _ = prepare()
    assert splits["train"]["categories"] == [{"id": 1, "name": "fish"}]
    assert boxes_per_class(splits["train"]) == boxes_per_class(contents["train"])


def test_entry_with_a_box_in_one_split_is_a_class_in_all(project: Path) -> None:
    contents = {split: random_content(0, roboflow_categories(), [1, 2, 3]) for split in FOLDERS}
    contents["test"] = random_content(1, roboflow_categories(), [0, 1])
    write_export(project, contents)
    splits, _ = prepare()
    assert all([c["name"] for c in prepared["categories"]] == ["cells", *CELLS] for prepared in splits.values())
    assert boxes_per_class(splits["test"]) == boxes_per_class(contents["test"])


def test_entry_that_data_classes_names_is_a_class(project: Path) -> None:
    contents = {split: random_content(0, roboflow_categories(), [1, 2, 3]) for split in FOLDERS}
    write_export(project, contents, classes=["WBC", "cells"])
    splits, report = prepare()
    assert splits["train"]["categories"] == [{"id": 3, "name": "WBC"}, {"id": 0, "name": "cells"}]
    assert not any("names the data set" in note for note in report["notes"])


@pytest.mark.parametrize(
    "categories",
    [
        # the supercategory of one other, not of all
        [*roboflow_categories(), {"id": 4, "name": "dust", "supercategory": "dirt"}],
        # no supercategory anywhere, as CVAT writes
        [{"id": 0, "name": "cells", "supercategory": ""}, *cvat_categories(1)],
        # the supercategory of all, itself included
        [{"id": 0, "name": "cells", "supercategory": "cells"}, *roboflow_categories()[1:]],
        # alone
        [{"id": 0, "name": "cells", "supercategory": "none"}],
    ],
)
def test_class_without_boxes_that_is_not_above_all_others_stays(project: Path, categories: list[Content]) -> None:
    used = [category["id"] for category in categories if category["name"] in CELLS]
    content = random_content(0, categories, used or [0])
    if not used:
        content["annotations"] = []
    write_export(project, dict.fromkeys(FOLDERS, content))
    splits, report = prepare()
    assert [c["name"] for c in splits["train"]["categories"]] == [c["name"] for c in categories]
    assert any(note.startswith("train has no box of") and "cells" in note for note in report["notes"])
