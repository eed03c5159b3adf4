"""The laws of retinanet/evaluation/coco_eval.py."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.evaluation.class_matches import match_detections
from retinanet.evaluation.coco_eval import ImageDetections, evaluate_detections, pack_detections, unpack_detections

COCO_NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def coco_truth(
    annotations: list[tuple[int, int, list[float]]],
    *,
    image_ids: tuple[int, ...] = (1,),
    categories: tuple[tuple[int, str], ...] = ((1, "cat"),),
    crowds: tuple[int, ...] = (),
) -> dict[str, Any]:
    """A prepared COCO dictionary of (image id, category id, bbox xywh); crowds are places in that list."""
    return {
        "info": {"root": "nowhere", "split": "test"},
        "images": [{"id": i, "file_name": f"{i}.png", "width": 640, "height": 480} for i in image_ids],
        "annotations": [
            {"id": index, "image_id": image_id, "category_id": category_id, "bbox": bbox}
            | {"area": bbox[2] * bbox[3], "iscrowd": int(index in crowds)}
            for index, (image_id, category_id, bbox) in enumerate(annotations)
        ],
        "categories": [{"id": category_id, "name": name} for category_id, name in categories],
    }


def box_array(*boxes: Sequence[float]) -> NDArray[np.float32]:
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def found(*rows: tuple[Sequence[float], float, int]) -> ImageDetections:
    """Detections of one image from rows of (box xyxy, score, label)."""
    return (
        box_array(*(box for box, _, _ in rows)),
        np.array([score for _, score, _ in rows], dtype=np.float32),
        np.array([label for _, _, label in rows], dtype=np.int64),
    )


def random_world(seed: int, *, num_images: int = 12) -> tuple[dict[str, Any], dict[int, ImageDetections]]:
    """Truths of three classes, one of them a crowd, and their jittered detections among false ones."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], {}
    for image_id in range(1, num_images + 1):
        corners = rng.uniform(0, 300, (rng.integers(0, 7), 2))
        bboxes = np.concatenate([corners, rng.uniform(8, 180, corners.shape)], axis=1)
        classes = rng.integers(0, 3, len(bboxes))
        annotations += [(image_id, 10 + 5 * int(k), b.tolist()) for k, b in zip(classes, bboxes, strict=True)]
        boxes = np.concatenate([bboxes, bboxes])
        boxes[:, 2:] += boxes[:, :2]
        boxes = (boxes + rng.normal(0, 6, boxes.shape)).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.where(rng.random(len(boxes)) < 0.8, np.tile(classes, 2), rng.integers(0, 3, len(boxes)))
        detections[image_id] = (boxes, rng.random(len(boxes)).astype(np.float32), labels)
    categories = ((10, "cat"), (15, "dog"), (20, "emu"))
    return coco_truth(annotations, image_ids=tuple(detections), categories=categories, crowds=(3,)), detections


