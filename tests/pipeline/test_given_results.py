"""Laws of results files from elsewhere: images and classes by id or name, and one clear sentence for what is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reports.given_results import as_detections, read_given_results
from retinanet.evaluation.coco_eval import coco_results, evaluate_detections
from tests.judged_world import random_results, random_truth

TRUTH: dict[str, Any] = {
    "images": [{"id": 4, "file_name": "test/left.png"}, {"id": 9, "file_name": "test/right.png"}],
    "categories": [{"id": 7, "name": "leaf"}, {"id": 3, "name": "brick"}],
    "annotations": [],
}
ROW = {"image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
READ = ROW | {"bbox": [1.0, 2.0, 3.0, 4.0]}


def read(content: Any, folder: Path) -> list[dict[str, Any]]:
    path = folder / "given.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_given_results(path, TRUTH)


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        ROW | {"image_id": "test/right.png"},
        ROW | {"image_id": "right.png"},
        {key: value for key, value in ROW.items() if key != "image_id"} | {"file_name": "right.png"},
        ROW | {"category_id": "brick"},
        {key: value for key, value in ROW.items() if key != "category_id"} | {"category": "brick"},
        ROW | {"segmentation": [], "area": 12},
    ],
)
def test_images_and_classes_are_named_by_id_or_name(row: dict[str, Any], tmp_path: Path) -> None:
    assert read([row], tmp_path) == [READ]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image_id": 5}, r"row 2 of .*given\.json: image 5 is not in the split, which has 2"),
        ({"image_id": "test/rigth.png"}, r"image 'test/rigth.png' is not in .*the nearest is test/right.png"),
        ({"image_id": True}, "image True is not in the split"),
        ({"category_id": 1}, "category 1 is not in the split, which has 2"),
        ({"category_id": "bricks"}, "category 'bricks' is not in the split.*the nearest is brick"),
        ({"image_id": None}, "it has no image_id or file_name, only image_id, category_id, bbox, score"),
        ({"bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\]; expected \[x, y, width, height\] in px"),
        ({"bbox": [1, 2, -3, 4]}, "expected .x, y, width, height. in px"),
        ({"score": 87.5}, "score is 87.5; expected a number from 0 to 1"),
        ({"score": None}, "score is None; expected a number from 0 to 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        read([ROW, ROW | change], tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"annotations": []}, "given.json holds a JSON object; give a COCO results file: a JSON list of rows"),
        ("[", "given.json cannot be read .*; give a COCO results file"),
        ([1], "row 1 of .*: it is int, not an object with image_id"),
    ],
)
def test_other_files_are_refused(content: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(content, tmp_path)
    with pytest.raises(ValueError, match=r"none\.json does not exist; give a COCO results file"):
        read_given_results(tmp_path / "none.json", TRUTH)


def test_name_that_two_images_share_names_neither(tmp_path: Path) -> None:
    truth = TRUTH | {"images": [{"id": 1, "file_name": "a/x.png"}, {"id": 2, "file_name": "b/x.png"}]}
    path = tmp_path / "given.json"
    path.write_text(json.dumps([ROW | {"image_id": "b/x.png"}]))
    assert read_given_results(path, truth)[0]["image_id"] == 2
    path.write_text(json.dumps([ROW | {"image_id": "x.png"}]))
    with pytest.raises(ValueError, match=r"image 'x\.png' is not in the split"):
        read_given_results(path, truth)


def test_gzipped_rows_give_the_detections_that_they_came_from(tmp_path: Path) -> None:
    truth = random_truth(3)
    detections = as_detections(truth, random_results(truth, 4))
    path = tmp_path / "given.json.gz"
    path.write_bytes(gzip.compress(json.dumps(list(coco_results(truth, detections))).encode()))
    again = as_detections(truth, read_given_results(path, truth))
    assert list(again) == [image["id"] for image in truth["images"]]
    for image_id, arrays in detections.items():
        assert all(np.array_equal(*pair) for pair in zip(arrays, again[image_id], strict=True))
    assert evaluate_detections(truth, again) == evaluate_detections(truth, detections)
