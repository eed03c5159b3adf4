"""Laws of the bootstrap: exact AP of every resample, and intervals that tell runs apart where there is a difference."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.evaluation.bootstrap import (
    RECALLS,
    Difference,
    average_precision,
    compare_matches,
    draw_weights,
    summarise,
)
from retinanet.evaluation.class_matches import match_results
from tests.judged_world import CLASSES, Row, as_row, exact_results, random_results, random_truth, with_copies

WIDTH = 1e-12


def compare(truth: dict[str, Any], a: list[Row], b: list[Row], *, resamples: int = 300) -> dict[str, Difference]:
    names = [category["name"] for category in truth["categories"]]
    matches = [match_results(truth, results) for results in (a, b)]
    return compare_matches(*matches, class_names=names, resamples=resamples, seed=0)


def metrics_of(truth: dict[str, Any], results: list[Row], weights: NDArray[np.int64]) -> dict[str, float]:
    values = summarise(average_precision(match_results(truth, results), weights[None]), CLASSES)
    return {name: float(value[0]) for name, value in values.items()}


def pycocotools_metrics(truth: dict[str, Any], results: list[Row]) -> dict[str, float]:
    """By the road of pycocotools' own demo; NaN where it says -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = truth
        index.createIndex()
        evaluator = COCOeval(index, index.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    by_class = evaluator.eval["precision"][..., 0, -1].mean(axis=(0, 1))
    values = {"AP": evaluator.stats[0], "AP50": evaluator.stats[1], "AP75": evaluator.stats[2]}
    values |= {f"per_class.{name}.AP": value for name, value in zip(CLASSES, by_class, strict=True)}
    return {name: float(value) if value > -1 else float("nan") for name, value in values.items()}


@pytest.mark.parametrize("seed", range(4))
def test_every_image_once_gives_the_ap_of_pycocotools(seed: int) -> None:
    truth = random_truth(seed)
    results = random_results(truth, seed + 100)
    ours = metrics_of(truth, results, np.ones(len(truth["images"]), dtype=np.int64))
    assert ours == pytest.approx(pycocotools_metrics(truth, results), abs=WIDTH)
    assert 0.2 < ours["AP"] < 0.9


@pytest.mark.parametrize("seed", range(6))
def test_resample_gives_the_ap_that_pycocotools_has_of_the_copies(seed: int) -> None:
    truth = random_truth(seed, num_images=12)
    results = random_results(truth, seed + 100)
    weights = draw_weights(12, 1, seed=seed)[1]
    assert weights.max() > 1 and weights.min() == 0
    theirs = pycocotools_metrics(*with_copies(truth, results, weights))
    assert metrics_of(truth, results, weights) == pytest.approx(theirs, abs=WIDTH, nan_ok=True)


def test_chunks_of_resamples_give_what_they_give_together(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_truth(1)
    matches, weights = match_results(truth, random_results(truth, 2)), draw_weights(40, 30, seed=1)
    together = average_precision(matches, weights)
    monkeypatch.setattr("retinanet.evaluation.bootstrap.CELLS", 1)
    np.testing.assert_array_equal(average_precision(matches, weights), together)


def test_recalls_are_those_of_coco() -> None:
    np.testing.assert_array_equal(RECALLS, COCOeval(iouType="bbox").params.recThrs)


def test_resample_draws_as_many_images_as_there_are() -> None:
    weights = draw_weights(40, 50, seed=3)
    assert weights.shape == (51, 40)
    assert set(weights[0].tolist()) == {1}  # the images themselves
    assert set(weights.sum(axis=1).tolist()) == {40}
    np.testing.assert_array_equal(weights, draw_weights(40, 50, seed=3))


def test_run_against_itself_has_difference_zero_and_interval_zero() -> None:
    truth = random_truth(3)
    results = random_results(truth, 4)
    for metric in compare(truth, results, results).values():
        assert (metric.difference, metric.low, metric.high, metric.b_better, metric.a_better) == (0, 0, 0, 0, 0)


def test_runs_are_not_compared_on_one_image() -> None:
    truth = random_truth(3, num_images=1)
    with pytest.raises(ValueError, match="the split has 1 image, which says nothing about others"):
        compare(truth, [], exact_results(truth))


def test_swapping_the_runs_negates() -> None:
    truth = random_truth(5)
    a, b = random_results(truth, 6), random_results(truth, 7)
    there, back = compare(truth, a, b), compare(truth, b, a)
    for name, metric in there.items():
        other = back[name]
        assert (metric.a, metric.b, metric.b_better) == (other.b, other.a, other.a_better)
        assert (metric.difference, metric.low) == (
            -(other.difference or 0),
            pytest.approx(-(other.high or 0), abs=WIDTH),
        )


def test_strictly_better_detections_are_called_better() -> None:
    truth = random_truth(8)
    ap = compare(truth, random_results(truth, 9), exact_results(truth))["AP"]
    assert ap.b == pytest.approx(1.0)
    assert ap.low is not None and ap.low > 0
    assert ap.b_better == 1.0


def test_runs_equal_but_for_noise_are_not_told_apart() -> None:
    # Of 95 % intervals one in twenty errs, hence several worlds: far fewer than half may.
    told = 0
    for seed in range(10):
        truth = random_truth(seed, num_images=60)
        ap = compare(truth, random_results(truth, seed + 50), random_results(truth, seed + 70), resamples=200)["AP"]
        assert ap.low is not None and ap.high is not None
        told += not ap.low <= 0 <= ap.high
    assert told <= 2


def test_detection_on_a_crowd_is_neither_right_nor_wrong() -> None:
    truth = random_truth(10, num_images=1, crowds=0.0)
    image_id, category_id = truth["images"][0]["id"], truth["categories"][0]["id"]
    where = {"image_id": image_id, "category_id": category_id}
    truth["annotations"] = [
        where | {"id": 1, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
        where | {"id": 2, "bbox": [100, 100, 90, 90], "area": 8100, "iscrowd": 1},
    ]
    on_crowd = [as_row(image_id, category_id, [110 + 5 * i, 110, 20, 20], 0.95 - 0.01 * i) for i in range(3)]
    results = [*on_crowd, as_row(image_id, category_id, [0, 0, 20, 20], 0.5)]
    assert metrics_of(truth, results, np.array([2]))["AP"] == pytest.approx(1.0)
    # On plain ground the three come before the right one: precision 1/4.
    truth["annotations"] = truth["annotations"][:1]
    assert metrics_of(truth, results, np.array([1]))["AP"] == pytest.approx(1 / 4)


def test_wrong_detections_on_an_image_without_truths_count() -> None:
    truth = random_truth(11, num_images=2, crowds=0.0)
    (full, empty), category_id = [image["id"] for image in truth["images"]], truth["categories"][0]["id"]
    truth["annotations"] = [
        {"id": 1, "image_id": full, "category_id": category_id, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
    ]
    right, wrong = as_row(full, category_id, [0, 0, 20, 20], 0.5), as_row(empty, category_id, [0, 0, 20, 20], 0.9)
    # wrong before right: 1/2; twice the empty image: 1/3; without it: 1
    aps = [metrics_of(truth, [right, wrong], np.array(weights))["AP"] for weights in ([1, 1], [1, 2], [2, 0])]
    assert aps == pytest.approx([1 / 2, 1 / 3, 1.0])


def test_class_that_a_resample_lacks_is_left_out_there_and_counted() -> None:
    truth = random_truth(12)
    rare, first = truth["categories"][2]["id"], truth["images"][0]["id"]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != rare]
    only = {"id": 9999, "image_id": first, "category_id": rare, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
    truth["annotations"].append(only)
    metrics = compare(truth, random_results(truth, 13), exact_results(truth), resamples=400)
    # An image is in a resample of 40 with 1 - (39/40)^40 = .637.
    assert 0.5 < metrics[f"per_class.{CLASSES[2]}.AP"].resamples / 400 < 0.75
    assert metrics["AP"].resamples == 400


def test_class_without_truths_has_no_figures_and_joins_no_mean() -> None:
    truth = random_truth(14)
    absent = truth["categories"][1]["id"]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != absent]
    metrics = compare(truth, random_results(truth, 15), exact_results(truth))
    assert metrics[f"per_class.{CLASSES[1]}.AP"] == Difference(None, None, None, None, None, None, None, 0)
    assert metrics["AP"].b == pytest.approx(1.0)


def test_run_without_detections_has_ap_0() -> None:
    truth = random_truth(16)
    assert compare(truth, [], exact_results(truth))["AP"].a == 0.0


@pytest.mark.parametrize("num_images", [0, 3])
def test_split_without_truths_has_no_figures(num_images: int) -> None:
    truth = random_truth(17, num_images=num_images) | {"annotations": []}
    assert compare(truth, [], [])["AP"].difference is None
