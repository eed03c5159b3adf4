"""Laws of right and wrong detections by score: COCO's matching, hand-worked and against the reported precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retinanet.evaluation.coco_eval import ImageDetections, evaluate_detections
from retinanet.evaluation.score_matches import describe_candidates, match_scores, pool
from retinanet.evaluation.working_point import choose_points
from tests.judged_world import random_results, random_truth


def plain_truth() -> dict[str, Any]:
    """One image with a leaf (label 1, though its id is lower) and a crowd of leaves beside it; no brick (label 0)."""
    leaf = {"image_id": 4, "category_id": 3, "area": 400}
    return {
        "images": [{"id": 4}, {"id": 9}],
        "categories": [{"id": 7, "name": "brick"}, {"id": 3, "name": "leaf"}],
        "annotations": [
            leaf | {"id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 0},
            leaf | {"id": 2, "bbox": [100, 100, 90, 90], "iscrowd": 1},
        ],
    }


def found(*rows: tuple[list[float], float, int]) -> ImageDetections:
    boxes, scores, labels = zip(*rows, strict=True)
    return np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels)


def detections_of(truth: dict[str, Any], seed: int) -> dict[int, ImageDetections]:
    label_of = {category["id"]: label for label, category in enumerate(truth["categories"])}
    rows: dict[int, list[Any]] = {image["id"]: [] for image in truth["images"]}
    for row in random_results(truth, seed):
        x, y, w, h = row["bbox"]
        rows[row["image_id"]].append(([x, y, x + w, y + h], row["score"], label_of[row["category_id"]]))
    return {image_id: found(*each) for image_id, each in rows.items() if each}


def test_matches_by_hand() -> None:
    # The second box of the leaf is a duplicate; 12 x 20 of 20 x 20 px is an IoU of 0.6, 8 x 20 one of 0.4.
    detections = {
        4: found(
            ([0, 0, 12, 20], 0.9, 1),  # right
            ([0, 0, 20, 20], 0.8, 1),  # a duplicate
            ([110, 110, 130, 130], 0.7, 1),  # on the crowd
            ([0, 0, 20, 20], 0.6, 0),  # of another class
        ),
        9: found(([0, 0, 8, 20], 0.5, 1)),  # on bare ground
    }
    brick, leaf = match_scores(plain_truth(), detections)
    assert (brick.scores.tolist(), brick.right.tolist(), brick.num_truths) == ([np.float32(0.6)], [False], 0)
    assert leaf.scores.tolist() == np.array([0.9, 0.8, 0.5], np.float32).tolist()
    assert (leaf.right.tolist(), leaf.num_truths) == ([True, False, False], 1)
    everything = pool([brick, leaf])
    assert everything.right.tolist() == [True, False, False, False]
    assert everything.num_truths == 1


def test_a_box_of_too_low_iou_is_wrong() -> None:
    for width, right in ((12, True), (8, False)):
        _, leaf = match_scores(plain_truth(), {4: found(([0, 0, width, 20], 0.9, 1))})
        assert leaf.right.tolist() == [right]


def test_counts_are_of_scores_above_the_threshold() -> None:
    _, leaf = match_scores(plain_truth(), {4: found(([0, 0, 20, 20], 0.75, 1), ([50, 50, 60, 60], 0.5, 1))})
    true, false = leaf.counts_above(np.array([0.8, 0.75, 0.6, 0.5, 0.0], np.float32))
    assert true.tolist() == [0, 0, 1, 1, 1]
    assert false.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_highest_precision_from_each_recall_on_is_that_of_the_coco_curve(seed: int) -> None:
    truth = random_truth(seed)
    detections = detections_of(truth, seed + 10)
    points = [point for point in evaluate_detections(truth, detections).precision_recall if point.iou == 0.5]
    for category, matches in zip(truth["categories"], match_scores(truth, detections), strict=True):
        true, false = matches.counts_above(np.append(matches.scores[1:], np.float32(0)))
        precision, recall = true / (true + false), true / matches.num_truths
        curve = [point for point in points if point.class_name == category["name"]]
        ours = [precision[recall >= point.recall].max(initial=0) for point in curve]
        assert len(ours) == 101
        assert ours == pytest.approx([point.precision for point in curve])


def test_thresholds_of_the_description_give_its_figures_on_the_same_split() -> None:
    truth = random_truth(5)
    detections = detections_of(truth, 6)
    description = {"working_point": describe_candidates(truth, detections, lowest=0.0)}
    for target in ("f1", {"precision": 0.9}, {"recall": 0.8}):
        points = choose_points(description, target)
        assert points is not None
        for point, matches in zip(points.classes, match_scores(truth, detections), strict=True):
            assert point is not None
            true, false = matches.counts_above(np.float32(point.threshold))
            assert true / (true + false) == pytest.approx(point.precision)
            assert true / matches.num_truths == pytest.approx(point.recall)
        true, false = pool(match_scores(truth, detections)).counts_above(np.float32(points.overall.threshold))
        assert true / (true + false) == pytest.approx(points.overall.precision)


def test_neither_truths_nor_detections_nor_images_are_needed() -> None:
    for truth in (
        plain_truth(),
        plain_truth() | {"annotations": []},
        plain_truth() | {"annotations": [], "images": []},
    ):
        described = describe_candidates(truth, {}, lowest=0.05)
        assert [one["thresholds"] for one in (described["overall"], *described["classes"])] == [[], [], []]
