"""Metrics, curves and matches are those of pycocotools, to the last bit, where boxes crowd and scores are equal."""

from __future__ import annotations

import contextlib
import copy
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import retinanet
from retinanet.evaluation.class_matches import ClassMatches, match_results, split_by_class
from retinanet.evaluation.coco_eval import ImageDetections, coco_results, evaluate_detections
from retinanet.evaluation.coco_evaluator import GroundTruth, Rows
from retinanet.evaluation.matching import match_all, match_area

COCO_NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
LIMITS = ((1, 10, 100), (1, 2, 5))


def crowded_world(seed: int, *, num_images: int = 9) -> tuple[dict[str, Any], dict[int, ImageDetections]]:
    """Heaps of boxes on a coarse grid, so that overlaps and scores are often equal; crowds; ids in any order."""
    rng = np.random.default_rng(seed)
    image_ids, category_ids = rng.permutation(100)[:num_images].tolist(), rng.permutation(50)[:4].tolist()
    annotations, detections = [], {}
    for image_id in image_ids:
        count = rng.integers(0, 12)
        boxes = np.concatenate([4 * rng.integers(0, 8, (count, 2)), 8 * rng.integers(1, 16, (count, 2))], axis=1)
        labels = rng.integers(0, 3, count)  # of the fourth class there is no truth
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            area = 0.7 * box[2] * box[3]  # as of a mask
            row = {"id": len(annotations), "image_id": image_id, "category_id": category_ids[label], "bbox": box}
            annotations.append(row | {"area": area, "iscrowd": int(rng.random() < 0.15)})
        found = np.concatenate([boxes, boxes, boxes, 8 * rng.integers(1, 16, (5, 4))])
        found = np.maximum(found + 4 * rng.integers(-1, 2, found.shape), [0, 0, 4, 4]).astype(np.float32)
        found[:, 2:] += found[:, :2]
        guessed = np.concatenate([labels, labels, rng.integers(0, 4, count + 5)])
        detections[image_id] = (found, (rng.integers(1, 9, len(found)) / 8).astype(np.float32), guessed)
    truth = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": category_id, "name": f"c{category_id}"} for category_id in category_ids],
        "annotations": annotations,
    }
    return truth, {image_id: detections[image_id] for image_id in reversed(image_ids)}


def judge(truth: dict[str, Any], rows: list[dict[str, Any]], limits: tuple[int, ...]) -> COCOeval:
    """By pycocotools alone; ids of annotations begin at 1, as it takes a 0 for no match."""
    with contextlib.redirect_stdout(io.StringIO()):
        truths, results = COCO(), COCO()
        for index, annotations in ((truths, truth["annotations"]), (results, rows)):
            numbered = [{**row, "id": i} for i, row in enumerate(copy.deepcopy(annotations), start=1)]
            index.dataset = {**truth, "annotations": numbered}
            index.createIndex()
        for row in results.dataset["annotations"]:
            row |= {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        evaluator = COCOeval(truths, results, "bbox")
        evaluator.params.maxDets = list(limits)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def mean_of(values: np.ndarray) -> float | None:
    return float(values[values > -1].mean()) if (values > -1).any() else None


def metrics_of(evaluator: COCOeval, names: list[str], limits: tuple[int, ...]) -> dict[str, float | None]:
    precision, recall = evaluator.eval["precision"][..., -1], evaluator.eval["recall"]  # [T, R, K, S], [T, K, S, M]
    values = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]]
    values += [precision[..., size] for size in (1, 2, 3)]
    values += [recall[:, :, 0, m] for m in range(3)] + [recall[:, :, size, -1] for size in (1, 2, 3)]
    keys = list(COCO_NAMES)
    keys[6:9] = [f"AR{limit}" for limit in limits]
    metrics = {key: mean_of(each) for key, each in zip(keys, values, strict=True)}
    for k, name in enumerate(names):
        metrics[f"per_class.{name}.AP"] = mean_of(precision[:, :, k, 0])
        metrics[f"per_class.{name}.AP50"] = mean_of(precision[0, :, k, 0])
    return metrics


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("seed", range(12))
def test_all_figures_and_curves_are_those_of_pycocotools(seed: int, limits: tuple[int, ...]) -> None:
    truth, detections = crowded_world(seed)
    evaluator = judge(truth, list(coco_results(truth, detections)), limits)
    names = [f"c{category_id}" for category_id in evaluator.params.catIds]
    ours = evaluate_detections(truth, detections, max_detections=limits)
    theirs = metrics_of(evaluator, names, limits)
    assert ours.metrics == theirs

    curves = np.array([point[2:] for point in ours.precision_recall]).reshape(-1, 2, 101, 3)  # [K, IoU, R, 3]
    known = [k for k in range(len(names)) if evaluator.eval["precision"][0, 0, k, 0, -1] > -1]
    assert len(curves) == len(known) == 3
    for curve, k in zip(curves, known, strict=True):
        for place, t in enumerate((0, 5)):
            np.testing.assert_array_equal(curve[place, :, 0], evaluator.params.recThrs)
            np.testing.assert_array_equal(curve[place, :, 1], evaluator.eval["precision"][t, :, k, 0, -1])
            np.testing.assert_array_equal(curve[place, :, 2], evaluator.eval["scores"][t, :, k, 0, -1])


