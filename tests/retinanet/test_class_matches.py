"""Laws of retinanet/evaluation/class_matches.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retinanet.evaluation.class_matches import match_results
from retinanet.evaluation.coco_eval import coco_results, evaluate_detections
from tests.judged_world import as_row, exact_results, random_results, random_truth


def plain_truth() -> dict[str, Any]:
    """Images 9 and 4, in this order, of classes 7 and 3; a truth of class 3 in image 4 and a crowd beside it."""
    box = {"image_id": 4, "category_id": 3, "area": 400}
    return {
        "images": [{"id": 9}, {"id": 4}],
        "categories": [{"id": 7, "name": "leaf"}, {"id": 3, "name": "brick"}],
        "annotations": [
            box | {"id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 0},
            box | {"id": 2, "bbox": [100, 100, 90, 90], "iscrowd": 1},
        ],
    }


def test_matches_by_hand() -> None:
    # 16 of 20 px: IoU .8, right at .5, .55, .., .8 (seven of ten); on the crowd; on bare ground.
    rows = [(4, [0, 0, 20, 16], 0.5), (4, [110, 110, 20, 20], 0.9), (9, [0, 0, 20, 20], 0.7)]
    leaf, brick = match_results(plain_truth(), [as_row(i, 3, box, score) for i, box, score in rows])
    assert (leaf.images.size, leaf.num_truths.tolist()) == (0, [0, 0])
    assert brick.scores.tolist() == [0.9, 0.7, 0.5]
    assert brick.images.tolist() == [1, 0, 1]  # places in the truth's list, not ids
    assert brick.num_truths.tolist() == [0, 1]  # the crowd does not count
    assert brick.right.sum(axis=0).tolist() == [0, 0, 7]
    assert brick.ignored.sum(axis=0).tolist() == [10, 0, 0]


def test_only_the_best_detections_of_an_image_and_class_are_matched() -> None:
    rows = [as_row(9, 7, [5 * i, 0, 20, 20], 0.1 * i) for i in range(1, 6)]
    leaf, _ = match_results(plain_truth(), rows, max_detections=2)
    assert leaf.scores.tolist() == [0.5, 0.4]


@pytest.mark.parametrize("seed", range(3))
def test_share_of_right_detections_is_the_recall(seed: int) -> None:
    truth = random_truth(seed)
    matches = match_results(truth, random_results(truth, seed + 10))
    found = np.stack([one.right.sum(axis=1) / one.num_truths.sum() for one in matches])
    boxes = {image["id"]: [] for image in truth["images"]}
    label_of = {category["id"]: label for label, category in enumerate(truth["categories"])}
    for row in random_results(truth, seed + 10):
        x, y, w, h = row["bbox"]
        boxes[row["image_id"]].append(([x, y, x + w, y + h], row["score"], label_of[row["category_id"]]))
    detections = {
        image_id: (
            np.array([box for box, _, _ in rows]).reshape(-1, 4),
            np.array([score for _, score, _ in rows]),
            np.array([label for _, _, label in rows], dtype=np.int64),
        )
        for image_id, rows in boxes.items()
    }
    assert found.mean() == pytest.approx(evaluate_detections(truth, detections).metrics["AR100"])


def test_neither_truths_nor_images_are_needed() -> None:
    for truth in (plain_truth() | {"annotations": []}, plain_truth() | {"annotations": [], "images": []}):
        assert [one.right.shape for one in match_results(truth, [])] == [(10, 0), (10, 0)]


def test_inputs_are_not_changed() -> None:
    truth = random_truth(4)
    results = exact_results(truth)
    match_results(truth, results)
    assert truth == random_truth(4)
    assert results == exact_results(truth)


def test_rows_of_a_results_file_have_corners_as_sides() -> None:
    found = (np.array([[1.5, 2.0, 4.0, 8.0]], np.float32), np.array([0.25], np.float32), np.array([1]))
    row = {"image_id": 4, "category_id": 3, "bbox": [1.5, 2.0, 2.5, 6.0], "score": 0.25}
    assert list(coco_results(plain_truth(), {4: found})) == [row]
