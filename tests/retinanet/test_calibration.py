"""Laws of the calibration: hand-worked bins, hotcoco's error, and a temperature that is found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reports.given_results import as_detections
from retinanet.evaluation.analysis import CalibrationBin, Figure
from retinanet.evaluation.calibration import FEWEST, HIGHEST, LOWEST, fit_temperature, measure_calibration
from retinanet.evaluation.coco_evaluator import ALL_AREAS, IMAGE, SCORE, evaluate_rows
from retinanet.evaluation.matching import IOU_50, match_all
from retinanet.evaluation.temperature import scale_scores, to_logits
from tests.judged_world import random_results, random_truth

ONE_IMAGE = np.ones((1, 1))


def test_bins_by_hand() -> None:
    scores = np.array([0.9, 0.85, 0.85, 0.5], dtype=np.float32)
    right = np.array([True, True, False, False])
    found = measure_calibration(scores, right, np.zeros(4, dtype=np.int64), ONE_IMAGE, None)
    # Above 0.8 up to 0.9: two of three right at a mean of 2.6 / 3; 0.5 belongs to (0.4, 0.5], none right.
    assert found.bins[8] == CalibrationBin(0.8, 0.9, 3, pytest.approx(2.6 / 3), pytest.approx(2 / 3))
    assert found.bins[4] == CalibrationBin(0.4, 0.5, 1, 0.5, 0.0)
    assert found.bins[0] == CalibrationBin(0.0, 0.1, 0, None, None)
    assert found.ece.value == pytest.approx((0.6 + 0.5) / 4)  # (|2.6 - 2| + |0.5 - 0|) / 4
    assert (found.temperature, found.ece_with_temperature, found.bins_with_temperature) == (None, Figure(None), [])


@pytest.mark.parametrize("seed", range(3))
def test_error_is_that_of_hotcoco(seed: int) -> None:
    truth = random_truth(seed)
    matching = match_all(truth, as_detections(truth, random_results(truth, seed)))
    evaluator = evaluate_rows(matching.ground_truth, matching.rows, max_detections=[100], area=ALL_AREAS)
    counted = ~matching.ignored[IOU_50]
    found = measure_calibration(
        matching.rows[counted, SCORE].astype(np.float32),
        matching.right[IOU_50][counted],
        matching.rows[counted, IMAGE].astype(np.int64) - 1,
        np.ones((1, len(truth["images"]))),
        None,
    )
    theirs = evaluator.calibration(n_bins=10, iou_threshold=0.5)
    assert found.ece.value == pytest.approx(theirs["ece"], abs=1e-6)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_temperature_of_scores_is_found_again(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 40_000)
    right = rng.random(len(logits)) < 1 / (1 + np.exp(-logits / temperature))
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    fitted = fit_temperature(scores, right)
    assert fitted == pytest.approx(temperature, rel=0.05)
    images = np.zeros(len(scores), dtype=np.int64)
    found = measure_calibration(scores, right, images, ONE_IMAGE, fitted)
    assert found.ece_with_temperature.value == pytest.approx(0.0, abs=0.015)
    # The mean of (right - p) * logit, the derivative of the likelihood, is 0 at its maximum.
    assert ((right - scale_scores(scores, fitted)) * to_logits(scores)).mean() == pytest.approx(0.0, abs=1e-6)


def test_scaling_keeps_the_order_and_one_half() -> None:
    scores = np.array([0.0, 1e-6, 0.2, 0.5, 0.500001, 0.9, 1.0], dtype=np.float32)
    for temperature in (0.3, 1.0, 4.0):
        scaled = scale_scores(scores, temperature)
        assert (np.diff(scaled) > 0).all()
        assert scaled[3] == 0.5
    np.testing.assert_allclose(scale_scores(scores, 1.0), scores, atol=2e-7)


def negative_log_likelihood(scores: np.ndarray, right: np.ndarray) -> float:
    inside = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)  # as to_logits
    return float(-np.log(np.where(right, inside, 1 - inside)).mean())


@given(st.lists(st.tuples(st.floats(0.0625, 1, width=32), st.booleans()), min_size=10, max_size=60))
def test_fit_never_raises_the_loss_on_its_own_detections(rows: list[tuple[float, bool]]) -> None:
    few = [(0.3, True)] * FEWEST + [(0.6, False)] * FEWEST
    scores, right = np.array([s for s, _ in rows + few], np.float32), np.array([r for _, r in rows + few])
    fitted = fit_temperature(scores, right)
    assert fitted is not None and LOWEST <= fitted <= HIGHEST
    inside = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    raw, scaled = (negative_log_likelihood(scale_scores(inside, t), right) for t in (1.0, fitted))
    assert scaled <= raw + 1e-9  # the section ends within 1e-12 of the minimum, and log rounds


def test_fit_on_under_confident_scores_lowers_the_error_on_them() -> None:
    # The odds that a detection is right are the square of the score's: as if T were 1 / 2.
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.05, 0.95, 5000).astype(np.float32)
    right = rng.random(5000) < scale_scores(scores, 0.5)
    found = measure_calibration(scores, right, np.zeros(5000, np.int64), ONE_IMAGE, fit_temperature(scores, right))
    assert found.temperature == pytest.approx(0.5, rel=0.05)
    assert found.ece.value is not None and found.ece_with_temperature.value is not None
    # The mean of |p - s| with s uniform is 0.105; that of ten bins of 500 which are calibrated is about 0.02.
    assert found.ece.value == pytest.approx(0.105, abs=0.015)
    assert found.ece_with_temperature.value < 0.03


def test_few_detections_give_no_temperature() -> None:
    scores = np.linspace(0.1, 0.9, 30, dtype=np.float32)
    assert fit_temperature(scores, scores > 0.7) is None  # nine are right
    assert fit_temperature(scores[:0], scores[:0] > 1) is None


def test_nothing_has_no_error() -> None:
    none = np.zeros(0, dtype=np.int64)
    found = measure_calibration(np.zeros(0, np.float32), none > 0, none, np.ones((3, 2)), 0.5)
    assert (found.ece, found.ece_with_temperature) == (Figure(None), Figure(None))
