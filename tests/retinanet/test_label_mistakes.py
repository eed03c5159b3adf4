"""Laws of the label mistakes: planted ones come first, and what is well labelled is not listed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from pipeline.reports.given_results import as_detections
from retinanet.evaluation.analysis import LabelMistake
from retinanet.evaluation.bootstrap import draw_weights
from retinanet.evaluation.judged_split import judge_split
from retinanet.evaluation.label_mistakes import find_label_mistakes
from retinanet.evaluation.matching import match_all

SIDE = 40


def labelled_world() -> dict[str, Any]:
    """Twelve images of two classes with two boxes each."""
    return {
        "images": [{"id": 3 * n, "file_name": f"{n}.png"} for n in range(12)],
        "categories": [{"id": 5, "name": "brick"}, {"id": 6, "name": "leaf"}],
        "annotations": [
            {
                "id": 100 + 2 * n + place,
                "image_id": 3 * n,
                "category_id": 5 + place,
                "bbox": [100 * place, 10, SIDE, SIDE],
                "area": SIDE**2,
                "iscrowd": 0,
            }
            for n in range(12)
            for place in range(2)
        ],
    }


def mistakes_of(truth: dict[str, Any], right: dict[str, Any], **thresholds: Any) -> list[LabelMistake]:
    """With a detector that finds the right labels with a score of 0.9, and beside them noise of a score of 0.2."""
    rows = [row | {"score": 0.9} for row in right["annotations"]]
    rows += [row | {"score": 0.2, "bbox": [200, 200, 9, 9]} for row in right["annotations"]]
    matching = match_all(truth, as_detections(truth, rows))
    split = judge_split(truth, matching, thresholds.get("thresholds", (0.5, 0.5)), draw_weights(12, 0, seed=0))
    return find_label_mistakes(split)


def test_planted_mistakes_come_first_and_alone() -> None:
    right = labelled_world()
    truth = copy.deepcopy(right)
    forgotten = truth["annotations"].pop(4)
    truth["annotations"][10]["category_id"] = 5  # a leaf
    truth["annotations"][15]["bbox"][0] += SIDE / 2  # IoU 20 / 60
    found = mistakes_of(truth, right)
    assert [one.kind for one in found] == ["not labelled", "other class", "box"]
    missing, other, box = found
    assert (missing.image_id, missing.file_name, missing.truth_id) == (6, "2.png", None)
    assert missing.box == tuple(
        float(side) for side in np.cumsum([forgotten["bbox"][:2], [SIDE, SIDE]], axis=0).ravel()
    )
    assert (other.truth_id, other.label, other.truth_label) == (111, 1, 0)
    assert other.iou == 1.0
    assert (box.truth_id, box.label, box.truth_label) == (116, 0, 0)
    assert box.iou == pytest.approx(1 / 3)
    assert [one.suspicion for one in found] == pytest.approx([0.9, 0.9, 0.9 * 2 / 3])


def test_labels_that_agree_are_not_listed() -> None:
    truth = labelled_world()
    assert mistakes_of(truth, truth) == []
    assert mistakes_of(truth, truth, thresholds=None) == []


def test_truth_that_its_class_finds_is_not_of_another_class() -> None:
    truth = labelled_world()
    both = copy.deepcopy(truth)
    both["annotations"].append(both["annotations"][0] | {"category_id": 6})
    assert mistakes_of(truth, both) == []


def test_most_suspicious_are_kept() -> None:
    right = labelled_world()
    found = mistakes_of(right | {"annotations": []}, right)
    assert len(found) == 24
    assert len({(one.image_id, one.box) for one in found}) == 24
