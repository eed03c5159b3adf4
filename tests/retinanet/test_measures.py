"""Laws of the measures: COCO's figures, hand-worked ones, and intervals that can be repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.reports.given_results import as_detections
from retinanet.evaluation.analysis import ERROR_KINDS, IGNORED, RIGHT, Analysis, Figure
from retinanet.evaluation.bootstrap import describe_figure, draw_weights
from retinanet.evaluation.coco_eval import ImageDetections, coco_results, evaluate_detections
from retinanet.evaluation.coco_evaluator import evaluate_rows
from retinanet.evaluation.judged_split import judge_split
from retinanet.evaluation.matching import match_all
from retinanet.evaluation.measures import BANDS, analyse, measure_bands
from tests.judged_world import random_results, random_truth, with_copies

THRESHOLDS = (0.3, 0.5, 0.7)
Detections = dict[int, ImageDetections]


def random_world(seed: int, *, num_images: int = 40) -> tuple[dict[str, Any], Detections]:
    truth = random_truth(seed, num_images=num_images)
    return truth, as_detections(truth, random_results(truth, seed + 100, jitter=0.12))


def measure(
    truth: dict[str, Any],
    detections: Detections,
    *,
    resamples: int = 0,
    thresholds: tuple[float, ...] | None = THRESHOLDS,
) -> Analysis:
    metrics = evaluate_detections(truth, detections).metrics
    return analyse(truth, match_all(truth, detections), metrics, thresholds=thresholds, resamples=resamples)


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_coco(seed: int) -> None:
    truth, detections = random_world(seed)
    metrics = evaluate_detections(truth, detections).metrics
    # Without the values that are taken over from the metrics.
    found = analyse(truth, match_all(truth, detections), {}, thresholds=THRESHOLDS, resamples=0)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"):
        assert found.overall[name].value == pytest.approx(metrics[name], abs=1e-12), name
    for one in found.classes:
        assert one.ap.value == pytest.approx(metrics[f"per_class.{one.name}.AP"], abs=1e-12)
        assert one.ap50.value == pytest.approx(metrics[f"per_class.{one.name}.AP50"], abs=1e-12)
    assert found.errors is not None
    assert found.errors.ap50.value == pytest.approx(metrics["AP50"], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_bands_are_those_of_the_evaluator(seed: int) -> None:
    truth, detections = random_world(seed)
    matching = match_all(truth, detections)
    bands = measure_bands(judge_split(truth, matching, None, draw_weights(len(truth["images"]), 0, seed=0)))
    assert {band.name for band in bands} >= {"s", "m", "l", "32-64", "64-96"}
    limits = {name: (low, high) for name, low, high in BANDS}
    for band in bands:
        area = [side**2 for side in limits[band.name]]
        evaluator = evaluate_rows(matching.ground_truth, matching.rows, max_detections=[100], area=area)
        evaluator.accumulate()
        precision = evaluator.eval["precision"][..., 0, 0]
        assert band.ap.value == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
        assert band.ap50.value == pytest.approx(precision[0][precision[0] > -1].mean(), abs=1e-12)
        assert band.recall == Figure(None)  # without a working point


@pytest.mark.parametrize("seed", range(2))
def test_resample_of_every_figure_is_that_of_the_copies(seed: int) -> None:
    truth, detections = random_world(seed, num_images=12)
    results = list(coco_results(truth, detections))
    weights = draw_weights(12, 1, seed=seed)
    measured = judge_split(truth, match_all(truth, detections), THRESHOLDS, weights)
    copied = with_copies(truth, results, weights[1])
    other = measure(copied[0], as_detections(*copied))
    found = analyse(truth, measured.matching, {}, thresholds=THRESHOLDS, resamples=1, seed=seed)
    # One resample has no spread: both bounds lie on the value. What it was is seen in the bands and in the weights.
    assert all(figure.low == figure.high for figure in found.overall.values())
    for name in ("precision", "recall"):
        kept = measured.in_use & (measured.verdicts.kinds != IGNORED)
        right = measured.sums(measured.images[kept & (measured.verdicts.kinds == RIGHT)])[1]
        crowd = measured.matching.ground_truth.crowd
        whole = measured.images[kept] if name == "precision" else measured.truth_images[~crowd]
        assert right / measured.sums(whole)[1] == pytest.approx(other.overall[name].value)


def test_a_class_by_hand() -> None:
    truth: dict[str, Any] = {
        "images": [{"id": 7}, {"id": 3}],
        "categories": [{"id": 1, "name": "brick"}, {"id": 2, "name": "leaf"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [50, 50, 40, 40], "area": 1600, "iscrowd": 0},
            {"id": 3, "image_id": 3, "category_id": 2, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 1},
        ],
    }
    box = np.array([[0, 0, 20, 20], [50, 50, 90, 90], [0, 0, 5, 5]], dtype=np.float32)
    detections = {
        7: (box, np.array([0.9, 0.4, 0.8], dtype=np.float32), np.array([1, 1, 1])),
        3: (box[:1], np.array([0.95], dtype=np.float32), np.array([1])),  # on the crowd
    }
    found = measure(truth, detections, thresholds=(0.5, 0.5))
    brick, leaf = found.classes
    assert (leaf.num_truths, leaf.num_images, leaf.num_detections, leaf.threshold) == (2, 1, 4, 0.5)
    assert (brick.num_truths, brick.ap, brick.recall) == (0, Figure(None), Figure(None))
    assert leaf.max_recall.value == 1.0
    # Above 0.5: the find and the small box, of which one is right; one of two truths.
    assert (leaf.precision.value, leaf.recall.value, leaf.f1.value) == (0.5, 0.5, 0.5)
    assert found.overall["recall"].value == 0.5
    assert {band.name: (band.num_truths, band.recall.value) for band in found.bands} == {
        "s": (1, 1.0),
        "m": (1, 0.0),
        "l": (0, None),
        "16-32": (1, 1.0),
        "32-64": (1, 0.0),
    }
    assert found.confusion is not None
    assert found.confusion.counts.tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 0]]
    assert found.errors is not None
    judged, truths = found.errors.detections, found.errors.truths
    assert judged.image_ids.tolist() == [3, 7, 7, 7]
    localisation = ERROR_KINDS.index("localisation")
    assert judged.kinds.tolist() == [IGNORED, RIGHT, ERROR_KINDS.index("background"), RIGHT]
    assert localisation not in judged.kinds  # an IoU of 25 / 400
    assert judged.truths.tolist() == [-1, 0, -1, 1]
    assert judged.ious.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert judged.in_use.tolist() == [True, True, True, False]
    assert (truths.found.tolist(), truths.found_in_use.tolist()) == ([True, True], [True, False])


def test_intervals_hold_the_value_and_are_repeated_exactly() -> None:
    truth, detections = random_world(5)
    first, second = (measure(truth, detections, resamples=50) for _ in range(2))
    assert first.overall == second.overall
    assert (first.classes, first.bands) == (second.classes, second.bands)
    figures = [*first.overall.values(), *(one.ap for one in first.classes), *(band.ap50 for band in first.bands)]
    for figure in figures:
        assert figure.value is not None and figure.low is not None and figure.high is not None
        assert figure.low < figure.value < figure.high


def test_interval_by_hand() -> None:
    # Percentiles 2.5 and 97.5 of 0.6, .., 1.0 are 0.61 and 0.99; their mean, 0.8, lies 0.1 above the value.
    figure = describe_figure(np.array([0.7, 0.6, 0.7, 0.8, 0.9, 1.0]))
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.7, 0.51, 0.89))
    assert describe_figure(np.array([0.7, np.nan])) == Figure(0.7)
    assert describe_figure(np.array([np.nan, 0.7])) == Figure(None)


def test_interval_holds_the_value_where_few_resamples_are_far_from_it() -> None:
    # A class in 4 of many images is missing from 2 % of the resamples: the percentiles stay, their mean moves by 0.005.
    figure = describe_figure(np.array([0.75, *[0.75] * 98, *[0.5] * 2]))
    assert (figure.low, figure.value, figure.high) == pytest.approx((0.75, 0.75, 0.755))


def test_without_a_working_point_or_resamples_the_rest_is_there() -> None:
    truth, detections = random_world(6)
    found = measure(truth, detections, thresholds=None)
    assert found.confusion is None and found.bootstrap is None
    assert {found.overall[name] for name in ("precision", "recall", "F1")} == {Figure(None)}
    assert found.overall["AP"].low is None and found.overall["AP"].value is not None
    assert found.errors is not None and found.errors.kinds["missed"].count_in_use is None
    assert not found.errors.detections.in_use.any()


def test_one_image_has_no_interval() -> None:
    truth, detections = random_world(5, num_images=1)
    found = measure(truth, detections, resamples=3)
    assert found.bootstrap is None and found.overall["AP"].value is not None
    assert {(figure.low, figure.high) for figure in found.overall.values()} == {(None, None)}


def test_no_detections_and_no_truths() -> None:
    truth, _ = random_world(7)
    nothing: Detections = {
        image["id"]: (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        for image in truth["images"]
    }
    assert measure(truth, nothing, resamples=3).overall["AP"] == Figure(0.0, 0.0, 0.0)
    bare = truth | {"annotations": []}
    assert measure(bare, nothing, resamples=3).overall["AP"] == Figure(None)