def pycocotools_stats(truth: dict[str, Any], detections: dict[int, ImageDetections]) -> list[float]:
    """The twelve numbers by the road of pycocotools' own demo."""
    truth = copy.deepcopy(truth)
    for annotation in truth["annotations"]:
        annotation["id"] += 1  # an id of 0 would read as "no match"
    ids = [category["id"] for category in truth["categories"]]
    results = [
        {"image_id": image_id, "category_id": ids[label], "score": float(score)}
        | {"bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)]}
        for image_id, (boxes, scores, labels) in detections.items()
        for (x1, y1, x2, y2), score, label in zip(boxes, scores, labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = truth
        index.createIndex()
        evaluator = COCOeval(index, index.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


# Its annotation has the id 0, which pycocotools alone would read as "no match".
ONE_TRUTH = coco_truth([(1, 1, [0, 0, 10, 10])])


def test_one_truth_found_exactly_has_ap_1() -> None:
    metrics = evaluate_detections(ONE_TRUTH, {1: found(([0, 0, 10, 10], 0.9, 0))}).metrics
    assert [metrics[name] for name in ("AP", "AP50", "AP75", "AR1")] == pytest.approx([1.0] * 4)
    assert list(metrics) == [*COCO_NAMES, "per_class.cat.AP", "per_class.cat.AP50"]


def test_overlap_of_0_625_is_right_at_three_of_ten_thresholds() -> None:
    # 10 x 6.25 inside 10 x 10: IoU = 62.5 / 100 = .625, which passes .5, .55 and .6 of .5, .55, .., .95.
    metrics = evaluate_detections(ONE_TRUTH, {1: found(([0, 0, 10, 6.25], 0.9, 0))}).metrics
    assert metrics["AP"] == pytest.approx(3 / 10)
    assert metrics["AP50"] == pytest.approx(1.0)
    assert metrics["AP75"] == 0.0


@pytest.mark.parametrize(("score", "ap"), [(0.95, 1 / 2), (0.1, 1.0)])
def test_wrong_detection_halves_ap_if_its_score_is_higher_and_else_costs_nothing(score: float, ap: float) -> None:
    # By falling score: wrong (precision 0/1, recall 0), right (precision 1/2, recall 1): 1/2 at every recall.
    # The other way round: right (1/1, recall 1), and what follows after the last truth is not looked at.
    wrong = ([100, 100, 120, 120], score, 0)
    metrics = evaluate_detections(ONE_TRUTH, {1: found(wrong, ([0, 0, 10, 10], 0.9, 0))}).metrics
    assert metrics["AP"] == pytest.approx(ap)


def test_one_of_two_truths_found_has_ap_51_of_101() -> None:
    # Recall ends at 1/2: precision is 1 at the recalls 0, .01, .., .50 (51 of the 101 points) and 0 at the rest.
    truth = coco_truth([(1, 1, [0, 0, 10, 10]), (1, 1, [50, 50, 10, 10])])
    metrics = evaluate_detections(truth, {1: found(([0, 0, 10, 10], 0.9, 0))}).metrics
    assert metrics["AP"] == pytest.approx(51 / 101)
    assert metrics["AR100"] == pytest.approx(1 / 2)


def test_recalls_bear_the_numbers_of_max_detections() -> None:
    # Two truths, both found; one detection an image reaches a recall of 1/2.
    truth = coco_truth([(1, 1, [0, 0, 10, 10]), (1, 1, [50, 50, 10, 10])])
    detections = {1: found(([0, 0, 10, 10], 0.9, 0), ([50, 50, 60, 60], 0.8, 0))}
    metrics = evaluate_detections(truth, detections, max_detections=(1, 5, 300)).metrics
    assert [metrics["AR1"], metrics["AR5"], metrics["AR300"]] == pytest.approx([1 / 2, 1.0, 1.0])
    assert metrics["AP"] == pytest.approx(1.0)


def test_ap_is_the_mean_over_classes() -> None:
    truth = coco_truth([(1, 1, [0, 0, 10, 10]), (1, 2, [50, 50, 10, 10])], categories=((1, "cat"), (2, "dog")))
    metrics = evaluate_detections(truth, {1: found(([0, 0, 10, 10], 0.9, 0))}).metrics
    assert [metrics["per_class.cat.AP"], metrics["per_class.dog.AP"]] == pytest.approx([1.0, 0.0])
    assert metrics["AP"] == pytest.approx(1 / 2)


def test_a_kind_without_truth_is_none_and_json_stays_valid() -> None:
    # The truth is 10 x 10 = 100 px, small (below 32 * 32 = 1024); nothing is medium or large, and no dog exists.
    truth = coco_truth([(1, 1, [0, 0, 10, 10])], categories=((1, "cat"), (2, "dog")))
    metrics = evaluate_detections(truth, {1: found(([0, 0, 10, 10], 0.9, 0), ([0, 0, 9, 9], 0.9, 1))}).metrics
    assert [metrics["APs"], metrics["ARs"]] == pytest.approx([1.0, 1.0])
    assert [metrics[name] for name in ("APm", "APl", "ARm", "ARl", "per_class.dog.AP")] == [None] * 5
    assert metrics["AP"] == pytest.approx(1.0)  # the dog does not pull the mean
    json.dumps(metrics, allow_nan=False)


def test_crowd_is_an_ignored_region() -> None:
    # The crowd covers two detections, which count neither right nor wrong; the one truth is found: AP 1.
    truth = coco_truth([(1, 1, [0, 0, 10, 10]), (1, 1, [100, 100, 80, 80])], crowds=(1,))
    in_crowd = [([110, 110, 120, 120], 0.99, 0), ([130, 130, 140, 140], 0.98, 0)]
    metrics = evaluate_detections(truth, {1: found(*in_crowd, ([0, 0, 10, 10], 0.9, 0))}).metrics
    assert metrics["AP"] == pytest.approx(1.0)


def test_category_ids_may_have_gaps_and_any_order() -> None:
    # Label 0 is category 90 and label 1 category 7, their places in the list.
    truth = coco_truth([(1, 90, [0, 0, 10, 10]), (1, 7, [50, 50, 10, 10])], categories=((90, "cat"), (7, "dog")))
    result = evaluate_detections(truth, {1: found(([0, 0, 10, 10], 0.9, 0), ([50, 50, 60, 56.25], 0.8, 1))})
    assert result.metrics["per_class.cat.AP"] == pytest.approx(1.0)
    assert result.metrics["per_class.dog.AP"] == pytest.approx(3 / 10)  # IoU .625, as above
    cat_scores = {point.score for point in result.precision_recall if point.class_name == "cat"}
    assert cat_scores == {float(np.float32(0.9))}


def test_ids_above_2_to_the_31_are_kept_apart() -> None:
    first, second = 2**40 + 1, 2**40 + 2
    truth = coco_truth([(first, 1, [0, 0, 10, 10]), (second, 1, [20, 20, 10, 10])], image_ids=(first, second))
    for annotation in truth["annotations"]:
        annotation["id"] += 2**53  # where a float no longer tells neighbours apart
    detections = {first: found(([0, 0, 10, 10], 0.9, 0)), second: found(([20, 20, 30, 30], 0.9, 0))}
    packed = unpack_detections(pack_detections(detections))
    assert evaluate_detections(truth, packed).metrics["AP"] == pytest.approx(1.0)


def test_images_without_detections_or_truths_work() -> None:
    truth = coco_truth([(1, 1, [0, 0, 10, 10])], image_ids=(1, 2, 3, 4))
    # Image 2 has neither, image 3 a wrong detection of low score, image 4 is left out.
    detections = {1: found(([0, 0, 10, 10], 0.9, 0)), 2: found(), 3: found(([0, 0, 5, 5], 0.1, 0))}
    assert evaluate_detections(truth, detections).metrics["AP"] == pytest.approx(1.0)


def test_nothing_found_has_ap_0() -> None:
    result = evaluate_detections(ONE_TRUTH, {})
    assert result.metrics["AP"] == result.metrics["AR100"] == 0.0
    assert {point.precision for point in result.precision_recall} == {0.0}


@pytest.mark.parametrize("image_ids", [(), (1,)])
@pytest.mark.parametrize("categories", [(), ((1, "cat"),)])
def test_set_without_truth_has_no_numbers(image_ids: tuple[int, ...], categories: tuple[tuple[int, str], ...]) -> None:
    truth = coco_truth([], image_ids=image_ids, categories=categories)
    detections = {i: found(*[([0, 0, 5, 5], 0.5, 0)] * len(categories)) for i in image_ids}
    result = evaluate_detections(truth, detections)
    assert set(result.metrics.values()) == {None}
    assert result.precision_recall == []


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_pycocotools_to_the_last_bit(seed: int) -> None:
    truth, detections = random_world(seed)
    metrics = evaluate_detections(truth, detections).metrics
    ours = [-1.0 if metrics[name] is None else metrics[name] for name in COCO_NAMES]
    assert ours == pycocotools_stats(truth, detections)


def test_mean_precision_of_a_curve_is_its_ap() -> None:
    truth, detections = random_world(5)
    result = evaluate_detections(truth, detections)
    for name in ("cat", "dog", "emu"):
        curve = [p for p in result.precision_recall if p.class_name == name and p.iou == 0.5]
        assert len(curve) == 101
        assert np.mean([p.precision for p in curve]) == pytest.approx(result.metrics[f"per_class.{name}.AP50"])


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_order_of_detections_and_images_changes_nothing(seed: int) -> None:
    truth, detections = random_world(seed, num_images=4)
    rng = np.random.default_rng(seed)
    shuffled = {}
    for image_id in rng.permutation(list(detections)).tolist():
        order = rng.permutation(len(detections[image_id][1]))
        boxes, scores, labels = detections[image_id]
        shuffled[image_id] = (boxes[order], scores[order], labels[order])
    assert evaluate_detections(truth, shuffled) == evaluate_detections(truth, detections)


def test_evaluation_is_silent_and_changes_no_input(capsys: pytest.CaptureFixture[str]) -> None:
    truth, detections = random_world(6)
    before = copy.deepcopy((truth, detections))
    evaluate_detections(truth, detections)
    assert capsys.readouterr() == ("", "")
    assert truth == before[0]
    for now, old in zip(pack_detections(detections), pack_detections(before[1]), strict=True):
        np.testing.assert_array_equal(now, old)


def test_unknown_image_is_named() -> None:
    with pytest.raises(ValueError, match="image id 7, which is not among the 1 images"):
        evaluate_detections(ONE_TRUTH, {7: found()})


@pytest.mark.parametrize("label", [-1, 1])
def test_label_outside_the_categories_is_named(label: int) -> None:
    with pytest.raises(
        ValueError, match=f"image id 1 has a detection of label {label}, but the ground truth has 1 categ"
    ):
        evaluate_detections(ONE_TRUTH, {1: found(([0, 0, 5, 5], 0.5, label))})


@pytest.mark.parametrize("row", [([0, 0, float("nan"), 5], 0.5, 0), ([0, 0, 5, 5], float("inf"), 0)])
def test_detection_that_is_not_finite_is_refused(row: tuple[Sequence[float], float, int]) -> None:
    with pytest.raises(ValueError, match="image id 1 has a detection whose box or score is not finite"):
        evaluate_detections(ONE_TRUTH, {1: found(row)})


def test_each_truth_is_matched_once_and_by_its_class() -> None:
    truths, truth_labels = box_array([0, 0, 10, 10], [50, 50, 60, 60]), np.array([0, 1])
    boxes = box_array([0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [50, 50, 60, 55], [80, 80, 90, 90])
    labels = np.array([0, 0, 0, 1, 1])
    # Found; found already; wrong class; IoU 50/100 = .5, just enough; nothing there.
    assert match_detections(boxes, labels, truths, truth_labels).tolist() == [0, -1, -1, 1, -1]


def test_nothing_matches_nothing() -> None:
    none, no_labels = box_array(), np.zeros(0, np.int64)
    one, label = box_array([0, 0, 10, 10]), np.zeros(1, np.int64)
    assert match_detections(none, no_labels, one, label).tolist() == []
    assert match_detections(one, label, none, no_labels).tolist() == [-1]


@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_matches_are_those_of_the_evaluation(iou: float) -> None:
    # With one image and one class, the share of truths matched is the recall at which the curve ends.
    truth, detections = random_world(8, num_images=1)
    truth["annotations"] = [a | {"category_id": 10, "iscrowd": 0} for a in truth["annotations"]]
    boxes, scores, _ = detections[1]
    order, labels = np.argsort(-scores, kind="stable"), np.zeros(len(boxes), np.int64)
    boxes, scores = boxes[order], scores[order]
    truths = box_array(*([x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in truth["annotations"])))
    matches = match_detections(boxes, labels, truths, np.zeros(len(truths), np.int64), iou_threshold=iou)
    points = evaluate_detections(truth, {1: (boxes, scores, labels)}).precision_recall
    last = max(point.recall for point in points if point.iou == iou and point.precision > 0)
    assert len(truths) > 1
    assert last == pytest.approx((matches >= 0).sum() / len(truths), abs=0.01)


@settings(max_examples=30)
@given(counts=st.lists(st.integers(0, 4), max_size=5), seed=st.integers(0, 2**16))
def test_unpacking_undoes_packing(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    detections = {
        2**33 + 7 * index: (rng.random((n, 4), np.float32), rng.random(n, np.float32), rng.integers(0, 9, n))
        for index, n in enumerate(counts)
    }
    again = unpack_detections(pack_detections(detections))
    assert list(again) == list(detections)
    for arrays, old_arrays in zip(again.values(), detections.values(), strict=True):
        assert [array.dtype for array in arrays] == [np.float32, np.float32, np.int64]
        for array, old in zip(arrays, old_arrays, strict=True):
            np.testing.assert_array_equal(array, old)
