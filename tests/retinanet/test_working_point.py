"""Laws of the working point: hand-worked cases, and a search over every threshold as reference."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet.evaluation.working_point import (
    Target,
    choose_point,
    choose_points,
    describe_target,
    is_kept,
    list_candidates,
    misses_target,
    parse_target,
)

LOWEST = 0.05


def candidates_of(*rows: tuple[float, bool], num_truths: int) -> dict[str, Any]:
    scores, right = np.array([score for score, _ in rows], np.float32), np.array([right for _, right in rows], bool)
    return list_candidates(scores, right, num_truths, lowest=LOWEST)


def test_candidates_and_choices_by_hand() -> None:
    # Above 0.85: 1 right of 1, P 1, R 1/4, F1 2/5. Above 0.65: 2 of 3, P 2/3, R 1/2, F1 4/7. Above 0.225, halfway from
    # the last score to LOWEST: 3 of 6, P 1/2, R 3/4, F1 6/10. At the wrong ones, 0.8, 0.6 and 0.5, no candidate ends.
    rows = [(0.9, True), (0.8, False), (0.7, True), (0.6, False), (0.5, False), (0.4, True)]
    found = candidates_of(*rows, num_truths=4)
    assert found["thresholds"] == pytest.approx([0.85, 0.65, 0.225])
    assert (found["true_positives"], found["false_positives"]) == ([1, 2, 3], [0, 1, 3])
    assert choose_point(found, "f1") == pytest.approx((0.225, 0.5, 0.75, 0.6))
    assert choose_point(found, {"precision": 0.6}) == pytest.approx((0.65, 2 / 3, 0.5, 4 / 7))
    assert choose_point(found, {"recall": 0.5}) == pytest.approx((0.65, 2 / 3, 0.5, 4 / 7))
    assert choose_point(found, {"recall": 0.51}) == pytest.approx((0.225, 0.5, 0.75, 0.6))


def test_equal_f1_takes_the_higher_threshold() -> None:
    # Above 0.65: P 1, R 1/2, F1 2/3. Above 0.225: 2 of 4, P 1/2, R 1, F1 2 * 2 / (4 + 2) = 2/3.
    found = candidates_of((0.9, True), (0.4, False), (0.4, False), (0.4, True), num_truths=2)
    point = choose_point(found, "f1")
    assert point == pytest.approx((0.65, 1.0, 0.5, 2 / 3))


def test_equal_scores_are_kept_or_dropped_together() -> None:
    found = candidates_of((0.5, True), (0.5, False), (0.5, True), num_truths=2)
    assert (found["true_positives"], found["false_positives"]) == ([2], [1])


def test_target_out_of_reach_takes_the_nearest() -> None:
    found = candidates_of((0.9, False), (0.8, True), (0.7, True), (0.6, False), num_truths=4)
    for target, expected in (({"precision": 0.9}, 2 / 3), ({"recall": 0.9}, 1 / 2)):
        point = choose_point(found, target)
        assert point is not None
        assert getattr(point, next(iter(target))) == pytest.approx(expected)
        assert misses_target(point, target)
        assert not misses_target(point, "f1")


@pytest.mark.parametrize(("rows", "num_truths"), [([], 3), ([(0.9, False)], 3), ([(0.9, False)], 0), ([], 0)])
def test_class_without_a_true_positive_has_no_point(rows: list[tuple[float, bool]], num_truths: int) -> None:
    found = candidates_of(*rows, num_truths=num_truths)
    assert found == {"num_truths": num_truths, "thresholds": [], "true_positives": [], "false_positives": []}
    assert choose_point(found, "f1") is None


def test_class_without_a_point_uses_the_overall_one() -> None:
    one, none = candidates_of((0.9, True), num_truths=1), candidates_of(num_truths=0)
    overall = candidates_of((0.6, True), num_truths=1)
    points = choose_points({"working_point": {"overall": overall, "classes": [none, one]}}, "f1")
    assert points is not None
    assert points.classes[0] is None
    assert points.thresholds == pytest.approx([0.325, 0.475])  # halfway to LOWEST


@pytest.mark.parametrize("description", [{}, {"working_point": None}])
def test_detector_of_an_older_file_has_no_points(description: dict[str, Any]) -> None:
    assert choose_points(description, "f1") is None


def test_detector_without_a_true_positive_has_no_points() -> None:
    none = candidates_of((0.9, False), num_truths=2)
    assert choose_points({"working_point": {"overall": none, "classes": [none, none]}}, "f1") is None


def brute_force(rows: list[tuple[np.float32, bool]], num_truths: int, target: Target) -> tuple[int, int] | None:
    """True and false positives of the best threshold among all scores, by the words of choose_point."""
    points = []
    for score in sorted({score for score, _ in rows}, reverse=True):
        kept = [right for other, right in rows if other >= score]
        if any(kept):
            points.append((sum(kept), len(kept) - sum(kept)))
    if not points:
        return None
    f1 = {point: 2 * point[0] / (sum(point) + num_truths) for point in points}
    if target == "f1":
        return max(points, key=f1.__getitem__)  # the first of equal ones, whose threshold is higher
    ((name, least),) = target.items()
    precision = {point: point[0] / sum(point) for point in points}
    recall = {point: point[0] / num_truths for point in points}
    wanted, other = (precision, recall) if name == "precision" else (recall, precision)
    enough = [point for point in points if wanted[point] >= least]
    if enough:
        return max(enough, key=lambda point: (other[point], wanted[point]))
    return max(points, key=lambda point: (wanted[point], other[point]))


# Few scores, and float32 neighbours, so that many are equal or next to each other.
NEIGHBOURS = [np.float32(0.5) + np.float32(k * 2**-24) for k in range(6)]
SCORES = st.sampled_from([np.float32(0.1), *NEIGHBOURS, np.float32(0.9)])
ROWS = st.lists(st.tuples(SCORES | st.floats(0.0625, 1, width=32).map(np.float32), st.booleans()), max_size=40)
HUNDREDTHS = st.integers(1, 100).map(lambda number: number / 100)
TARGETS = st.just("f1") | st.tuples(st.sampled_from(["precision", "recall"]), HUNDREDTHS).map(lambda pair: dict([pair]))


@given(rows=ROWS, missed=st.integers(0, 9), target=TARGETS)
def test_choice_is_that_of_a_search_over_all_thresholds(
    rows: list[tuple[np.float32, bool]], missed: int, target: Target
) -> None:
    num_truths = sum(right for _, right in rows) + missed
    point = choose_point(candidates_of(*rows, num_truths=num_truths), target)
    expected = brute_force(rows, num_truths, target)
    assert (point is None) == (expected is None)
    if point is not None and expected is not None:
        true, false = expected
        assert (point.precision, point.recall) == (true / (true + false), true / num_truths)
        kept = [right for score, right in rows if score > np.float32(point.threshold)]  # as predict filters
        assert (sum(kept), len(kept) - sum(kept)) == expected


@given(rows=ROWS, missed=st.integers(0, 9), least=st.floats(0.001, 1), name=st.sampled_from(["precision", "recall"]))
def test_target_between_hundredths_is_reached_wherever_it_can_be(
    rows: list[tuple[np.float32, bool]], missed: int, least: float, name: str
) -> None:
    num_truths = sum(right for _, right in rows) + missed
    point = choose_point(candidates_of(*rows, num_truths=num_truths), {name: least})
    best = brute_force(rows, num_truths, {name: 1.0})
    if point is not None and best is not None:
        highest = best[0] / (sum(best) if name == "precision" else num_truths)
        assert (getattr(point, name) >= least) == (highest >= least)


def test_candidates_of_many_detections_are_few_and_no_other_beats_them() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20000).astype(np.float32)
    found = list_candidates(scores, rng.random(20000) < scores**2, 9000, lowest=0.0)
    true, false = np.array(found["true_positives"]), np.array(found["false_positives"])
    assert 50 < len(true) <= 203
    assert (np.diff(found["thresholds"]) < 0).all()
    assert (np.diff(true) > 0).all()
    assert all(after < before for before, after in pairwise(true / (true + false)))


def test_detection_is_kept_above_the_threshold_of_its_class() -> None:
    scores = np.array([0.5, 0.6, 0.6, 0.3], np.float32)
    labels = np.array([0, 0, 1, 1])
    assert is_kept(scores, labels, [0.5, float(np.float32(0.6))]).tolist() == [False, True, False, False]


def test_targets_are_read_from_text_and_described() -> None:
    assert parse_target("f1") == "f1"
    assert parse_target("precision=0.9") == {"precision": 0.9}
    assert describe_target("f1") == "best F1"
    assert describe_target({"recall": 0.8}) == "recall of at least 0.8"
    for text in ("f2", "precision", "precision=", "precision=0", "recall=1.5", "recall=nan", "f1=0.5"):
        with pytest.raises(ValueError, match=f"the working point is '{text}'; expected f1, or precision=P"):
            parse_target(text)
