"""Laws of temperature scaling: hand-worked scores, the order, thresholds that keep the same, and both twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retinanet.evaluation.temperature import scale_apart, scale_scores, scale_threshold
from retinanet.evaluation.working_point import WorkingPoint, WorkingPoints, choose_points, is_kept, list_candidates
from retinanet.inference.postprocess import logit
from retinanet.inference.temperature import calibrate_scores, demand_temperature, find_temperature, raw_threshold

Scores = NDArray[np.float32]

TEMPERATURES = st.floats(1 / 16, 16)  # those that the fit can give
# Neighbours in float32, above all near 1, where a low temperature makes most of them equal.
NEIGHBOURS = [np.float32(base) - np.float32(k * 2**-24) for base in (0.5, 0.9, 1.0) for k in range(4)]
ANY = st.sampled_from(NEIGHBOURS) | st.floats(0, 1, width=32).map(np.float32)
SCORES = st.lists(ANY, min_size=1, max_size=30).map(lambda values: np.sort(np.array(values, np.float32)))


def calibrate(scores: Scores, temperature: float) -> Scores:
    """As a detector returns them."""
    found: Scores = calibrate_scores(torch.from_numpy(scores), temperature).numpy()
    return found


def test_scores_by_hand() -> None:
    # The odds s / (1 - s) are raised to 1 / T: 4 for 0.8, so 16 at T = 1/2 and 2 at T = 2.
    scores = np.array([0.0, 0.5, 0.8, 1.0], dtype=np.float32)
    for temperature, expected in ((0.5, [0, 0.5, 16 / 17, 1]), (2.0, [0, 0.5, 2 / 3, 1]), (1.0, scores)):
        assert scale_scores(scores, temperature) == pytest.approx(expected, abs=1e-7)  # of 0.8 in float32
        assert calibrate(scores, temperature) == pytest.approx(expected, abs=1e-7)


@given(scores=SCORES, temperature=TEMPERATURES)
def test_order_is_kept_and_both_forms_agree(scores: Scores, temperature: float) -> None:
    found = calibrate(scores, temperature)
    assert found.dtype == np.float32
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    # Two libraries' logarithms, rounded to float32: at most neighbours.
    np.testing.assert_array_max_ulp(found, scale_scores(scores, temperature).astype(np.float32), maxulp=1)


@given(scores=SCORES, temperature=TEMPERATURES)
def test_scores_in_float64_are_equal_where_they_were_and_nowhere_else(scores: Scores, temperature: float) -> None:
    apart = scale_apart(scores, temperature)
    assert ((np.diff(apart) > 0) == (np.diff(scores) > 0)).all()
    assert (np.diff(apart) >= 0).all()
    assert ((apart >= 0) & (apart <= 1)).all()
    # Each of 30 equal scores is moved by one number of float64 at most, 2^-53 below 1.
    assert apart == pytest.approx(scale_scores(scores, temperature), abs=30 * 2**-53)


def test_scores_keep_their_places() -> None:
    scores = np.array([0.8, 0.2, 0.8, 0.5], dtype=np.float32)
    assert scale_apart(scores, 0.5) == pytest.approx([16 / 17, 1 / 17, 16 / 17, 0.5], abs=1e-6)
    assert len(scale_apart(scores[:0], 0.5)) == 0


@given(scores=SCORES, threshold=ANY, temperature=TEMPERATURES)
def test_calibrated_threshold_keeps_the_same_but_what_float32_makes_equal(
    scores: Scores, threshold: np.float32, temperature: float
) -> None:
    calibrated, raw = np.float32(scale_threshold(float(threshold), temperature)), scores > threshold
    found = scale_scores(scores, temperature).astype(np.float32)
    kept = found > calibrated
    assert not (kept & ~raw).any()
    assert (found[raw & ~kept] == calibrated).all()


@given(
    thousandths=st.lists(st.integers(51, 950), min_size=1, max_size=40),
    right=st.lists(st.booleans(), min_size=40, max_size=40),
    temperature=st.floats(0.3, 16),
)
def test_working_point_keeps_the_same_detections(thousandths: list[int], right: list[bool], temperature: float) -> None:
    # No two scores are so close that float32 makes them equal.
    scores = np.array(thousandths, dtype=np.float32) / np.float32(1000)
    candidates = list_candidates(scores, np.array(right[: len(scores)]), 50, lowest=0.05)
    description = {"working_point": {"overall": candidates, "classes": [candidates], "temperature": temperature}}
    labels, calibrated = np.zeros(len(scores), dtype=np.int64), calibrate(scores, temperature)
    for target in ("f1", {"precision": 0.5}, {"recall": 0.3}):
        points = choose_points(description, target)
        scaled = choose_points(description, target, temperature=temperature)
        assert (points is None) == (scaled is None)
        if points is not None and scaled is not None:
            kept = is_kept(scores, labels, points.thresholds)
            assert is_kept(calibrated, labels, scaled.thresholds).tolist() == kept.tolist()
            assert scaled.overall[1:] == points.overall[1:]


def test_class_without_a_point_stays_without() -> None:
    points = WorkingPoints(WorkingPoint(0.8, 1.0, 0.5, 2 / 3), [None, WorkingPoint(0.2, 0.5, 1.0, 2 / 3)])
    scaled = points.calibrated(0.5)
    assert scaled.classes[0] is None
    assert scaled.thresholds == pytest.approx([16 / 17, 1 / 17])
    assert points.thresholds == [0.8, 0.2]


@given(scores=SCORES, logits=st.lists(st.floats(-30, 30, width=32)), threshold=ANY, temperature=TEMPERATURES)
def test_raw_threshold_loses_nothing(
    scores: Scores, logits: list[float], threshold: np.float32, temperature: float
) -> None:
    raw = raw_threshold(float(threshold), temperature)
    assert not ((calibrate(scores, temperature) > threshold) & ~(scores.astype(np.float64) > raw)).any()
    values = torch.tensor(logits, dtype=torch.float32)  # as post-processing compares
    assert (values > logit(raw))[calibrate_scores(values.sigmoid(), temperature) > float(threshold)].all()


@given(threshold=st.floats(0.01, 0.9), temperature=st.floats(0.25, 2))
def test_raw_threshold_keeps_few_others(threshold: float, temperature: float) -> None:
    raw = torch.tensor(raw_threshold(threshold, temperature), dtype=torch.float64)
    # A margin m = 2^-22 of s is m (1 - s') / (1 - s) / T of the calibrated s', here below 6 m; s' itself has one, too.
    assert float(calibrate_scores(raw, temperature)) == pytest.approx(threshold, rel=7 * 2**-22)


def test_raw_threshold_without_a_temperature_is_the_threshold() -> None:
    assert raw_threshold(0.3, None) == 0.3


@pytest.mark.parametrize("description", [{}, {"working_point": None}, {"working_point": {"overall": {}}}])
def test_detector_of_an_older_version_or_imported_has_none_and_says_the_way_out(description: dict[str, Any]) -> None:
    for find in (find_temperature, demand_temperature):
        with pytest.raises(ValueError, match=r"imported or trained by an older version.*; train it .* to false"):
            find(description)


def test_detector_with_too_few_detections_on_val_has_none_and_says_why() -> None:
    description = {"working_point": {"temperature": None}}
    assert find_temperature(description) is None
    with pytest.raises(ValueError, match="fewer than 10 right or 10 wrong detections on val, so its scores cannot"):
        demand_temperature(description)
    assert demand_temperature({"working_point": {"temperature": 0.7}}) == 0.7
