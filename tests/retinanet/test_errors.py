"""Laws of the errors by kind: hand-worked cases, and hotcoco on random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.reports.given_results import as_detections
from retinanet.evaluation.analysis import ERROR_KINDS, IGNORED, RIGHT
from retinanet.evaluation.bootstrap import average_precision, draw_weights, mean_over_classes
from retinanet.evaluation.coco_eval import read_detections
from retinanet.evaluation.coco_evaluator import ALL_AREAS, evaluate_rows, read_ground_truth
from retinanet.evaluation.errors import VARIANTS, confuse, count_errors, find_errors, mended_matches
from retinanet.evaluation.matching import Matching, match_all, match_rows
from tests.judged_world import random_results, random_truth

BOX = [0, 0, 10, 10]
FOUR_TENTHS = [0, 0, 10, 4]  # of BOX
HOTCOCO = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN")


def world(truths: list[Any], detections: list[Any]) -> tuple[dict[str, Any], Matching]:
    """Two images, classes 1 and 2.

    Args:
        truths: image, class, box and perhaps 1 for a crowd.
        detections: image, class, box, score.
    """
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "brick"}, {"id": 2, "name": "leaf"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": sum(crowd)}
            for n, (i, c, b, *crowd) in enumerate(truths)
        ],
    }
    rows = np.array([[i, *box, score, c] for i, c, box, score in detections], dtype=np.float64).reshape(-1, 7)
    return truth, match_rows(read_ground_truth(truth), rows)


def gains(truth: dict[str, Any], matching: Matching) -> dict[str | None, float]:
    """What AP50 gains with each kind mended; under None, AP50."""
    matches = mended_matches(truth, matching, find_errors(matching))
    weights = draw_weights(len(truth["images"]), 0, seed=0)
    precision = average_precision(matches, weights)[0]  # [K, V]
    values = mean_over_classes(precision.T)
    return {
        name: float(value - (values[0] if v else 0))
        for v, (name, value) in enumerate(zip(VARIANTS, values, strict=True))
    }


CASES = {
    # Class 1: 0. Class 2: a false positive at 0.9 before its find at 0.8, AP 1/2; mended: 1 and 1, from a mean of 1/4.
    "classification": ([(1, 1, BOX), (2, 2, BOX)], [(1, 2, BOX, 0.9), (2, 2, BOX, 0.8)], 0.25, 0.75),
    "localisation": ([(1, 1, BOX)], [(1, 1, FOUR_TENTHS, 0.9)], 0.0, 1.0),
    # Nothing but a false positive goes; class 1 stays at 0, for class 2 has no truth.
    "both": ([(1, 1, BOX)], [(1, 2, FOUR_TENTHS, 0.9)], 0.0, 0.0),
    # Right, duplicate, right: precision 1 up to recall 1/2 (51 of 101 points), then 2/3.
    "duplicate": (
        [(1, 1, BOX), (2, 1, BOX)],
        [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8), (2, 1, BOX, 0.7)],
        (51 + 50 * 2 / 3) / 101,
        50 / 3 / 101,
    ),
    "background": ([(1, 1, BOX)], [(1, 1, [50, 50, 10, 10], 0.9), (1, 1, BOX, 0.8)], 0.5, 0.5),
    # Recall 1/2 at precision 1: 51 of 101 points.
    "missed": ([(1, 1, BOX), (2, 1, BOX)], [(1, 1, BOX, 0.9)], 51 / 101, 50 / 101),
}


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_error_of_each_kind_by_hand(kind: str) -> None:
    truths, detections, ap50, gain = CASES[kind]
    truth, matching = world(truths, detections)
    counts = count_errors(matching, find_errors(matching), np.ones(len(matching.rows), dtype=bool))
    others = {"missed": 1} if kind == "both" else {}  # whose truth nobody claims
    assert counts == dict.fromkeys(ERROR_KINDS, 0) | others | {kind: 1}
    measured = gains(truth, matching)
    assert measured[None] == pytest.approx(ap50)
    assert measured[kind] == pytest.approx(gain)


@pytest.mark.parametrize(
    ("truths", "detections", "kind"),
    [
        ([(1, 1, BOX), (1, 2, FOUR_TENTHS)], [(1, 1, FOUR_TENTHS, 0.9)], "localisation"),  # before classification
        ([(1, 1, BOX), (1, 2, BOX)], [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8)], "classification"),  # before duplicate
        ([(1, 1, BOX), (1, 2, BOX)], [(1, 1, FOUR_TENTHS, 0.9)], "localisation"),  # before both
        ([(1, 1, BOX)], [(1, 1, [0, 0, 10, 1], 0.9)], "localisation"),  # IoU 0.1
        ([(1, 1, BOX)], [(1, 1, [0, 0, 5, 1], 0.9)], "background"),  # IoU 0.05
        ([(1, 2, [0, 0, 50, 50], 1)], [(1, 1, BOX, 0.9)], "background"),  # on the crowd of another class
        ([], [(1, 1, BOX, 0.9)], "background"),
    ],
)
def test_one_kind_comes_before_another(truths: list[Any], detections: list[Any], kind: str) -> None:
    _, matching = world(truths, detections)
    assert find_errors(matching).kinds[-1] == ERROR_KINDS.index(kind)


def test_detection_on_a_crowd_is_no_error() -> None:
    truth, matching = world([(1, 1, [0, 0, 50, 50], 1), (2, 1, BOX)], [(1, 1, BOX, 0.9), (2, 1, BOX, 0.8)])
    verdicts = find_errors(matching)
    assert verdicts.kinds.tolist() == [IGNORED, RIGHT]
    assert not verdicts.missed.any()
    assert gains(truth, matching) == dict.fromkeys(VARIANTS, 0.0) | {None: pytest.approx(1.0)}


def test_of_two_errors_on_one_truth_the_surer_one_is_mended() -> None:
    _, matching = world([(1, 1, BOX)], [(1, 1, FOUR_TENTHS, 0.7), (1, 2, BOX, 0.9), (1, 2, BOX, 0.8)])
    verdicts = find_errors(matching)
    assert dict(zip(matching.rows[:, 5].tolist(), verdicts.mended.tolist(), strict=True)) == {
        0.7: False,
        0.9: True,
        0.8: False,
    }


@pytest.mark.parametrize("seed", range(8))
def test_counts_and_gains_are_those_of_hotcoco(seed: int) -> None:
    # Without crowds: hotcoco 1.3 calls a detection that lies on one by a quarter a localisation error.
    truth = random_truth(seed, num_images=25, crowds=0.0)
    results = [
        row
        for number, jitter in enumerate((0.05, 0.3, 0.8))  # no two scores are equal
        for row in random_results(truth, 10 * seed + number, jitter=jitter, found=0.6)
    ]
    for number, row in enumerate(results):
        row["category_id"] = row["category_id"] if number % 4 else truth["categories"][number % 3]["id"]
    detections = as_detections(truth, results)
    matching = match_all(truth, detections)
    ground_truth = read_ground_truth(truth)
    evaluator = evaluate_rows(
        ground_truth, read_detections(ground_truth, truth, detections), max_detections=[100], area=ALL_AREAS
    )
    evaluator.accumulate()
    theirs = evaluator.tide_errors()
    counts = count_errors(matching, find_errors(matching), np.ones(len(matching.rows), dtype=bool))
    assert min(counts.values()) > 0
    assert list(counts.values()) == [theirs["counts"][name] for name in HOTCOCO[:6]]
    measured = gains(truth, matching)
    assert measured.pop(None) == pytest.approx(theirs["ap_base"], abs=1e-9)
    assert list(measured.values()) == pytest.approx([theirs["delta_ap"][name] for name in HOTCOCO], abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_mending_never_costs(seed: int) -> None:
    truth = random_truth(seed)
    matching = match_all(truth, as_detections(truth, random_results(truth, seed, jitter=0.3)))
    assert min(gains(truth, matching).values()) >= 0


def test_perfect_precision_and_recall_give_all_that_is_missing() -> None:
    truth, matching = world([(1, 1, BOX), (2, 1, BOX)], [(2, 1, [50, 50, 9, 9], 0.9), (1, 1, BOX, 0.8)])
    measured = gains(truth, matching)
    assert measured[None] == pytest.approx(0.5 * 51 / 101)
    assert measured["false positives"] == pytest.approx(0.5 * 51 / 101)
    assert measured["false negatives"] == pytest.approx(0.5 - 0.5 * 51 / 101)


@pytest.mark.parametrize("alarms", [[], [(2, 2, [50, 50, 9, 9], 0.5)]])
def test_class_that_is_never_found_costs_what_it_takes_from_the_mean(alarms: list[Any]) -> None:
    truth, matching = world([(1, 1, BOX), (2, 2, BOX)], [(1, 1, BOX, 0.9), *alarms])
    measured = gains(truth, matching)
    assert measured[None] == pytest.approx(0.5)  # (1 + 0) / 2
    assert (measured["missed"], measured["false negatives"]) == pytest.approx((0.5, 0.5))


def test_confusion_by_hand() -> None:
    far = [70, 70, 9, 9]
    _, matching = world(
        [(1, 1, BOX), (1, 2, far), (2, 1, BOX), (2, 2, [30, 30, 9, 9])],
        # Found; a leaf taken for a brick; in image 2 a leaf on a brick, twice, and background below the threshold.
        [(1, 1, BOX, 0.9), (1, 1, far, 0.8), (2, 2, BOX, 0.7), (2, 2, BOX, 0.6), (2, 1, far, 0.1)],
    )
    kept = matching.rows[:, 5] > 0.5
    counts = confuse(matching, find_errors(matching), kept, [1, 2])
    assert counts.tolist() == [
        [1, 1, 0],  # bricks: found, taken for a leaf
        [1, 0, 1],  # leaves: taken for a brick, not detected
        [0, 1, 0],  # background: the second leaf on one brick
    ]


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_the_confusion_are_the_truths_and_columns_the_detections(seed: int) -> None:
    truth = random_truth(seed)
    matching = match_all(truth, as_detections(truth, random_results(truth, seed, jitter=0.3)))
    verdicts, kept = find_errors(matching), matching.rows[:, 5] > 0.3
    numbers = [matching.ground_truth.categories[category["id"]] for category in truth["categories"]]
    counts = confuse(matching, verdicts, kept, numbers)
    truths = matching.ground_truth.category_numbers[~matching.ground_truth.crowd]
    assert counts.sum(axis=1)[:-1].tolist() == [np.count_nonzero(truths == number) for number in numbers]
    detections = matching.rows[kept & (verdicts.kinds != IGNORED), 6]
    assert counts.sum(axis=0)[:-1].tolist() == [np.count_nonzero(detections == number) for number in numbers]
    assert np.trace(counts) == np.count_nonzero(kept & (verdicts.kinds == RIGHT))


def test_nothing_is_no_error() -> None:
    truth, matching = world([], [])
    verdicts = find_errors(matching)
    assert count_errors(matching, verdicts, np.zeros(0, dtype=bool)) == dict.fromkeys(ERROR_KINDS, 0)
    assert all(np.isnan(value) for value in gains(truth, matching).values())
    assert confuse(matching, verdicts, np.zeros(0, dtype=bool), [1, 2]).sum() == 0