@pytest.mark.parametrize("limit", [100, 3])
@pytest.mark.parametrize("seed", range(6))
def test_every_match_is_that_of_pycocotools(seed: int, limit: int) -> None:
    truth, detections = crowded_world(seed)
    rows = list(coco_results(truth, detections))
    evaluator = judge(truth, rows, (limit,))
    matching = match_all(truth, detections, max_detections=limit)
    for index, area in enumerate(evaluator.params.areaRng):  # all sizes, then small, medium and large
        ours = split_by_class(truth, match_area(matching, area), area)
        check_matches(evaluator, truth, ours, area_index=index)
    for one, other in zip(
        split_by_class(truth, matching), match_results(truth, rows, max_detections=limit), strict=True
    ):
        assert all(np.array_equal(*fields) for fields in zip(one, other, strict=True))


def check_matches(evaluator: COCOeval, truth: dict[str, Any], ours: Sequence[ClassMatches], *, area_index: int) -> None:
    num_images = len(truth["images"])
    listed = [image["id"] for image in truth["images"]]
    for category, matches in zip(truth["categories"], ours, strict=True):
        cell = evaluator.params.catIds.index(category["id"]) * 4 + area_index
        images = evaluator.evalImgs[cell * num_images : (cell + 1) * num_images]
        seen = [image for image in images if image is not None]
        places = np.array([listed.index(image["image_id"]) for image in seen for _ in image["dtScores"]])
        scores = np.array([score for image in seen for score in image["dtScores"]])
        order = np.argsort(-scores, kind="mergesort")
        ignored = np.concatenate([image["dtIgnore"] for image in seen], axis=1)[:, order].astype(bool)
        matched = np.concatenate([image["dtMatches"] > 0 for image in seen], axis=1)[:, order]
        assert matches.images.tolist() == places[order].tolist()
        assert matches.scores.tolist() == scores[order].tolist()
        np.testing.assert_array_equal(matches.ignored, ignored)
        np.testing.assert_array_equal(matches.right, matched & ~ignored)
        counts = {image["image_id"]: np.count_nonzero(image["gtIgnore"] == 0) for image in seen}
        assert matches.num_truths.tolist() == [counts.get(image_id, 0) for image_id in listed]


def evaluate_rows_by_pycocotools(
    ground_truth: GroundTruth, rows: Rows, *, max_detections: Sequence[int], area: Sequence[float] | None = None
) -> COCOeval:
    """coco_evaluator.evaluate_rows without hotcoco, but for the index that it reads the ground truth from."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = ground_truth.coco.dataset
        index.createIndex()
        evaluator = COCOeval(index, index.loadRes(rows), "bbox")
        evaluator.params.maxDets = list(max_detections)
        if area is not None:
            evaluator.params.areaRng, evaluator.params.areaRngLbl = [list(area)], ["range"]
        evaluator.evaluate()
    return evaluator


@pytest.mark.parametrize("seed", range(3))
def test_pycocotools_can_stand_in_for_hotcoco(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, detections = crowded_world(seed)
    result = evaluate_detections(truth, detections)
    monkeypatch.setattr("retinanet.evaluation.coco_eval.evaluate_rows", evaluate_rows_by_pycocotools)
    with contextlib.redirect_stdout(io.StringIO()):
        assert evaluate_detections(truth, detections) == result


def test_annotations_and_results_of_other_images_and_categories_are_left_out() -> None:
    truth, detections = crowded_world(4)
    rows = list(coco_results(truth, detections))
    stray = [{**rows[0], "image_id": 1000}, {**rows[0], "category_id": 1000}]
    strays = [{**truth["annotations"][0], "image_id": 1000}, {**truth["annotations"][0], "category_id": 1000}]
    more = {**truth, "annotations": truth["annotations"] + strays}
    assert evaluate_detections(more, detections) == evaluate_detections(truth, detections)
    for one, other in zip(match_results(more, rows + stray), match_results(truth, rows), strict=True):
        assert all(np.array_equal(*fields) for fields in zip(one, other, strict=True))


def test_no_other_folder_of_the_detector_needs_the_evaluator() -> None:
    """So it trains and detects where hotcoco is not installed."""
    files = [path for path in Path(retinanet.__path__[0]).rglob("*.py") if path.parent.name != "evaluation"]
    assert len(files) > 10
    assert [path for path in files if re.search("retinanet.evaluation|hotcoco", path.read_text())] == []
