"""Laws of AP by condition: it is that of the images alone."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.reports.given_results import as_detections
from retinanet.evaluation.bootstrap import draw_weights
from retinanet.evaluation.class_matches import split_by_class
from retinanet.evaluation.coco_eval import evaluate_detections
from retinanet.evaluation.conditions import MOST_VALUES, measure_conditions
from retinanet.evaluation.judged_split import judge_split
from retinanet.evaluation.matching import match_all
from tests.judged_world import random_results, random_truth


def world(columns: list[dict[str, Any] | None]) -> tuple[dict[str, Any], Any]:
    truth = random_truth(1, num_images=len(columns))
    for image, own in zip(truth["images"], columns, strict=True):
        if own is not None:
            image["columns"] = own
    return truth, as_detections(truth, random_results(truth, 2))


def conditions(truth: dict[str, Any], detections: Any, resamples: int = 0) -> Any:
    matching = match_all(truth, detections)
    split = judge_split(truth, matching, None, draw_weights(len(truth["images"]), resamples, seed=0))
    return measure_conditions(split, split_by_class(truth, matching))


def test_ap_is_that_of_the_images_alone() -> None:
    cameras = ["north", "south", "south", None]
    truth, detections = world([{"camera": cameras[n % 4], "site": "all"} for n in range(40)])
    found = conditions(truth, detections, resamples=20)
    assert [(one.column, one.value, one.num_images) for one in found] == [
        ("camera", "south", 20),
        ("camera", "north", 10),
    ]
    for one in found:
        images = [image for image in truth["images"] if image["columns"]["camera"] == one.value]
        own = {image["id"] for image in images}
        alone = truth | {"images": images, "annotations": [a for a in truth["annotations"] if a["image_id"] in own]}
        metrics = evaluate_detections(alone, {image_id: detections[image_id] for image_id in own}).metrics
        assert one.ap.value == pytest.approx(metrics["AP"], abs=1e-12)
        assert one.ap50.value == pytest.approx(metrics["AP50"], abs=1e-12)
        assert one.num_truths == sum(not row["iscrowd"] for row in alone["annotations"])
        assert one.ap.low < one.ap.value < one.ap.high


def test_no_columns_are_no_conditions() -> None:
    assert conditions(*world([None] * 4)) == []


def test_column_of_many_values_shows_the_most_frequent() -> None:
    found = conditions(*world([{"patient": n // 2} for n in range(40)]))
    assert len(found) == MOST_VALUES
